"""Separability of planted languages and labels."""

import numpy as np
import pytest
import torch

from xbridge.activations.store import shard_path, write_index, write_states
from xbridge.analysis.discriminant import fit, judge, summarise
from xbridge.analysis.separability import Config, Inputs, run
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import read_rows

LANGUAGES = ("eng_Latn", "deu_Latn", "hun_Latn")


def rng(seed=0):
    return np.random.default_rng(seed)


def measure(x, y, x_held, y_held, num_classes, shrinkage=0.01):
    found = fit(x, y, num_classes, shrinkage=shrinkage)
    return summarise([judge(found, x_held, y_held, np.arange(len(x_held)))], len(x_held), 200, rng(9))


def two_classes(n, distance, d=4, seed=0):
    y = np.arange(n) % 2
    x = rng(seed).normal(size=(n, d))
    x[:, 1] += np.where(y == 1, distance, -distance)
    return x, y


def test_fisher_ratio_of_two_gaussians_is_the_squared_distance_and_probe_accuracy_is_phi():
    """Means at -1 and +1, unit variance: B / W = 1, accuracy Phi(1) = 0.8413."""
    result = measure(*two_classes(4000, 1.0), *two_classes(4000, 1.0, seed=1), 2)
    assert result.fisher_ratio[0] == pytest.approx(1.0, abs=4 * result.fisher_ratio[1])
    assert result.probe_accuracy[0] == pytest.approx(0.8413, abs=4 * result.probe_accuracy[1])
    assert result.probe_accuracy[1] == pytest.approx((0.8413 * 0.1587 / 4000) ** 0.5, rel=0.25)


def test_classes_that_do_not_differ_are_at_chance():
    values = [measure(*two_classes(60, 0, seed=s), *two_classes(60, 0, seed=s + 99), 2) for s in range(60)]
    ratios, accuracies = ([getattr(v, name)[0] for v in values] for name in ("fisher_ratio", "probe_accuracy"))
    assert np.mean(ratios) == pytest.approx(1 / 58, abs=3 * np.std(ratios) / 60**0.5)
    assert np.mean(accuracies) == pytest.approx(0.5, abs=3 * np.std(accuracies) / 60**0.5)


def test_measures_ignore_shift_scale_and_rotation():
    x, y = two_classes(200, 0.7)
    rotation = np.linalg.qr(rng(5).normal(size=(4, 4)))[0]
    moved = x @ rotation * 1e-3 + 50
    before, after = (measure(z[:100], y[:100], z[100:], y[100:], 2) for z in (x, moved))
    assert after.fisher_ratio == pytest.approx(before.fisher_ratio, rel=1e-6)
    assert after.probe_accuracy == before.probe_accuracy


def test_three_classes_in_many_dimensions_with_few_examples_stay_finite():
    y = np.arange(30) % 3
    x = rng().normal(size=(30, 100)) + 3 * np.eye(100)[y]
    result = measure(x[:15], y[:15], x[15:], y[15:], 3, shrinkage=0.1)
    assert 0.5 < result.probe_accuracy[0] <= 1


def store(folder, states, labels=None):
    """states: {(language, site): (n, d) array}; labels: {language: [...]}"""
    languages = list(dict.fromkeys(lang for lang, _ in states))
    for (lang, site), x in states.items():
        write_states(shard_path(folder, lang, site), torch.from_numpy(x))
    n = len(next(iter(states.values())))
    ids = {lang: [f"s{i}" if labels is None else f"{lang}-{i}" for i in range(n)] for lang in languages}
    sites = list(dict.fromkeys(site for _, site in states))
    write_index(folder, sites=sites, dim=4, pooling="mean", ids=ids, labels=labels)
    return folder


def nway(folder, offset):
    """encoder.0 has a language offset, encoder.1 none."""
    meaning = rng().normal(size=(60, 4))
    states = {}
    for i, lang in enumerate(LANGUAGES):
        states[lang, "encoder.0"] = meaning + rng(i + 1).normal(size=(60, 4)) * 0.3 + offset * np.eye(4)[i]
        states[lang, "encoder.1"] = meaning + rng(i + 9).normal(size=(60, 4)) * 0.3
    return store(folder, states)


def examples(folder):
    """Labels a, b, c are apart; German shares the source's places, Hungarian holds them rotated by one label."""
    y = np.arange(90) % 3
    places = 3 * np.eye(4)
    states = {
        ("eng_Latn", "encoder.0"): places[y] + rng(1).normal(size=(90, 4)),
        ("deu_Latn", "encoder.0"): places[y] + rng(2).normal(size=(90, 4)),
        ("hun_Latn", "encoder.0"): places[(y + 1) % 3] + rng(3).normal(size=(90, 4)),
    }
    labels = {lang: [*["abc"[i] for i in y[:-1]], "rare"] for lang in LANGUAGES}
    return store(folder, states, labels)


def separability(tmp_path, **inputs):
    run(Config(), Inputs(**inputs), tmp_path)
    return {
        (r["target"], r["site"], r["language"], r["metric"]): r for r in read_rows(tmp_path / "separability.parquet")
    }


def test_a_planted_language_offset_is_found_and_its_absence_is_chance(tmp_path):
    rows = separability(tmp_path, nway=nway(tmp_path / "nway", offset=4.0))
    found, absent = (rows["language", site, "all", "probe_accuracy"] for site in ("encoder.0", "encoder.1"))
    assert found["value"] > 0.9
    assert found["chance"] == pytest.approx(1 / 3)
    assert found["n"] == 180
    assert abs(absent["value"] - 1 / 3) < 0.15
    ratio = {site: rows["language", site, "all", "fisher_ratio"]["value"] for site in ("encoder.0", "encoder.1")}
    assert ratio["encoder.0"] > 20 * ratio["encoder.1"]


def test_labels_that_move_between_languages_are_separable_inside_but_do_not_transfer(tmp_path):
    rows = separability(tmp_path, nway=nway(tmp_path / "nway", 0.0), examples=examples(tmp_path / "examples"))
    value = {key[2:]: row["value"] for key, row in rows.items() if key[0] == "label"}
    for lang in LANGUAGES:
        assert value[lang, "in_language_probe_accuracy"] > 0.85
    assert value["deu_Latn", "probe_accuracy"] > 0.85
    assert value["hun_Latn", "probe_accuracy"] < 0.1
    assert value["eng_Latn", "probe_accuracy"] == value["eng_Latn", "in_language_probe_accuracy"]
    assert rows["label", "encoder.0", "deu_Latn", "probe_accuracy"]["n"] == 89


def test_two_runs_give_the_same_file(tmp_path):
    inputs = {"nway": nway(tmp_path / "nway", 1.0), "examples": examples(tmp_path / "examples")}
    for name in "xy":
        separability(tmp_path / name, **inputs)
    assert len({(tmp_path / name / "separability.parquet").read_bytes() for name in "xy"}) == 1


def test_bad_input_is_named(tmp_path):
    whole = nway(tmp_path / "nway", 1.0)
    with pytest.raises(UserError, match="have no labels"):
        separability(tmp_path, nway=whole, examples=whole)
    flat = store(
        tmp_path / "flat", {(lang, "encoder.0"): np.full((10, 4), float(i)) for i, lang in enumerate(LANGUAGES)}
    )
    with pytest.raises(UserError, match=r"encoder.0: all examples of each class are equal"):
        separability(tmp_path, nway=flat)
    with pytest.raises(ConfigError, match="shrinkage: must be above 0"):
        Config(shrinkage=0.0)
