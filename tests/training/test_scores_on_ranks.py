"""Scores of translations on several ranks, sharded or not: the same texts and numbers as on one."""

import pytest
from test_processes import STILL, needs_deepspeed, run
from tiny_training import lines

from xbridge.core.files import read_json, read_rows

pytestmark = pytest.mark.slow

SETTINGS = {
    **STILL,
    "objective": "translation",
    "budget": {"unit": "steps", "amount": 12},
    "validate_every": 4,
    "optim": {"lr": 1e-9, "warmup_steps": 0},
    "translation_scores": {"every": 4, "rows": 7, "max_new_tokens": 8, "batch_tokens": 64},
    "early_stopping": {"metric": "macro_chrf++", "patience": 2, "min_delta": 0.01},
}


@pytest.fixture(scope="module")
def alone(inputs, tmp_path_factory):
    """One process, which stops after the third validation."""
    return run(inputs, tmp_path_factory.mktemp("alone"), **SETTINGS)


@pytest.mark.parametrize(
    ("ranks", "stage"), [(3, 0), pytest.param(2, 2, marks=needs_deepspeed), pytest.param(3, 3, marks=needs_deepspeed)]
)
def test_ranks_translate_score_and_stop_as_one_process_does(inputs, alone, tmp_path, ranks, stage):
    run(inputs, tmp_path, ranks=ranks, zero={"stage": stage}, **SETTINGS)
    found, expected = ([line for line in lines(out) if "translation" in line] for out in (tmp_path, alone))
    assert [line["step"] for line in found] == [0, 4, 8]
    assert [line["translation"] for line in found] == [line["translation"] for line in expected]
    for one, other in zip(found, expected, strict=True):
        assert one["validation"] == pytest.approx(other["validation"], rel=1e-5)
        name = f"translations/step-{one['step']:06d}.parquet"
        assert read_rows(tmp_path / name) == read_rows(alone / name)
    assert read_json(tmp_path / "summary.json")["stopped_early"] == read_json(alone / "summary.json")["stopped_early"]
