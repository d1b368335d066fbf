"""Scores of translations on several ranks, sharded or not: the same texts and numbers as on one."""

import importlib.util
import os
import signal
import time
from pathlib import Path

import pytest
from processes import run, start, wait_for_step
from tiny_training import TINY, lines, updates

from xbridge.core.files import read_json, read_rows

pytestmark = pytest.mark.slow
needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")

SETTINGS = {
    "scratch": {**TINY, "dropout": 0.0},  # dropout masks are drawn per rank
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


def test_a_signal_in_the_middle_of_a_search_is_acted_on_and_the_run_continues_bit_for_bit(inputs, tmp_path):
    long = {"every": 4, "rows": 12, "max_new_tokens": 8, "num_beams": 4, "batch_tokens": 1}  # a sentence to a batch
    settings = {**SETTINGS, "translation_scores": long, "early_stopping": {}, "budget": {"unit": "steps", "amount": 8}}
    run(inputs, tmp_path / "whole", ranks=2, **settings)
    process = start(inputs, tmp_path / "cut", ranks=2, **settings)
    wait_for_step(tmp_path / "cut", 4)
    time.sleep(0.1)  # into the search that follows update 4
    ranks = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    os.kill(ranks[1], signal.SIGTERM)
    process.communicate(timeout=300)
    assert len(updates(tmp_path / "cut")) == 4
    assert not any(line["step"] == 4 for line in lines(tmp_path / "cut") if "translation" in line)
    run(inputs, tmp_path / "cut", ranks=2, **settings)
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
