"""The transfer stage on evaluations made by hand."""

import numpy as np
import pyarrow as pa
import pytest

from xbridge.analysis.resampling import Predictions, resample
from xbridge.analysis.statistics import resampling_weights
from xbridge.analysis.transfer import Config, Inputs, run
from xbridge.core.errors import UserError
from xbridge.core.files import read_json, read_rows, write_json, write_table
from xbridge.tasks import metrics
from xbridge.tasks.evaluate import SCORES

TARGETS = ("eng_Latn", "deu_Latn", "spa_Latn")
LABELS = np.array(["on", "off", "dim"])


def classified(n, accuracy, seed):
    """Gold labels, the same for every run, and predictions with about that share right."""
    gold = LABELS[np.random.default_rng(0).integers(3, size=n)]
    rng = np.random.default_rng(seed)
    return gold.tolist(), np.where(rng.random(n) < accuracy, gold, LABELS[rng.integers(3, size=n)]).tolist()


def evaluation(folder, labels, predictions, ids=None):
    """An evaluate folder: predictions {lang: (gold, said)}."""
    rows = []
    for lang, (gold, said) in predictions.items():
        names = ids or [f"{lang}-{i}" for i in range(len(gold))]
        write_table(
            folder / "predictions" / f"{lang}.parquet", pa.table({"id": names, "gold": gold, "prediction": said})
        )
        for metric in ("accuracy", "macro_accuracy"):
            for predictor, answer in (("model", said), ("constant", ["on"] * len(gold))):
                value = getattr(metrics, metric)(gold, answer)
                rows.append(
                    {"task": "classification", "metric": metric, "predictor": predictor, "source_lang": "eng_Latn",
                     "target_lang": lang, "site": "", "value": value, "n": len(gold)}
                )  # fmt: skip
    write_table(folder / "scores.parquet", rows, SCORES)
    write_json(folder / "manifest.json", {"labels": labels})
    return folder


def study(tmp_path, accuracies, n=120, languages=TARGETS, num_seeds=2):
    """Arms with two training seeds and two fine-tuning seeds each, except base with one training run."""
    found = {}
    for arm, accuracy in accuracies.items():
        for train_seed in range(1 if arm == "base" else num_seeds):
            for finetune_seed in range(2):
                name = f"{arm}-s{train_seed}-f{finetune_seed}"
                labels = {"model": f"{arm}-s{train_seed}", "arm": arm, "train_seed": train_seed, "task": "intents",
                          "mode": "finetune", "finetune_seed": finetune_seed}  # fmt: skip
                seeds = [hash_free(arm, train_seed, finetune_seed, i) for i in range(len(languages))]
                said = {lang: classified(n, accuracy, s) for lang, s in zip(languages, seeds, strict=True)}
                found[name] = evaluation(tmp_path / name, labels, said)
    return found


def hash_free(arm, *numbers):
    return [sum(arm.encode()), *numbers]


def transfer(tmp_path, evaluations, **inputs):
    run(Config(num_resamples=500), Inputs(evaluations=evaluations, **inputs), tmp_path / "out")
    rows = read_rows(tmp_path / "out" / "transfer.parquet")
    return {(r["arm"], r["metric"], r["target_lang"]): r for r in rows}


@pytest.fixture
def rows(tmp_path):
    return transfer(tmp_path, study(tmp_path, {"base": 0.5, "denoise": 0.5, "mt": 0.9, "mt_shuffled": 0.5}))


def test_values_are_means_over_seeds_and_languages(tmp_path, rows):
    seeds = read_rows(tmp_path / "out" / "seeds.parquet")
    mine = [s for s in seeds if (s["arm"], s["metric"]) == ("mt", "macro_accuracy")]
    german = [s["value"] for s in mine if s["target_lang"] == "deu_Latn"]
    row = rows["mt", "macro_accuracy", "deu_Latn"]
    assert row["value"] == pytest.approx(np.mean(german))
    assert row["num_seeds"] == len(german) == 4
    assert row["seed_sd"] == pytest.approx(np.std([np.mean(german[:2]), np.mean(german[2:])], ddof=1))
    assert row["n"] == 120
    both = [rows["mt", "macro_accuracy", lang]["value"] for lang in ("deu_Latn", "spa_Latn")]
    assert rows["mt", "macro_accuracy", "zero-shot"]["value"] == pytest.approx(np.mean(both))
    assert rows["mt", "macro_accuracy", "zero-shot"]["n"] == 240
    assert ("mt", "macro_accuracy", "source") in rows
    assert ("mt", "macro_accuracy", "eng_Latn") not in rows
    assert {s["train_seed"] for s in mine} == {0, 1}


def test_a_planted_gain_is_found_and_a_control_is_not(rows):
    gain, control = (rows[arm, "accuracy", "zero-shot"] for arm in ("mt", "mt_shuffled"))
    assert gain["difference"] == pytest.approx(gain["value"] - rows["denoise", "accuracy", "zero-shot"]["value"])
    assert gain["ci_low"] > 0
    assert gain["p_holm"] < 0.05
    assert control["ci_low"] < 0 < control["ci_high"]
    assert gain["p_value"] <= gain["p_holm"] <= 3 * gain["p_value"] + 1e-12
    reference = rows["denoise", "accuracy", "zero-shot"]
    assert reference["difference"] is None
    assert reference["ci_low"] is None


def test_floor_is_the_constant_predictors_score(rows):
    assert rows["mt", "macro_accuracy", "zero-shot"]["floor"] == pytest.approx(1 / 3)


def test_two_runs_give_the_same_files(tmp_path):
    evaluations = study(tmp_path, {"denoise": 0.5, "mt": 0.7}, n=40)
    for name in "xy":
        run(Config(num_resamples=200), Inputs(evaluations=evaluations), tmp_path / name)
    for file in ("transfer.parquet", "seeds.parquet", "correlations.parquet"):
        assert (tmp_path / "x" / file).read_bytes() == (tmp_path / "y" / file).read_bytes()


def test_gaps_are_listed_and_left_out_of_the_mean(tmp_path):
    evaluations = study(tmp_path, {"denoise": 0.5, "mt": 0.7}, n=40)
    short = study(tmp_path / "short", {"other": 0.5}, n=40, languages=TARGETS[:2])
    (tmp_path / "broken").mkdir()
    rows = transfer(tmp_path, {**evaluations, **short, "broken": tmp_path / "broken"})
    gaps = read_json(tmp_path / "out" / "gaps.json")
    assert {(g["evaluation"], g["target_lang"]) for g in gaps} == {("broken", None), *((s, "spa_Latn") for s in short)}
    assert ("other", "accuracy", "deu_Latn") in rows
    assert ("other", "accuracy", "zero-shot") not in rows
    assert ("mt", "accuracy", "zero-shot") in rows


def test_a_study_without_the_reference_still_has_scores(tmp_path):
    rows = transfer(tmp_path, study(tmp_path, {"mt": 0.7}, n=40))
    assert rows["mt", "accuracy", "zero-shot"]["value"] > 0.5
    assert rows["mt", "accuracy", "zero-shot"]["difference"] is None


def test_other_examples_and_other_scores_are_refused(tmp_path):
    evaluations = study(tmp_path, {"denoise": 0.5}, n=40)
    labels = {"arm": "mt", "task": "intents", "mode": "finetune"}
    gold, said = classified(40, 0.5, 3)
    other = evaluation(tmp_path / "other", labels, {"deu_Latn": (gold, said)}, ids=[f"x{i}" for i in range(40)])
    with pytest.raises(UserError, match=r"other: deu_Latn: scored on other examples"):
        transfer(tmp_path, {**evaluations, "other": other})
    edited = evaluation(tmp_path / "edited", labels, {"deu_Latn": (gold, said)})
    scores = read_rows(edited / "scores.parquet")
    write_table(edited / "scores.parquet", [{**row, "value": 0.123} for row in scores], SCORES)
    with pytest.raises(UserError, match="predictions give accuracy"):
        transfer(tmp_path, {"edited": edited})
    with pytest.raises(UserError, match="no finished evaluation"):
        transfer(tmp_path, {})


def test_correlations_find_a_planted_relation(tmp_path):
    accuracies = {"base": 0.3, "denoise": 0.5, "mt": 0.9, "mt_shuffled": 0.7}
    evaluations = study(tmp_path, accuracies, n=300, num_seeds=1)
    folders = {}
    for arm, accuracy in accuracies.items():
        folders[arm] = tmp_path / f"separability-{arm}"
        keys = {"target": "label", "site": "encoder.2", "metric": "fisher_ratio", "stderr": 0.1, "n": 9, "chance": 0.1}
        rows = [
            {**keys, "language": lang, "value": accuracy * scale} for lang, scale in (("deu_Latn", 1), ("spa_Latn", 3))
        ]
        write_table(folders[arm] / "separability.parquet", rows)
        write_json(folders[arm] / "manifest.json", {"labels": {"model": f"{arm}-s0"}})
    transfer(tmp_path, evaluations, separability=folders)
    found = read_rows(tmp_path / "out" / "correlations.parquet")
    (row,) = [r for r in found if (r["metric"], r["correlation"]) == ("accuracy", "spearman")]
    assert row["value"] == pytest.approx(1)
    assert row["num_models"] == 4
    assert row["p_value"] == pytest.approx(2 / 24)
    assert row["separability_site"] == "encoder.2"


TAGS = ["O", "B-area", "I-area", "B-name", "I-name"]


@pytest.mark.parametrize("metric", ["span_f1", "span_f1_strict", "tag_accuracy"])
def test_resampled_tag_scores_are_the_scores_of_the_resampled_sentences(metric):
    rng = np.random.default_rng(1)
    gold, said = ([[TAGS[t] for t in rng.integers(5, size=rng.integers(1, 7))] for _ in range(30)] for _ in range(2))
    said = [[*s, *g][: len(g)] for g, s in zip(gold, said, strict=True)]
    predictions = Predictions({"id": list(range(30)), "gold": gold, "prediction": said})
    weights = resampling_weights(30, 5, rng)

    def official(indices):
        score = getattr(metrics, metric)([gold[i] for i in indices], [said[i] for i in indices])
        return score if isinstance(score, float) else score.f1

    counts = predictions.counts(metric, "")
    drawn = [np.repeat(np.arange(30), w.astype(int)) for w in weights]
    assert resample([counts, counts], weights)[1] == pytest.approx([official(d) for d in drawn])
    assert counts.value() == pytest.approx(official(range(30)))


@pytest.mark.parametrize("metric", ["accuracy", "macro_accuracy"])
def test_resampled_label_scores_are_the_scores_of_the_resampled_examples(metric):
    gold, said = classified(25, 0.5, 4)
    counts = Predictions({"id": list(range(25)), "gold": gold, "prediction": said}).counts(metric, "")
    weights = resampling_weights(25, 5, np.random.default_rng(2))
    drawn = [np.repeat(np.arange(25), w.astype(int)) for w in weights]
    official = [getattr(metrics, metric)([gold[i] for i in d], [said[i] for i in d]) for d in drawn]
    assert resample([counts, counts], weights)[1] == pytest.approx(official)


def test_retrieval_counts_are_per_site_rule_and_direction():
    columns = {
        "id": ["a", "b", "a", "b"],
        "site": ["encoder.0", "encoder.0", "encoder.1", "encoder.1"],
        "margin": ["cosine"] * 4,
        "forward_hit": [True, False, True, True],
        "backward_hit": [False, False, True, False],
    }
    predictions = Predictions(columns)
    values = {m: predictions.counts(m, "encoder.1").value() for m in ("cosine", "cosine_forward", "cosine_backward")}
    assert values == {"cosine": 0.75, "cosine_forward": 1.0, "cosine_backward": 0.5}
    assert predictions.counts("cosine", "encoder.0").value() == 0.25
    assert predictions.counts("chrf", "") is None
