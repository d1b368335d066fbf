"""The comparison stage on planted activations."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from xbridge.activations.store import (
    Layer as StoredLayer,
)
from xbridge.activations.store import Shard, moments_path, shard_path, write_index, write_moments_index, write_states
from xbridge.analysis.compare import Config, Inputs, run
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import read_json, read_rows, write_json
from xbridge.similarity import SecondMoments, cka, mutual_knn

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


def words_store(folder, rows, dim, seed, site="encoder.1"):
    """rows: sentence and word of each row; the states of word w of sentence s are those of (s, w) in every store."""
    sentences = [f"s{i}" for i in range(12)]
    meaning = normal(12, 9, 5)
    x = torch.stack([meaning[s, w] for s, w in rows]) @ normal(5, dim, seed=seed)
    write_states(shard_path(folder, "eng_Latn", site), x)
    table = {"sentence": torch.tensor([s for s, _ in rows]), "number": torch.tensor([w for _, w in rows])}
    save_file(table, shard_path(folder, "eng_Latn", "rows"))
    write_index(
        folder, sites=[site], dim=dim, pooling="words", ids={"eng_Latn": sentences},
        shards={"eng_Latn": [Shard(0, len(rows))]},
    )  # fmt: skip
    return folder, dict(zip(rows, x, strict=True))


def test_words_are_compared_where_both_models_have_them_and_the_error_leaves_out_sentences(tmp_path):
    every = [(s, w) for s in range(12) for w in range(5 + s % 5)]
    a, states_a = words_store(tmp_path / "a", [row for row in every if row[1] != 2], 6, seed=1)
    b, states_b = words_store(tmp_path / "b", [row for row in every if row[1] < 7], 4, seed=2)
    rows = compare(tmp_path, {"a": a, "b": b}, measures=("cka", "mutual_knn"))
    shared = [row for row in every if row[1] != 2 and row[1] < 7]
    x, y = (torch.stack([states[row] for row in shared]) for states in (states_a, states_b))
    groups = torch.tensor([s for s, _ in shared])
    (row,) = pick(rows, model_a="a", model_b="b", measure="cka")
    value, error = cka(x, y, return_stderr=True, groups=groups)
    assert (row["value"], row["stderr"], row["n"]) == (pytest.approx(value), pytest.approx(error), len(shared))
    keep = [groups != s for s in range(12)]
    left_out = np.array([cka(x[k], y[k]) for k in keep])
    assert error == pytest.approx(np.sqrt(11 / 12 * ((left_out - left_out.mean()) ** 2).sum()))
    (row,) = pick(rows, model_a="a", model_b="b", measure="mutual_knn")
    assert row["value"] == mutual_knn(x, y)


def test_tables_in_another_order_are_aligned_by_id(tmp_path):
    every = [(s, w) for s in range(12) for w in range(5)]
    a, states_a = words_store(tmp_path / "a", every, 6, seed=1)
    b, states_b = words_store(tmp_path / "b", every[30:] + every[:30], 4, seed=2)
    rows = compare(tmp_path, {"a": a, "b": b}, measures=("cka",), stderr=False)
    (row,) = pick(rows, model_a="a", model_b="b")
    expected = cka(*(torch.stack([states[row] for row in every]) for states in (states_a, states_b)))
    assert row["value"] == pytest.approx(expected)


def test_rows_that_cannot_stand_side_by_side_are_refused(tmp_path, two_models):
    stores, a, _ = two_models
    words, _ = words_store(tmp_path / "words", [(s, 0) for s in range(12)], 6, seed=1)
    with pytest.raises(UserError, match="its rows are words, those of model a mean; extract both with one pooling"):
        compare(tmp_path, {**stores, "w": words})
    elsewhere, _ = words_store(tmp_path / "elsewhere", [(s, 3) for s in range(12)], 6, seed=1)
    with pytest.raises(UserError, match="eng_Latn has no word that model w has"):
        compare(tmp_path, {"w": words, "e": elsewhere})
    for name, pooling in (("words", "words"), ("tokens", "tokens")):
        folder = store(tmp_path / f"two-{name}", a)
        index = read_json(folder / "index.json")
        write_json(folder / "index.json", {**index, "pooling": pooling})
        for lang in LANGUAGES:
            table = {"sentence": torch.arange(30), "number": torch.zeros(30, dtype=torch.int64)}
            save_file(table, shard_path(folder, lang, "rows"))
        with pytest.raises(UserError, match=f"{pooling} of two languages are not aligned; set pooled: false"):
            compare(tmp_path, {"x": folder})
        assert compare(tmp_path, {"x": folder}, measures=("cka",), between_languages="none")
    b = store(tmp_path / "other-tokens", a)
    write_json(b / "index.json", {**read_json(b / "index.json"), "pooling": "tokens"})
    for lang in LANGUAGES:
        table = {"sentence": torch.arange(30), "number": torch.ones(30, dtype=torch.int64)}
        save_file(table, shard_path(b, lang, "rows"))
    with pytest.raises(UserError, match="eng_Latn has other tokens than model x; pool words"):
        compare(tmp_path, {"x": tmp_path / "two-tokens", "y": b}, between_languages="none")


@pytest.fixture
def moments_folder(tmp_path, two_models):
    """Second moments of both models' layers, as an extraction of both in one pass leaves them."""
    _, a, b = two_models
    layers = [(name, site) for name in ("model", "other") for site in ("encoder.0", "encoder.1")]
    for lang in LANGUAGES:
        sums = SecondMoments([4] * 4)
        sums.update([(a if name == "model" else b)[lang, site] for name, site in layers])
        moments_path(tmp_path / "m", lang).parent.mkdir(parents=True)
        sums.save(moments_path(tmp_path / "m", lang))
    write_moments_index(tmp_path / "m", layers=layers, pooling="mean", rows=dict.fromkeys(LANGUAGES, 30))
    return tmp_path / "m"


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_a_folder_of_moments_gives_the_cka_of_its_layers(tmp_path, two_models, moments_folder, estimator):
    config = {"measures": ("cka",), "between_languages": "none", "estimator": estimator}
    found = compare(tmp_path / "1", {"x": moments_folder}, **config)
    expected = compare(tmp_path / "2", two_models[0], stderr=False, **config)
    names = {"a": "x", "b": "x/other"}
    assert len(found) == len(expected) == 3 * 10
    for row in expected:
        where = {key: row[key] for key in ("site_a", "language_a", "site_b", "language_b", "estimator", "n", "measure")}
        (same,) = pick(found, model_a=names[row["model_a"]], model_b=names[row["model_b"]], **where)
        assert same["value"] == pytest.approx(row["value"], abs=1e-9)
        assert same["stderr"] is None


def test_moments_and_states_are_compared_in_one_table(tmp_path, two_models, moments_folder):
    config = {"measures": ("cka",), "between_languages": "none", "sites": ("encoder.0",), "languages": ("deu_Latn",)}
    rows = compare(tmp_path, {**two_models[0], "x": moments_folder}, **config)
    assert len(rows) == 3 + 3
    assert {row["model_a"] for row in rows} == {"a", "b", "x", "x/other"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, r"holds moments, which give linear CKA only; set measures: \[cka\]"),
        ({"measures": ("cka",)}, "set pooled: false and between_languages: none"),
        ({"measures": ("cka",), "pooled": True, "between_languages": "none"}, "set pooled: false"),
        ({"measures": ("cka",), "between_languages": "none", "sites": ("encoder.7",)}, r"no site 'encoder\.7'"),
        ({"measures": ("cka",), "between_languages": "none", "languages": ("fra_Latn",)}, "no activations of fra_Latn"),
    ],
)
def test_what_moments_cannot_give_is_refused(tmp_path, moments_folder, config, message):
    with pytest.raises(UserError, match=message):
        compare(tmp_path, {"x": moments_folder}, **config)


def test_moments_of_a_layer_without_variance_are_refused_by_its_name(tmp_path):
    sums = SecondMoments([4, 4], names=["model encoder.0", "model encoder.1"])
    sums.update([normal(30, 4), torch.ones(30, 4)])
    moments_path(tmp_path / "m", "eng_Latn").parent.mkdir(parents=True)
    sums.save(moments_path(tmp_path / "m", "eng_Latn"))
    layers = [("model", "encoder.0"), ("model", "encoder.1")]
    write_moments_index(tmp_path / "m", layers=layers, pooling="mean", rows={"eng_Latn": 30})
    with pytest.raises(UserError, match=r"/m: eng_Latn: model encoder\.1: all 30 rows are equal"):
        compare(tmp_path, {"x": tmp_path / "m"}, measures=("cka",))


def test_layers_that_are_larger_than_a_measure_reads_at_once_are_read_in_slices(tmp_path, monkeypatch, two_models):
    """CKA asks a store for slices of rows, never for all of a site's."""
    asked = []
    whole = StoredLayer.__getitem__

    def slices(layer, rows):
        asked.append((rows, len(layer)))
        return whole(layer, rows)

    n = 6000
    a = {("eng_Latn", site): normal(n, 4, seed=seed) for seed, site in enumerate(("encoder.0", "encoder.1"))}
    folder = store(tmp_path / "long", a)
    monkeypatch.setattr(StoredLayer, "__getitem__", slices)
    (_, row, _) = compare(tmp_path, {"x": folder}, measures=("cka",), stderr=False)
    assert row["n"] == n
    assert asked
    assert all(rows.stop - (rows.start or 0) < size for rows, size in asked)
