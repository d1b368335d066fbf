"""Folders of fairseq-preprocess: their rows, their dictionaries, and what is said of damaged ones."""

import numpy as np
import pytest
from fairseq_folder import write_data_bin, write_rows

from xbridge.core.errors import UserError
from xbridge.data.data_bin import DataBin, is_data_bin, read_index
from xbridge.data.token_store import open_store

WORDS = ["acht", "eight", "two", "zwei", "three", "drei", "dos"]  # another order than the tokenizer's
PAIRS = {
    ("en_XX", "de_DE"): [("two three", "zwei drei"), ("eight", "acht"), ("two", "zwei")],
    ("en_XX", "es_XX"): [("two", "dos")],
}


def texts_of(store, tokenizer, group, column):
    table = store.tokens.take(np.asarray(store.tables["bitext"][group][column]))
    rows = [table.ids[a:b].tolist() for a, b in zip(table.starts[:-1], table.starts[1:], strict=True)]
    return [" ".join(tokenizer.convert_ids_to_tokens(row)) for row in rows]


@pytest.mark.parametrize("kind", ["H", "i"])
def test_pairs_come_in_the_tokenizers_numbers_without_the_final_end(tmp_path, toy_tokenizer, kind):
    folder = write_data_bin(tmp_path, WORDS, PAIRS, kind=kind)
    store = open_store(None, DataBin(folder, toy_tokenizer))
    assert list(store.tables["bitext"]) == [
        ("train", "eng_Latn", "deu_Latn"), ("train", "eng_Latn", "spa_Latn"),
        ("dev", "eng_Latn", "deu_Latn"), ("dev", "eng_Latn", "spa_Latn"),
    ]  # fmt: skip
    german = ("train", "eng_Latn", "deu_Latn")
    assert texts_of(store, toy_tokenizer, german, "source") == ["two three", "eight", "two"]
    assert texts_of(store, toy_tokenizer, german, "target") == ["zwei drei", "acht", "zwei"]
    spanish = store.tables["bitext"]["dev", "eng_Latn", "spa_Latn"]
    assert spanish["source"].tolist() == store.tables["bitext"][german]["source"][2:].tolist()  # one text, one number
    assert is_data_bin(folder)


def test_each_language_may_have_its_own_dictionary_and_shards_add_up(tmp_path, toy_tokenizer):
    (tmp_path / "dict.en.txt").write_text("two 9\neight 3\nmadeupword0000 0\n")
    (tmp_path / "dict.de.txt").write_text("acht 3\nzwei 9\n")
    write_rows(tmp_path / "train.en-de.en", [[4, 2]])
    write_rows(tmp_path / "train.en-de.de", [[5, 2]])
    write_rows(tmp_path / "train1.en-de.en", [[5, 4, 3]])  # without </s>, and with <unk>
    write_rows(tmp_path / "train1.en-de.de", [[4, 2]])
    store = open_store(None, DataBin(tmp_path, toy_tokenizer))
    group = ("train", "eng_Latn", "deu_Latn")
    assert texts_of(store, toy_tokenizer, group, "source") == ["two", "eight two <unk>"]
    assert texts_of(store, toy_tokenizer, group, "target") == ["zwei", "acht"]


def test_the_first_piece_that_the_tokenizer_lacks_is_named(tmp_path, toy_tokenizer):
    folder = write_data_bin(tmp_path, ["two", "▁nine", "▁ten"], {("en", "de"): [("two", "two")]})
    with pytest.raises(UserError, match=r"dict\.txt:2: the tokenizer has no piece '▁nine'"):
        DataBin(folder, toy_tokenizer)


def test_a_name_that_is_no_language_is_refused(tmp_path, toy_tokenizer):
    folder = write_data_bin(tmp_path, ["two"], {("en", "xx"): [("two", "two")]})
    with pytest.raises(UserError, match=r"'xx' names no one language"):
        DataBin(folder, toy_tokenizer)


def test_indices_that_cannot_be_read_are_explained(tmp_path):
    prefix = tmp_path / "train.en-de.en"
    write_rows(prefix, [[4, 2]], magic=b"TNTIDX\0\0\0")
    with pytest.raises(UserError, match="--dataset-impl mmap"):
        read_index(prefix)
    write_rows(prefix, [[4, 2]], version=2)
    with pytest.raises(UserError, match="version 2 with token type 8 is not known"):
        read_index(prefix)
    write_rows(prefix, [[4, 2], [5, 2]])
    index, data = (tmp_path / f"train.en-de.en.{kind}" for kind in ("idx", "bin"))
    data.write_bytes(data.read_bytes()[:-2])
    with pytest.raises(UserError, match=r"train\.en-de\.en\.bin: is not what train\.en-de\.en\.idx describes"):
        read_index(prefix)
    index.write_bytes(index.read_bytes()[:-1])
    with pytest.raises(UserError, match="has 49 bytes, 2 rows take 50"):
        read_index(prefix)
    data.unlink()
    with pytest.raises(UserError, match=r"\.bin: no such file"):
        read_index(prefix)


def test_sides_of_different_length_are_refused(tmp_path, toy_tokenizer):
    folder = write_data_bin(tmp_path, ["two"], {("en", "de"): [("two", "two")]})
    write_rows(folder / "train.en-de.de", [[4, 2], [4, 2]])
    with pytest.raises(UserError, match=r"train\.en-de\.en: has 1 rows, its other side has 2"):
        open_store(None, DataBin(folder, toy_tokenizer))
