"""Which scores are read, and the statistics the report works out by itself."""

from pathlib import Path

import pytest
from report_study import make_study
from scipy.stats import spearmanr

from xbridge.core.files import read_rows
from xbridge.report import palette, tables
from xbridge.report.page import Inputs
from xbridge.report.readings import Reading, per_train_seed, primary_readings, site_order, spread
from xbridge.report.sections.separability import spearman, without_one_arm


def test_one_reading_per_task_and_mode_is_chosen_by_rule(inputs: Inputs) -> None:
    assert inputs.transfer is not None
    rows = read_rows(inputs.transfer / "transfer.parquet")
    assert primary_readings(rows) == [
        Reading("intents", "finetune", "macro_accuracy", ""),
        Reading("intents", "probe", "macro_accuracy", ""),
        Reading("slots", "finetune", "span_f1", ""),
        Reading("retrieval", "zeroshot", "centred_margin", "encoder.3"),
    ]


def test_kinds_follow_from_mode_and_metric() -> None:
    assert Reading("intents", "probe", "accuracy", "").kind == "transfer"
    assert Reading("retrieval", "zeroshot", "cosine", "encoder.1").kind == "alignment"
    assert Reading("translation", "zeroshot", "chrf_to_pivot", "").kind == "generation"


def test_layers_are_ordered_by_number() -> None:
    assert sorted(["encoder.10", "encoder.9", "encoder.0"], key=site_order) == ["encoder.0", "encoder.9", "encoder.10"]


def test_fine_tuning_seeds_are_averaged_within_training_seeds() -> None:
    rows = [
        {"arm": "mt", "target_lang": "zero-shot", "train_seed": 0, "value": 0.1},
        {"arm": "mt", "target_lang": "zero-shot", "train_seed": 0, "value": 0.3},
        {"arm": "mt", "target_lang": "zero-shot", "train_seed": 1, "value": 0.5},
        {"arm": "mt", "target_lang": "deu_Latn", "train_seed": 1, "value": 0.9},
        {"arm": "denoise", "target_lang": "zero-shot", "train_seed": 1, "value": 0.9},
    ]
    assert per_train_seed(rows, "mt") == pytest.approx({0: 0.2, 1: 0.5})


def test_spread_is_the_sample_standard_deviation() -> None:
    assert spread([1.0, 2.0, 4.0]) == pytest.approx(1.5275252316519468)
    assert spread([1.0]) is None


@pytest.mark.parametrize(
    ("x", "y"), [([1, 2, 3, 4], [4, 3, 1, 2]), ([1, 1, 2, 5], [0.1, 0.3, 0.3, 0.2]), ([3, 1, 2], [3, 1, 2])]
)
def test_rank_correlation_agrees_with_scipy(x: list[float], y: list[float]) -> None:
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)


def test_rank_correlation_of_a_constant_is_none() -> None:
    assert spearman([1, 1, 1], [1, 2, 3]) is None


def test_leaving_out_one_arm_can_turn_a_correlation_around() -> None:
    points = [
        {"arm": arm, "separability": x, "score": y}
        for arm, x, y in [("a", 1, 3), ("b", 2, 2), ("c", 3, 1), ("mt", 9, 9), ("mt", 8, 8)]
    ]
    low, high = without_one_arm(points)
    assert low == pytest.approx(-1.0)
    assert high == pytest.approx(0.8)


def test_arms_keep_their_order_and_style() -> None:
    arms = ["tlm", "mt", "denoise", "base", "both", "random", "mt_shuffled"]
    assert palette.ordered(arms) == ["random", "base", "denoise", "mt_shuffled", "mt", "tlm", "both"]
    assert palette.styles(["mt", "denoise"])["mt"] == palette.styles(arms)["mt"]


def test_the_terminals_headline_fits_80_columns(tmp_path: Path) -> None:
    arms = ("denoise", "mt", "an_arm_with_quite_a_long_name_of_its_own")
    inputs = make_study(tmp_path, num_languages=3, arms=arms)
    assert inputs.transfer is not None
    text = tables.headline(inputs.transfer)
    assert max(map(len, text.splitlines())) <= tables.WIDTH
    row = next(
        r
        for r in read_rows(inputs.transfer / "transfer.parquet")
        if (r["task"], r["mode"], r["metric"], r["arm"], r["target_lang"])
        == ("intents", "probe", "macro_accuracy", "mt", "zero-shot")
    )
    line = text[text.index("intents, frozen probe") :].split("\n  mt ")[1].split("\n")[0]
    assert f"{row['value']:.3f}" in line
    assert f"{row['difference']:+.3f}" in line
    assert "random" in text
    assert "constant predictor" in text
