"""A fairseq folder trains as the same text in tables does."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
from fairseq_folder import write_data_bin

from xbridge.core.files import read_rows, write_table
from xbridge.data.sampling import Examples
from xbridge.objectives import denoising, translation

WORDS = [
    "one", "two", "three", "four", "five", "six", "seven", "eight", "eins", "zwei", "drei", "vier", "fünf", "sechs",
    "sieben", "acht", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho",
]  # fmt: skip
NAMES = {"deu_Latn": "de", "spa_Latn": "es"}


def folders_of(toy_corpus, tmp_path):
    """The training pairs of the toy corpus as a table and as a fairseq folder."""
    rows = [row for row in read_rows(toy_corpus / "bitext.parquet") if row["split"] == "train"]
    (tmp_path / "tables").mkdir()
    write_table(tmp_path / "tables" / "bitext.parquet", pa.Table.from_pylist(rows))
    pairs = {
        ("en", name): [(row["source"], row["target"]) for row in rows if row["target_lang"] == code]
        for code, name in NAMES.items()
    }
    return tmp_path / "tables", write_data_bin(tmp_path / "data-bin", WORDS, pairs, splits=["train"])


def test_translation_and_denoising_make_the_same_batches_from_both(material, toy_corpus, tmp_path):
    for module in (translation, denoising):
        (tmp_path / module.__name__).mkdir()
        table, folder = (
            module.build(module.Config(), replace(material, corpus=corpus))
            for corpus in folders_of(toy_corpus, tmp_path / module.__name__)
        )
        assert table.parts == folder.parts
        part = np.arange(50) % len(table.parts)
        chosen = Examples(part, np.arange(50) % min(p.size for p in table.parts), np.zeros(50, dtype=np.int64))
        one, other = table.collate(chosen), folder.collate(chosen)
        if module is translation:  # the rows of single strings stand in the order of the strings' numbers
            assert (one.input_ids == other.input_ids).all()
            assert (one.labels == other.labels).all()
        assert one.count == other.count


def test_a_pair_that_is_there_in_both_directions_gives_each_direction_once(material, tmp_path):
    pairs = {("en", "de"): [("one two", "eins zwei")], ("de", "en"): [("drei", "three")]}
    folder = write_data_bin(tmp_path, WORDS, pairs, splits=["train"])
    objective = translation.build(translation.Config(), replace(material, corpus=folder))
    assert [part.name for part in objective.parts] == ["deu_Latn-eng_Latn", "eng_Latn-deu_Latn"]
