"""Rows that a sentence gives: words by characters, whatever the tokenizer; padding and special tokens never."""

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from xbridge.activations.encoder import Encoder
from xbridge.activations.reading import pieces_of_words, read, restrict
from xbridge.core.errors import UserError
from xbridge.data.languages import language
from xbridge.data.words import word_spans
from xbridge.similarity import cka_matrix

ROUNDING = 1e-6  # of float32 states, in other batches and widths


@pytest.fixture(scope="module")
def encoders(tiny_model, tiny_roberta, tiny_llama, tiny_t5):
    paths = {"mbart": tiny_model, "roberta": tiny_roberta, "llama": tiny_llama, "t5": tiny_t5}
    return {name: Encoder.open(path) for name, path in paths.items()}


TEXTS = {
    "eng_Latn": ["turn on the light", "no", "is the kitchen window open now"],
    "deu_Latn": ["mach das Licht an", "bitte öffne die Tür"],
    "zho_Hans": ["打开灯", "厨房的窗户现在开着吗"],
}
WORDS = {"eng_Latn": [4, 1, 6], "deu_Latn": [4, 4], "zho_Hans": [3, 10]}


def units(encoder, lang, kind):
    """Readings and, by site, their rows."""
    readings = read(encoder, TEXTS[lang], lang, kind)
    sites = encoder.choose_sites(None)
    rows = encoder.pooled([r.row for r in readings], sites, "mean", 2, units=[r.units for r in readings])
    return readings, rows


def states_of(encoder, row):
    """(sites, time, d) of one sentence alone, straight from the model."""
    whole = encoder.model
    part = whole.get_encoder() if whole.config.is_encoder_decoder else whole
    with torch.no_grad():
        return torch.cat(part(input_ids=torch.tensor([row.tokens]), output_hidden_states=True).hidden_states)


@pytest.mark.parametrize("lang", TEXTS)
def test_models_with_other_tokenizers_have_the_same_words(encoders, lang):
    found = {name: [r.numbers for r in read(encoder, TEXTS[lang], lang, "words")] for name, encoder in encoders.items()}
    pieces = {name: [len(r.row.tokens) for r in read(e, TEXTS[lang], lang, "words")] for name, e in encoders.items()}
    assert pieces["mbart"] != pieces["roberta"]
    assert all(numbers == found["mbart"] for numbers in found.values())
    assert [len(numbers) for numbers in found["mbart"]] == WORDS[lang]


@pytest.mark.parametrize("name", ["mbart", "roberta", "llama", "t5"])
@pytest.mark.parametrize("lang", TEXTS)
def test_a_words_row_is_the_mean_of_its_pieces_states(encoders, name, lang):
    encoder = encoders[name]
    readings, rows = units(encoder, lang, "words")
    expected = []
    for text, reading in zip(TEXTS[lang], readings, strict=True):
        encoded = encoder.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        tokens = encoder.tokenizer.convert_ids_to_tokens(encoded["input_ids"])
        states = states_of(encoder, reading.row)
        for start, stop in word_spans(text, language(lang)):
            own = [
                states[:, reading.row.start + position]
                for position, (first, last) in enumerate(encoded["offset_mapping"])
                if first < stop and start < last and tokens[position] != "▁"
            ]
            total = torch.zeros_like(own[0])
            for state in own:
                total += state
            expected.append(total / len(own))
    expected = torch.stack(expected, dim=1)
    for n, site in enumerate(encoder.choose_sites(None)):
        assert (rows[site] - expected[n]).abs().max() <= ROUNDING * expected[n].abs().max()


@pytest.mark.parametrize("name", ["mbart", "roberta", "llama", "t5"])
def test_tokens_are_the_positions_of_the_text_without_special_ones(encoders, name):
    encoder = encoders[name]
    readings, rows = units(encoder, "eng_Latn", "tokens")
    expected = torch.cat([states_of(encoder, r.row)[:, r.row.start : r.row.stop] for r in readings], dim=1)
    assert sum(len(r.numbers) for r in readings) == expected.shape[1]
    for n, site in enumerate(encoder.choose_sites(None)):
        assert (rows[site] - expected[n]).abs().max() <= ROUNDING * expected[n].abs().max()


@pytest.mark.parametrize("name", ["mbart", "t5"])
def test_at_decoder_sites_words_are_those_that_the_decoder_reads(encoders, name):
    encoder = encoders[name]
    readings = read(encoder, TEXTS["eng_Latn"], "eng_Latn", "words")
    found = encoder.pooled(
        [r.row for r in readings], ["decoder.1"], "mean", 8, units=[r.units for r in readings]
    )["decoder.1"]  # fmt: skip
    expected = []
    for reading in readings:
        prefix = encoder.conventions.target("eng_Latn")[0]
        decoder = [*prefix, *reading.row.tokens[reading.row.start : reading.row.stop]]
        with torch.no_grad():
            output = encoder.model(
                input_ids=torch.tensor([reading.row.tokens]), decoder_input_ids=torch.tensor([decoder]),
                output_hidden_states=True,
            )  # fmt: skip
        states = output.decoder_hidden_states[1][0]
        expected += [states[[len(prefix) + p for p in unit]].mean(dim=0) for unit in reading.units]
    expected = torch.stack(expected)
    assert (found - expected).abs().max() <= ROUNDING * expected.abs().max()


@pytest.mark.parametrize("kind", ["words", "tokens", "mean"])
@pytest.mark.parametrize("name", ["mbart", "roberta", "llama", "t5"])
def test_padding_to_the_longest_or_far_beyond_changes_nothing(encoders, name, kind):
    encoder = encoders[name]
    width = 512 if name == "t5" else encoder.max_tokens  # as far as the model has positions
    texts = [text for lang in ("eng_Latn", "deu_Latn") for text in TEXTS[lang] * 2]
    readings = read(encoder, texts, "eng_Latn", kind)
    sites = encoder.choose_sites(["*.*", "*.*.*"])
    own = None if kind == "mean" else [r.units for r in readings]
    rows = [r.row for r in readings]
    tight, wide = (encoder.pooled(rows, sites, "mean", 3, pad_to, units=own) for pad_to in (0, width))
    for site in sites:
        assert (tight[site] - wide[site]).norm() <= ROUNDING * tight[site].norm(), site
    # the embeddings are left out: few of their rows differ, so that CKA divides by little
    later = [site for site in sites if not site.endswith(".0")]
    values = [cka_matrix({site: states[site] for site in later}) for states in (tight, wide)]
    assert np.abs(values[0] - values[1]).max() <= 1e-6


def test_words_that_are_cut_off_are_absent_and_the_sentence_counts_as_cut(encoders):
    encoder = encoders["roberta"]
    assert encoder.max_tokens == 42
    texts = ["light " * 30, "kitchen window"]
    long, short = read(encoder, texts, "eng_Latn", "words")
    offsets = encoder.tokenizer(texts[0], add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    last_character = offsets[41][1]
    spans = word_spans(texts[0], language("eng_Latn"))
    whole = [n for n, (_, stop) in enumerate(spans) if stop <= last_character]
    assert list(long.numbers) == whole
    assert 0 < len(whole) < 30
    assert (long.is_cut, short.is_cut) == (True, False)
    assert len(long.row.tokens) == 44


def test_an_empty_text_has_no_word_and_no_token_but_one_row_as_a_sentence(encoders):
    for kind in ("words", "tokens"):
        empty, spaces, one = read(encoders["mbart"], ["", "  ", "no"], "eng_Latn", kind)
        assert (len(empty.numbers), len(empty.units)) == (0, 0)
        assert len(spaces.numbers) == (0 if kind == "words" else 2)
        assert one.numbers[0] == 0
    (empty,) = read(encoders["mbart"], [""], "eng_Latn", "mean")
    assert empty.row.stop - empty.row.start == 1


def test_a_sentence_without_rows_stands_among_others(encoders):
    readings = read(encoders["roberta"], ["", "no", "", "turn on"], "eng_Latn", "words")
    rows = encoders["roberta"].pooled(
        [r.row for r in readings], ["encoder.2"], "mean", 8, units=[r.units for r in readings]
    )
    alone = read(encoders["roberta"], ["no", "turn on"], "eng_Latn", "words")
    expected = encoders["roberta"].pooled(
        [r.row for r in alone], ["encoder.2"], "mean", 8, units=[r.units for r in alone]
    )
    torch.testing.assert_close(rows["encoder.2"], expected["encoder.2"])
    assert len(rows["encoder.2"]) == 3


def test_without_an_unknown_token_an_empty_sentence_is_refused(tiny_llama):
    encoder = Encoder.open(tiny_llama)
    encoder.tokenizer = PreTrainedTokenizerFast(tokenizer_object=encoder.tokenizer.backend_tokenizer, pad_token="<pad>")
    with pytest.raises(UserError, match=r"a text in eng_Latn is empty .*remove empty texts"):
        read(encoder, ["no", ""], "eng_Latn", "mean")
    assert [r.numbers for r in read(encoder, ["no", ""], "eng_Latn", "words")] == [(0,), ()]


def test_a_tokenizer_without_offsets_is_named_with_what_to_do(tmp_path):
    from transformers import BertConfig, BertModel
    from transformers.models.bert_japanese import BertJapaneseTokenizer

    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]))
    tokenizer = BertJapaneseTokenizer(str(tmp_path / "vocab.txt"), word_tokenizer_type="basic")
    model = BertModel(
        BertConfig(vocab_size=7, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    )
    encoder = Encoder(model, tokenizer, tmp_path)
    with pytest.raises(UserError, match=r"BertJapaneseTokenizer does not tell; give a fast tokenizer .*or pool tokens"):
        read(encoder, ["a b"], "eng_Latn", "words")
    assert [r.numbers for r in read(encoder, ["a b"], "eng_Latn", "tokens")] == [(0, 1)]


@pytest.mark.parametrize(
    ("words", "offsets", "marks", "pieces"),
    [
        # "ab cd" as "▁a" "b" "▁cd", the last with its space
        ([(0, 2), (3, 5)], [(0, 1), (1, 2), (2, 5)], (), [(0, 1), (2,)]),
        # a bare mark over the first character, one piece for two words, a word that no piece covers
        ([(0, 1), (1, 2), (2, 3)], [(0, 1), (0, 2)], (0,), [(1,), (1,), ()]),
        # a word of nothing but a mark keeps it
        ([(0, 1)], [(0, 1)], (0,), [(0,)]),
        # the bytes of one character, a piece without characters, and two words apart by more than a space
        ([(0, 1), (4, 6)], [(0, 1), (0, 1), (2, 2), (4, 4), (4, 6)], (), [(0, 1), (4,)]),
    ],
)
def test_pieces_belong_to_the_words_whose_characters_they_cover(words, offsets, marks, pieces):
    assert pieces_of_words(words, offsets, marks) == pieces


def test_a_restricted_reading_keeps_the_rows_that_are_wanted(encoders):
    (reading,) = read(encoders["mbart"], ["turn on the light"], "eng_Latn", "words")
    fewer = restrict(reading, {1, 3, 9})
    assert fewer.numbers == (1, 3)
    assert fewer.units == [reading.units[1], reading.units[3]]
    assert fewer.row == reading.row
