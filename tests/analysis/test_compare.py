"""The comparison stage on planted activations."""

import numpy as np
import pytest
import torch

from xbridge.activations.store import shard_path, write_index, write_states
from xbridge.analysis.compare import Config, Inputs, run
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import read_rows
from xbridge.similarity import cka, mutual_knn

LANGUAGES = ("eng_Latn", "deu_Latn", "hun_Latn")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def store(folder, states, ids=None):
    """states: {(language, site): (n, d)}"""
    languages = dict.fromkeys(lang for lang, _ in states)
    for (lang, site), x in states.items():
        write_states(shard_path(folder, lang, site), x)
    n = len(next(iter(states.values())))
    names = ids or [f"s{i}" for i in range(n)]
    sites = dict.fromkeys(site for _, site in states)
    write_index(folder, sites=list(sites), dim=4, pooling="mean", ids=dict.fromkeys(languages, names))
    return folder


@pytest.fixture
def two_models(tmp_path):
    """b is a rotation of a at encoder.0 and unrelated at encoder.1; Hungarian is unrelated to the others."""
    meaning, hungarian, rotation = normal(30, 4), normal(30, 4, seed=5), torch.linalg.qr(normal(4, 4, seed=6)).Q
    a, b = {}, {}
    for i, lang in enumerate(LANGUAGES):
        base = hungarian if lang == "hun_Latn" else meaning
        a[lang, "encoder.0"] = base + 0.1 * normal(30, 4, seed=10 + i) + 3 * i
        b[lang, "encoder.0"] = 7 * a[lang, "encoder.0"] @ rotation
        a[lang, "encoder.1"], b[lang, "encoder.1"] = normal(30, 4, seed=20 + i), normal(30, 4, seed=30 + i)
    return {"a": store(tmp_path / "a", a), "b": store(tmp_path / "b", b)}, a, b


def compare(tmp_path, stores, **config):
    run(Config(**config), Inputs(activations=stores), tmp_path)
    return read_rows(tmp_path / "similarity.parquet")


def pick(rows, **where):
    return [r for r in rows if all(r[key] == value for key, value in where.items())]


def test_rows_hold_the_values_of_the_plain_functions(tmp_path, two_models):
    stores, a, b = two_models
    rows = compare(tmp_path, stores, measures=("cka", "mutual_knn", "procrustes"))
    where = {"model_a": "a", "site_a": "encoder.0", "model_b": "b", "site_b": "encoder.1", "language_a": "deu_Latn"}
    value, error = cka(a["deu_Latn", "encoder.0"], b["deu_Latn", "encoder.1"], return_stderr=True)
    (row,) = pick(rows, **where, measure="cka")
    assert (row["value"], row["stderr"]) == pytest.approx((value, error))
    assert (row["estimator"], row["n"], row["language_b"]) == ("unbiased", 30, "deu_Latn")
    (row,) = pick(rows, **where, measure="mutual_knn")
    assert row["value"] == mutual_knn(a["deu_Latn", "encoder.0"], b["deu_Latn", "encoder.1"])
    assert (row["stderr"], row["estimator"]) == (None, "")


def test_every_unordered_pair_is_there_once(tmp_path, two_models):
    rows = compare(tmp_path, two_models[0], measures=("cka",))
    keys = [tuple(r[k] for k in ("model_a", "site_a", "language_a", "model_b", "site_b", "language_b")) for r in rows]
    assert len({frozenset((k[:3], k[3:])) for k in keys}) == len(keys) == 3 * (6 + 4) + 2 * 2 * 3


def test_a_rotated_model_is_the_same_and_an_unrelated_one_is_not(tmp_path, two_models):
    rows = compare(tmp_path, two_models[0], measures=("cka",), between_languages="none")
    for row in pick(rows, model_a="a", site_a="encoder.0", model_b="b", site_b="encoder.0"):
        assert row["value"] == pytest.approx(1)
    for row in pick(rows, model_a="a", site_a="encoder.1", model_b="b", site_b="encoder.1"):
        assert abs(row["value"]) < 4 * row["stderr"]


def test_languages_that_share_meaning_are_alike_and_the_planted_stranger_is_found(tmp_path, two_models):
    rows = compare(tmp_path, two_models[0], measures=("cka",), per_language=False, between_languages="all")
    here = pick(rows, model_a="a", site_a="encoder.0")
    values = {(r["language_a"], r["language_b"]): r["value"] for r in here}
    assert values["eng_Latn", "deu_Latn"] > 0.9
    assert values["eng_Latn", "hun_Latn"] < 0.4
    pivot = compare(tmp_path, two_models[0], measures=("cka",), per_language=False, between_languages="pivot")
    assert {r["language_a"] for r in pivot} == {"eng_Latn"}


def test_pooled_standard_error_leaves_out_sentences_with_their_translations(tmp_path, two_models):
    stores, a, b = two_models
    rows = compare(tmp_path, stores, measures=("cka",), per_language=False, pooled=True, between_languages="none")
    (row,) = pick(rows, model_a="a", site_a="encoder.0", model_b="b", site_b="encoder.1")
    x, y = (torch.cat([m[lang, site] for lang in LANGUAGES]) for m, site in ((a, "encoder.0"), (b, "encoder.1")))
    keep = [torch.arange(90) % 30 != i for i in range(30)]
    left_out = np.array([cka(x[k], y[k]) for k in keep])
    assert row["value"] == pytest.approx(cka(x, y))
    assert row["stderr"] == pytest.approx(np.sqrt(29 / 30 * ((left_out - left_out.mean()) ** 2).sum()))
    assert (row["language_a"], row["language_b"], row["n"]) == ("all", "all", 90)


def test_users_own_measure_is_called_by_its_dotted_name(tmp_path, two_models):
    rows = compare(tmp_path, two_models[0], measures=("xbridge.similarity.subspaces.svcca",), between_languages="none")
    assert {r["measure"] for r in rows} == {"xbridge.similarity.subspaces.svcca"}


def test_two_runs_give_the_same_file(tmp_path, two_models):
    compare(tmp_path / "x", two_models[0])
    compare(tmp_path / "y", two_models[0])
    assert (tmp_path / "x" / "similarity.parquet").read_bytes() == (tmp_path / "y" / "similarity.parquet").read_bytes()


def test_languages_of_a_corpus_of_pairs_are_compared_on_the_sentences_that_they_share(tmp_path):
    """English has all sentences, German the first 70, Hungarian the last 60 of 100: the last two share 30."""
    meaning = normal(100, 4)
    own = {"eng_Latn": range(100), "deu_Latn": range(70), "hun_Latn": range(40, 100)}
    folder = tmp_path / "a"
    for i, (lang, rows) in enumerate(own.items()):
        write_states(shard_path(folder, lang, "encoder.0"), meaning[list(rows)] + 0.1 * normal(len(rows), 4, seed=i))
    ids = {lang: [f"s{row:02}" for row in rows] for lang, rows in own.items()}
    write_index(folder, sites=["encoder.0"], dim=4, pooling="mean", ids=ids)
    rows = [r for r in compare(tmp_path, {"a": folder}, measures=("cka",)) if r["language_a"] != r["language_b"]]
    assert {(r["language_a"], r["language_b"]): r["n"] for r in rows} == {
        ("eng_Latn", "deu_Latn"): 70,
        ("eng_Latn", "hun_Latn"): 60,
    }
    assert min(r["value"] for r in rows) > 0.9


def test_bad_input_is_named(tmp_path, two_models):
    stores, a, _ = two_models
    with pytest.raises(ConfigError, match=r"measures.1: no measure 'ckka'"):
        Config(measures=("cka", "ckka"))
    other = store(tmp_path / "c", a, ids=[f"t{i}" for i in range(30)])
    with pytest.raises(UserError, match="eng_Latn has other sentences than model a"):
        compare(tmp_path, {**stores, "c": other})
    with pytest.raises(UserError, match="no activations of fra_Latn"):
        compare(tmp_path, stores, languages=("eng_Latn", "fra_Latn"))
    flat = store(tmp_path / "d", {**a, ("deu_Latn", "encoder.1"): torch.ones(30, 4)})
    with pytest.raises(UserError, match=r"cka: d encoder.1 deu_Latn: all 30 rows are equal"):
        compare(tmp_path, {"d": flat})
