"""Several corpora in one training: names, shares by size, by hand and by phase, and batches from the right one."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from xbridge.core.config import parse, parse_plugin
from xbridge.core.errors import ConfigError
from xbridge.core.files import read_rows, write_table
from xbridge.data.sampling import Examples
from xbridge.objectives.corpora import Corpora, build_over

TRANSLATION = parse_plugin("xbridge.objectives", {"type": "translation", "directions": "one_to_many"}, "objective")


@pytest.fixture
def materials(material, toy_corpus, tmp_path):
    """The toy corpus of 120 training pairs, and a second one with 30 of its German pairs."""
    rows = [row for row in read_rows(toy_corpus / "bitext.parquet") if row["target_lang"] == "deu_Latn"]
    small = [row for row in rows if row["split"] == "train"][:30]
    write_table(tmp_path / "bitext.parquet", pa.Table.from_pylist(small))
    return {"big": material, "small": replace(material, corpus=tmp_path)}


def test_one_corpus_is_the_objective_itself(material):
    objective = build_over(TRANSLATION, {"": material}, Corpora())
    assert [part.name for part in objective.parts] == ["eng_Latn-deu_Latn", "eng_Latn-spa_Latn"]


def test_corpora_are_drawn_by_size_and_pairs_within_them(materials):
    objective = build_over(TRANSLATION, materials, Corpora(temperature=2))
    assert [part.name for part in objective.parts] == [
        "big/eng_Latn-deu_Latn", "big/eng_Latn-spa_Latn", "small/eng_Latn-deu_Latn",
    ]  # fmt: skip
    big, small = 120**0.5, 30**0.5  # = 2 : 1
    assert objective.shares.values[0] == pytest.approx(np.asarray([big / 2, big / 2, small]) / (big + small))


def test_weights_may_change_over_the_run(materials):
    weights = {"big": 1, "small": [{"until": 0.5, "value": 0}, {"until": 1, "value": 3}]}
    objective = build_over(TRANSLATION, materials, parse(Corpora, {"weights": weights}))
    assert objective.shares.until == (0.5, 1.0)
    assert objective.shares.values == pytest.approx(np.asarray([[0.5, 0.5, 0], [0.125, 0.125, 0.75]]))


def test_a_batch_takes_its_rows_from_their_corpora(materials):
    objective = build_over(TRANSLATION, materials, Corpora())
    rows = np.asarray([3, 3])
    batch = objective.collate(Examples(np.asarray([0, 2]), rows, np.zeros(2, dtype=np.int64)))
    (_, big), (_, small) = batch
    assert big.input_ids.tolist() == small.input_ids.tolist()  # the small one's rows are the big one's first


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        ({"big": 1}, "corpora.weights: must name the corpora of inputs.corpus: big, small"),
        ({"big": 0, "small": 0}, "corpora.weights: are all 0"),
    ],
)
def test_weights_that_say_nothing_are_refused(materials, weights, problem):
    with pytest.raises(ConfigError, match=problem):
        build_over(TRANSLATION, materials, Corpora(weights=weights))
