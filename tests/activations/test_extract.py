"""Extraction: the right positions of the right sentences, whatever the batch, the padding and the row order."""

import pytest
import torch
from extracting import run

from xbridge.activations import extract
from xbridge.activations.encoder import Encoder, model_folder, word_spans
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import read_rows, write_table


@pytest.fixture(scope="module")
def encoder(tiny_model):
    return Encoder.open(tiny_model)


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


def test_decoder_and_sublayer_sites_are_chosen_by_pattern(tiny_model, encoder, corpus, tmp_path):
    store = run(tiny_model, corpus, tmp_path / "out", sites=["decoder.*", "encoder.*.feed_forward"])
    assert store.sites == ("decoder.0", "decoder.1", "decoder.2", "encoder.1.feed_forward", "encoder.2.feed_forward")
    ids = encoder.tokenizer("bitte öffne die Tür", add_special_tokens=False)["input_ids"]
    lang = encoder.conventions.languages["deu_Latn"]
    with torch.no_grad():
        output = encoder.model(
            input_ids=torch.tensor([[lang, *ids, 2]]), decoder_input_ids=torch.tensor([[2, lang, *ids]]),
            output_hidden_states=True,
        )  # fmt: skip
    i = store.ids("deu_Latn").index("s1")
    for n, hidden in enumerate(output.decoder_hidden_states):
        expected = hidden[0, 2:].mean(dim=0)
        torch.testing.assert_close(store.load("deu_Latn", f"decoder.{n}")[i], expected, atol=2e-6, rtol=0)


def test_the_decoder_can_read_the_translation(tiny_model, encoder, corpus, tmp_path):
    settings = {"sites": ["encoder.2", "decoder.2"], "languages": ["deu_Latn"]}
    store = run(tiny_model, corpus, tmp_path / "out", decoder_language="eng_Latn", **settings)
    german, english = (
        encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in ("bitte öffne die Tür", "open the door please")
    )
    languages = encoder.conventions.languages
    with torch.no_grad():
        output = encoder.model.model(
            input_ids=torch.tensor([[languages["deu_Latn"], *german, 2]]),
            decoder_input_ids=torch.tensor([[2, languages["eng_Latn"], *english]]),
        )
    i = store.ids("deu_Latn").index("s1")
    expected = output.last_hidden_state[0, 2:].mean(dim=0)
    torch.testing.assert_close(store.load("deu_Latn", "decoder.2")[i], expected, atol=2e-6, rtol=0)
    expected = output.encoder_last_hidden_state[0, 1:-1].mean(dim=0)
    torch.testing.assert_close(store.load("deu_Latn", "encoder.2")[i], expected, atol=2e-6, rtol=0)


def test_words_that_the_decoder_reads_are_the_translations(tiny_model, corpus, tmp_path):
    settings = {"sites": ["decoder.2"], "pooling": "words", "languages": ["zho_Hans"]}
    store = run(tiny_model, corpus, tmp_path / "out", decoder_language="eng_Latn", **settings)
    assert store.ids("zho_Hans")[:4] == ["s0:0", "s0:1", "s0:2", "s0:3"]  # turn on the light
    assert len(store.ids("zho_Hans")) == 4 + 4 + 1 + 6


def test_a_translation_that_cannot_be_read_is_named(tiny_model, tiny_roberta, corpus, tmp_path):
    bad = [
        ({"sites": ["encoder.0"]}, tiny_model, "decoder_language: needs an encoder-decoder, and a site of its decoder"),
        ({"languages": ["deu_Latn"]}, tiny_roberta, "decoder_language: needs an encoder-decoder"),
        ({"sites": ["*.1"], "pooling": "words"}, tiny_model, "sites: encoder and decoder read different texts, with"),
    ]
    for settings, model, message in bad:
        with pytest.raises(ConfigError, match=message):
            run(model, corpus, tmp_path / "out", decoder_language="eng_Latn", **settings)
    with pytest.raises(ConfigError, match="decoder_language: needs table nway"):
        extract.Config(table="examples", decoder_language="eng_Latn")
    rows = read_rows(corpus / "nway.parquet")
    lacking = [row for row in rows if (row["lang"], row["id"]) != ("eng_Latn", "s2")]
    write_table(tmp_path / "lacking" / "nway.parquet", lacking)
    with pytest.raises(UserError, match="sentence s2 of deu_Latn has no translation in eng_Latn"):
        run(tiny_model, tmp_path / "lacking", tmp_path / "out", decoder_language="eng_Latn", languages=["deu_Latn"],
            sites=["decoder.1"])  # fmt: skip


@pytest.mark.parametrize("model", ["tiny_roberta", "tiny_llama", "tiny_t5"])
def test_models_without_language_tokens_are_read_in_any_language(model, request, corpus, tmp_path):
    store = run(request.getfixturevalue(model), corpus, tmp_path / "out")
    stack = "decoder" if model == "tiny_llama" else "encoder"
    assert store.sites == (f"{stack}.0", f"{stack}.1", f"{stack}.2")
    opened = Encoder.open(request.getfixturevalue(model))
    for row in read_rows(corpus / "nway.parquet"):
        ids = opened.tokenizer(row["text"])["input_ids"]
        text = slice(0 if model == "tiny_t5" else 1, len(ids) - (0 if model == "tiny_llama" else 1))
        part = opened.model.get_encoder() if model == "tiny_t5" else opened.model
        with torch.no_grad():
            hidden = part(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        i = store.ids(row["lang"]).index(row["id"])
        for n, site in enumerate(store.sites):
            expected = hidden[n][0, text].mean(dim=0)
            torch.testing.assert_close(store.load(row["lang"], site)[i], expected, atol=1e-5, rtol=1e-5)


def test_two_models_with_other_tokenizers_store_the_same_words(tiny_model, tiny_roberta, corpus, tmp_path):
    a = run(tiny_model, corpus, tmp_path / "a", pooling="words")
    b = run(tiny_roberta, corpus, tmp_path / "b", pooling="words")
    for lang in a.languages:
        assert a.ids(lang) == b.ids(lang)
    assert a.ids("eng_Latn")[:5] == ["s0:0", "s0:1", "s0:2", "s0:3", "s1:0"]
    assert (a.dim, b.dim) == (32, 24)
    assert a.load("zho_Hans", "encoder.1").shape == (3 + 3 + 1 + 10, 32)


def test_words_have_the_labels_of_their_sentences(tiny_model, tmp_path):
    rows = [
        {"id": str(i), "split": "test", "lang": "eng_Latn", "text": text, "label": label}
        for i, (text, label) in enumerate([("turn on", "light"), ("open", "door")])
    ]
    write_table(tmp_path / "examples.parquet", rows)
    store = run(tiny_model, tmp_path, tmp_path / "out", table="examples", pooling="words")
    assert (store.ids("eng_Latn"), store.labels("eng_Latn")) == (["0:0", "0:1", "1:0"], ["light", "light", "door"])
