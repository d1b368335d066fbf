"""Extraction: the right positions of the right sentences, whatever the batch, the padding and the row order."""

import pytest
import torch

from xbridge.activations import extract
from xbridge.activations.encoder import Encoder, model_folder, word_spans
from xbridge.activations.store import ActivationStore
from xbridge.core.config import parse
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import read_rows, write_table


@pytest.fixture(scope="module")
def encoder(tiny_model):
    return Encoder.open(tiny_model)


def run(tiny_model, sentences, out, **settings):
    config = parse(extract.Config, settings)
    extract.run(config, extract.Inputs(model=tiny_model, sentences=sentences), out)
    return ActivationStore(out)


def by_hand(encoder, text, lang):
    """States of one sentence alone, straight from the model: (sites, time, d)."""
    ids = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    row = torch.tensor([[encoder.conventions.languages[lang], *ids, 2]])
    with torch.no_grad():
        output = encoder.model.model.encoder(input_ids=row, output_hidden_states=True)
    return torch.cat(output.hidden_states)


def test_rows_are_the_mean_over_the_text_without_language_code_and_end(tiny_model, encoder, corpus, tmp_path):
    store = run(tiny_model, corpus, tmp_path / "out")
    assert store.sites == ("encoder.0", "encoder.1", "encoder.2")
    for row in read_rows(corpus / "nway.parquet"):
        expected = by_hand(encoder, row["text"], row["lang"])[:, 1:-1].mean(dim=1)
        i = store.ids(row["lang"]).index(row["id"])
        found = torch.stack([store.load(row["lang"], site)[i] for site in store.sites])
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize(("pooling", "position"), [("first", 0), ("last", -1)])
def test_first_and_last_take_the_special_positions(tiny_model, encoder, corpus, tmp_path, pooling, position):
    store = run(tiny_model, corpus, tmp_path / "out", pooling=pooling, languages=["deu_Latn"])
    expected = by_hand(encoder, "bitte öffne die Tür", "deu_Latn")[-1, position]
    i = store.ids("deu_Latn").index("s1")
    torch.testing.assert_close(store.load("deu_Latn", "encoder.2")[i], expected, atol=2e-6, rtol=0)


def test_padding_does_not_matter(encoder):
    rows = encoder.rows(["turn on the light", "no"], "eng_Latn")
    tight = encoder.pooled(rows, encoder.sites, "mean", 2)
    wide = encoder.pooled(rows, encoder.sites, "mean", 2, pad_to=64)
    for site in encoder.sites:
        assert (tight[site] - wide[site]).abs().max() <= 1e-6


def test_the_batch_size_does_not_matter(tiny_model, corpus, tmp_path):
    stores = [run(tiny_model, corpus, tmp_path / str(size), batch_size=size) for size in (1, 3, 50)]
    for lang in stores[0].languages:
        for site in stores[0].sites:
            first, *others = (store.load(lang, site) for store in stores)
            assert all((other - first).abs().max() <= 1e-6 for other in others)


def test_a_second_run_is_identical_to_the_byte(tiny_model, corpus, tmp_path):
    run(tiny_model, corpus, tmp_path / "1")
    run(tiny_model, corpus, tmp_path / "2")
    for file in (p for p in (tmp_path / "1").rglob("*") if p.is_file()):
        assert file.read_bytes() == (tmp_path / "2" / file.relative_to(tmp_path / "1")).read_bytes()


def test_n_way_rows_are_aligned_by_id_whatever_the_order_in_the_file(tiny_model, corpus, tmp_path):
    store = run(tiny_model, corpus, tmp_path / "out")
    assert store.ids("eng_Latn") == store.ids("deu_Latn") == store.ids("zho_Hans") == ["s0", "s1", "s2", "s3"]
    assert store.labels("eng_Latn") is None


def test_a_sample_has_the_same_ids_in_every_language(tiny_model, corpus, tmp_path):
    store = run(tiny_model, corpus, tmp_path / "out", max_sentences=2, sites=["encoder.1"])
    assert len(store.ids("eng_Latn")) == 2
    assert store.ids("eng_Latn") == store.ids("deu_Latn") == store.ids("zho_Hans")
    assert store.sites == ("encoder.1",)


def test_examples_keep_their_labels_and_only_the_test_split(tiny_model, tmp_path):
    rows = [
        {"id": f"{split}-{i}", "split": split, "lang": "deu_Latn", "text": "mach das Licht an", "label": f"l{i}"}
        for split in ("train", "test")
        for i in range(3)
    ]
    write_table(tmp_path / "examples.parquet", rows)
    store = run(tiny_model, tmp_path, tmp_path / "out", table="examples")
    assert store.ids("deu_Latn") == ["test-0", "test-1", "test-2"]
    assert store.labels("deu_Latn") == ["l0", "l1", "l2"]


def test_a_language_that_the_table_or_the_tokenizer_lacks_is_named(tiny_model, corpus, tmp_path):
    with pytest.raises(UserError, match=r"nway\.parquet: has no sentences in fra_Latn; it has eng_Latn, "):
        run(tiny_model, corpus, tmp_path / "out", languages=["fra_Latn"])
    write_table(tmp_path / "other" / "nway.parquet", [{"id": "1", "lang": "fra_Latn", "text": "oui"}])
    with pytest.raises(UserError, match="fra_Latn: the tokenizer has no token for this language"):
        run(tiny_model, tmp_path / "other", tmp_path / "out")


def test_in_a_table_of_pairs_the_pivot_has_the_sampled_partners_of_every_language(tiny_model, tmp_path):
    rows = [{"id": str(i), "lang": "eng_Latn", "text": f"yes {i}"} for i in range(8)]
    rows += [{"id": str(i), "lang": "deu_Latn", "text": f"ja {i}"} for i in range(8)]
    write_table(tmp_path / "nway.parquet", [*rows[:-3], {"id": "99", "lang": "eng_Latn", "text": "alone"}])
    store = run(tiny_model, tmp_path, tmp_path / "out", max_sentences=3)
    assert len(store.ids("deu_Latn")) == 3
    assert store.ids("eng_Latn") == store.ids("deu_Latn")


def test_a_wrong_table_and_a_wrong_site_are_named(tiny_model, corpus, tmp_path):
    with pytest.raises(UserError, match="table examples is written by `xbridge taskdata`"):
        run(tiny_model, corpus, tmp_path / "out", table="examples")
    with pytest.raises(ConfigError, match=r"sites: the model has no site 'encoder\.9'"):
        run(tiny_model, corpus, tmp_path / "out", sites=["encoder.9"])


def test_a_folder_without_model_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no model"):
        model_folder(tmp_path)


def test_long_texts_are_cut_and_empty_ones_are_one_unknown_token(encoder):
    long, empty = encoder.rows(["no " * 100, ""], "eng_Latn")
    assert len(long.tokens) == 64
    assert long.stop - long.start == encoder.max_tokens == 62
    assert empty.tokens == [encoder.conventions.languages["eng_Latn"], 3, 2]


def test_decoder_end_is_the_state_that_predicts_the_end(encoder):
    rows = encoder.rows(["no", "turn on the light"], "eng_Latn")
    with torch.no_grad():
        found = encoder.decoder_end(encoder.batch(rows))
        for row, state in zip(rows, found, strict=True):
            decoder = [2, *row.tokens[:-1]]  # </s> [lang] X
            output = encoder.model.model(
                input_ids=torch.tensor([row.tokens]), decoder_input_ids=torch.tensor([decoder])
            )
            torch.testing.assert_close(state, output.last_hidden_state[0, -1], atol=2e-6, rtol=0)


def test_words_are_found_by_their_characters():
    # "ab cd": pieces "▁a" (0-1), "b" (1-2), "▁cd" (2-5); counted from position 1.
    assert word_spans(["ab", "cd"], 1, [(0, 1), (1, 2), (2, 5)], 1) == {0: (1, 2), 1: (3, 3)}
    # unspaced "甲乙丙": a bare boundary mark (0-1), one piece for two words (0-2), the third word cut off.
    assert word_spans(["甲", "乙", "丙"], 0, [(0, 1), (0, 2)], 1) == {0: (2, 2), 1: (2, 2)}
