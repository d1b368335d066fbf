"""The tokenizer stage against sentencepiece itself, on toy text in three scripts and on real strings where present."""

import random
import re
from pathlib import Path

import pytest

from xbridge.core.config import parse
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import read_json, sha256_of_path, write_json, write_table
from xbridge.data import tokenizer as stage
from xbridge.data.textfiles import read_lines

HERE = Path(__file__).resolve()
TATOEBA = HERE.parents[3] / "shared" / "data" / "tatoeba"


@pytest.fixture(scope="module")
def texts(toy_rows):
    by_language = {code: [row[code] for row in toy_rows] for code in toy_rows[0]}
    draw = random.Random(0)
    for code, letters in (
        ("eng_Latn", "abdeghiklmnorstuwz"),
        ("deu_Latn", "abdefghiklmnrstuzü"),
        ("rus_Cyrl", "абвгдежзиклмнорсту"),
    ):
        lexicon = ["".join(draw.choices(letters, k=draw.randint(2, 7))) for _ in range(120)]
        by_language[code] = by_language[code] + [" ".join(draw.choices(lexicon, k=5)) for _ in range(200)]
    by_language["zho_Hans"] = [f"{a}{b}{{}},{c}。" for a in "打关开" for b in "灯门窗" for c in "早中晚今明"]
    return by_language


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("corpus")
    rows = [{"split": "train", "lang": code, "text": t} for code, all_of_it in texts.items() for t in all_of_it]
    rows.append({"split": "test", "lang": "deu_Latn", "text": "Ωμέγα"})
    write_table(folder / "mono.parquet", rows)
    write_json(folder / "card.json", {"languages": {code: {} for code in texts}})
    return folder


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("tokenizer")
    run(out, corpus)
    return out


def run(out, corpus, **settings):
    settings = {"vocab_size": 200, "character_coverage": 1.0, "extra_languages": ["fin_Latn"], **settings}
    stage.run(parse(stage.Config, settings), stage.Inputs(corpus=corpus), out)


@pytest.fixture(scope="module")
def loaded(trained):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(trained / "tokenizer"))


def test_special_tokens_have_the_ids_of_mbart_and_codes_follow_the_mask(loaded):
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "eng_Latn", "deu_Latn", "rus_Cyrl", "zho_Hans", "fin_Latn"]
    assert loaded.convert_tokens_to_ids(tokens) == [0, 1, 2, 3, 200, 201, 202, 203, 204, 205]
    assert len(loaded) == 206
    assert loaded.pad_token_id == 1
    assert loaded.mask_token_id == 200
    assert {"eng_Latn", "fin_Latn", "<mask>"} <= set(loaded.all_special_tokens)


def test_a_language_code_is_one_token_and_is_skipped_in_decoding(loaded):
    ids = loaded("deu_Latn öffne heute", add_special_tokens=False)["input_ids"]
    assert ids[0] == loaded.convert_tokens_to_ids("deu_Latn")
    assert loaded.decode(ids, skip_special_tokens=True).strip() == "öffne heute"


def test_nothing_is_added_around_a_text(loaded):
    assert loaded("open the door")["input_ids"] == loaded("open the door", add_special_tokens=False)["input_ids"]


def test_case_is_folded_and_known_text_survives_a_round_trip(loaded, texts):
    assert loaded.tokenize("OPEN the  Door") == loaded.tokenize("open the door")
    for code in ("eng_Latn", "rus_Cyrl"):
        for text in texts[code][::20]:
            assert loaded.decode(loaded(text)["input_ids"]) == text.lower()


def test_a_placeholder_is_a_piece_of_its_own(loaded):
    assert "{}" in loaded.tokenize("打灯{},早。")
    assert loaded.convert_tokens_to_ids("{}") == 4


def mismatches(train_texts, probe, **settings):
    import sentencepiece as spm

    config = parse(stage.Config, settings)
    model = stage.train_sentencepiece(train_texts, config)
    reference = spm.SentencePieceProcessor(model_proto=model)
    fold = stage.normalizer(lowercase=config.lowercase)
    fast = stage.fast_tokenizer(model, lowercase=config.lowercase)
    ids = [encoding.ids for encoding in fast.encode_batch(list(probe))]
    return [t for t, found in zip(probe, ids, strict=True) if found != reference.encode(fold.normalize_str(t))]


@pytest.mark.parametrize("lowercase", [True, False])
def test_ids_are_those_of_sentencepiece(texts, lowercase):
    everything = [text for all_of_it in texts.values() for text in all_of_it]
    odd = [
        "",
        " ",
        "unseen ☃ snow",
        "{}{}",
        "{} {}s",
        "ＡＢＣ ﬁ",
        "Ünïcödé\u00a0x",
        "ΑΒΓ ß ẞ",
        "a\tb\nc",
        "灯 door окно",
    ]
    settings = {"vocab_size": 200, "character_coverage": 1.0, "lowercase": lowercase}
    assert mismatches(everything, everything + odd, **settings) == []


def test_ids_are_those_of_sentencepiece_on_real_sentences():
    if not TATOEBA.is_dir():
        pytest.skip("../shared/data/tatoeba is not here")
    lines = []
    for path in sorted(TATOEBA.glob("*.gz")):
        lines += list(read_lines(path))[:250]
    assert len(lines) > 2000
    assert mismatches(lines, lines, vocab_size=3000, character_coverage=0.999) == []


def test_the_same_corpus_gives_the_same_files(corpus, trained, tmp_path):
    run(tmp_path, corpus)
    assert sha256_of_path(tmp_path) == sha256_of_path(trained)


def test_another_seed_draws_other_texts(texts):
    first, second = (stage._sample(texts, 20, seed) for seed in (0, 1))
    assert len(first) == len(second) == 20 * len(texts)
    assert first != second


def test_the_card_counts_tokens_and_unknowns(trained, texts, loaded):
    card = read_json(trained / "card.json")
    assert card["vocab_size"] == 206
    english = card["languages"]["eng_Latn"]
    ids = [loaded(text)["input_ids"] for text in texts["eng_Latn"]]
    assert english["tokens_per_text"] == pytest.approx(sum(map(len, ids)) / len(ids))
    assert english["tokens_per_word"] == pytest.approx(
        sum(map(len, ids)) / sum(len(t.split()) for t in texts["eng_Latn"])
    )
    assert english["unknown_rate"] == 0
    assert card["languages"]["zho_Hans"]["tokens_per_word"] is None


def test_characters_that_are_not_covered_are_counted_as_unknown(corpus, tmp_path):
    # of 288 German sentences, coverage .98 leaves out the rarest letters
    run(tmp_path, corpus, character_coverage=0.98)
    assert read_json(tmp_path / "card.json")["languages"]["rus_Cyrl"]["unknown_rate"] > 0


def test_a_pretrained_tokenizer_is_taken_with_the_missing_codes_behind_it(corpus, trained, tmp_path):
    from transformers import AutoTokenizer

    pretrained = str(trained / "tokenizer")
    run(tmp_path, corpus, pretrained=pretrained, extra_languages=["fin_Latn", "hun_Latn"])
    found = AutoTokenizer.from_pretrained(str(tmp_path / "tokenizer"))
    assert found.convert_tokens_to_ids(["eng_Latn", "hun_Latn"]) == [201, 206]
    assert "fin_Latn" in found.all_special_tokens
    assert (
        found("open the door")["input_ids"] == AutoTokenizer.from_pretrained(pretrained)("open the door")["input_ids"]
    )
    run(tmp_path, corpus, pretrained=pretrained, extra_languages=["hun_Latn"], language_codes="keep")
    assert len(AutoTokenizer.from_pretrained(str(tmp_path / "tokenizer"))) == 206


# --- messages --------------------------------------------------------------------------------------------------


def test_a_vocabulary_that_the_text_cannot_fill_is_told_the_limit(corpus, tmp_path):
    with pytest.raises(ConfigError) as caught:
        run(tmp_path, corpus, vocab_size=9000)
    assert re.fullmatch(
        r"vocab_size: the corpus has too little text for 9000 pieces; it allows at most \d+", str(caught.value)
    )
    with pytest.raises(ConfigError, match=r"vocab_size: 100 cannot hold the \d+ characters to cover"):
        stage.train_sentencepiece([chr(0x4E00 + i) * 2 for i in range(200)], stage.Config(vocab_size=100))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 10}, "vocab_size: must be at least 100"),
        ({"character_coverage": 0.5}, "character_coverage: must be 0.98 to 1"),
        ({"extra_languages": ["de"]}, "extra_languages.0: unknown language 'de'; did you mean deu_Latn"),
    ],
)
def test_wrong_settings_are_told_their_path(settings, message):
    with pytest.raises(ConfigError) as caught:
        parse(stage.Config, settings)
    assert str(caught.value).startswith(message)


def test_a_tokenizer_needs_a_corpus_or_a_pretrained_folder(tmp_path):
    with pytest.raises(UserError, match="name one, or set `pretrained`"):
        stage.run(stage.Config(), stage.Inputs(), tmp_path)
    with pytest.raises(UserError, match="AutoTokenizer cannot load it"):
        stage.run(parse(stage.Config, {"pretrained": str(tmp_path)}), stage.Inputs(), tmp_path / "out")
