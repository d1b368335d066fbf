"""Swapped and mislabelled text is refused, and text that is as labelled never is."""

from dataclasses import replace

import pyarrow as pa
import pytest

from xbridge.core.errors import UserError
from xbridge.core.files import read_table, write_table
from xbridge.objectives import translation
from xbridge.objectives.language_check import check_texts, share_in_script
from xbridge.objectives.layout_check import check_layouts
from xbridge.objectives.text import store_of
from xbridge.objectives.translation import Config, build

ALL = ["eng_Latn-deu_Latn", "eng_Latn-spa_Latn"]


def corpus(folder, toy_corpus, change, *, mono=True):
    """A copy of the toy corpus with `change` applied to each row of the bitext."""
    rows = read_table(toy_corpus / "bitext.parquet").to_pylist()
    changed = [row for row in (change(dict(row)) for row in rows) if row]
    write_table(folder / "bitext.parquet", pa.Table.from_pylist(changed))
    if mono:
        write_table(folder / "mono.parquet", read_table(toy_corpus / "mono.parquet"))
    return folder


def swapped(row):
    if row["target_lang"] == "deu_Latn":
        row["source"], row["target"] = row["target"], row["source"]
    return row


def test_the_toy_corpus_is_as_labelled_and_says_so_with_every_row(material):
    check_texts(material, ALL)
    check_texts(replace(material, split="dev"), ALL)


def test_swapped_sides_are_named_with_their_direction_share_and_an_example(material, toy_corpus, tmp_path):
    wrong = replace(material, corpus=corpus(tmp_path, toy_corpus, swapped))
    with pytest.raises(UserError, match=r"eng_Latn-deu_Latn: source and target look swapped in 100% of .*'(\w+ )+"):
        check_texts(wrong, ALL)
    check_texts(wrong, ["eng_Latn-spa_Latn"])


def test_a_fifth_of_the_rows_is_enough_and_a_tenth_may_be_chance(material, toy_corpus, tmp_path):
    def some(step):
        count = iter(range(10_000))
        return lambda row: swapped(row) if next(count) % step == 0 else row

    for step, folder in ((3, tmp_path / "third"), (12, tmp_path / "twelfth")):
        folder.mkdir()
        chosen = replace(material, corpus=corpus(folder, toy_corpus, some(step)))
        if step == 3:
            with pytest.raises(UserError, match=r"look swapped in 3\d% of the rows that tell"):
                check_texts(chosen, ALL)
        else:
            check_texts(chosen, ALL)


def test_a_pair_without_any_other_text_cannot_be_judged_and_is_let_through(material, toy_corpus, tmp_path):
    def only_german(row):
        return swapped(row) if row["target_lang"] == "deu_Latn" and row["split"] == "train" else None

    check_texts(replace(material, corpus=corpus(tmp_path, toy_corpus, only_german, mono=False)), ALL)


def test_letters_are_counted_in_the_script_of_the_language():
    assert share_in_script("Привет, мир 12", "rus_Cyrl") == 1
    assert share_in_script("Привет abc", "rus_Cyrl") == pytest.approx(6 / 9)
    assert share_in_script("東京タワーへ", "jpn_Jpan") == 1
    assert share_in_script("नमस्ते", "hin_Deva") == 1
    assert share_in_script("12 + 3", "rus_Cyrl") is None


def test_text_in_another_script_is_refused(material, toy_corpus, tmp_path):
    def russian(row):
        return {**row, "target_lang": "rus_Cyrl"} if row["target_lang"] == "deu_Latn" else row

    wrong = replace(material, corpus=corpus(tmp_path, toy_corpus, russian))
    with pytest.raises(UserError, match=r"100% of the rus_Cyrl rows are not in the script Cyrl \(.* LATIN\)"):
        check_texts(wrong, ["eng_Latn-rus_Cyrl"])


def model_of(tokenizer):
    from xbridge.models.loading import new_mbart

    return new_mbart(
        tokenizer, seed=0, layers=1, d_model=16, ffn=16, heads=2, init_std=0.2, max_positions=16, dropout=0.0
    )


def test_batches_and_models_that_keep_to_the_conventions_pass(material, toy_tokenizer):
    check_layouts(model_of(toy_tokenizer), build(Config(), material), material.conventions)


def test_a_batch_with_the_languages_swapped_is_refused(material, toy_tokenizer):
    objective = build(Config(), material)
    objective.parts.reverse()
    with pytest.raises(UserError, match=r"spa_Latn-eng_Latn: the own layout wants the source to begin with \[31\]"):
        check_layouts(model_of(toy_tokenizer), objective, material.conventions)


def test_a_decoder_that_starts_with_another_token_is_refused(material, toy_tokenizer):
    model = model_of(toy_tokenizer)
    model.config.decoder_start_token_id = 0
    with pytest.raises(UserError, match="decoder starts with token 0, the own family's with 2"):
        check_layouts(model, build(Config(), material), material.conventions)


def test_directions_that_a_model_cannot_tell_apart_or_does_not_translate_are_refused(material, toy_tokenizer):
    one_way = replace(material.conventions.family, name="marian", source_prefix=(), target_prefix=("pad",))
    same = replace(material.conventions, family=one_way)
    objective = translation.build(Config(directions="one_to_many"), replace(material, conventions=same))
    model = model_of(toy_tokenizer)
    model.config.decoder_start_token_id = 1
    with pytest.raises(UserError, match="eng_Latn-deu_Latn and eng_Latn-spa_Latn look the same"):
        check_layouts(model, objective, same)
    fixed = replace(same, direction=("eng_Latn", "deu_Latn"))
    with pytest.raises(UserError, match=r"eng_Latn-spa_Latn: this model translates eng_Latn-deu_Latn only"):
        check_layouts(model, objective, fixed)


def test_a_language_without_a_token_is_one_clear_line(material):
    few = replace(material.conventions, languages={"eng_Latn": 29, "spa_Latn": 31})
    with pytest.raises(UserError, match=r"^deu_Latn: the tokenizer has no token for this language; it has eng_Latn"):
        build(Config(), replace(material, conventions=few))
    assert store_of(material).tables
