"""Small trainings over the toy corpus, and their logs."""

import json

import pytest

from xbridge.core.config import parse
from xbridge.training import train

TINY = {"layers": 1, "d_model": 16, "ffn": 32, "heads": 2, "init_std": 0.2, "max_positions": 16, "dropout": 0.1}
DEFAULTS = {
    "objective": "denoising",
    "scratch": TINY,
    "budget": {"unit": "steps", "amount": 10},
    "batch_tokens": 200,
    "max_tokens": 8,
    "optim": {"lr": 1e-2, "warmup_steps": 3},
    "validation_rows": 4,
    "validate_every": 5,
    "save_every": 4,
}


def config(**changes):
    """Ten steps of denoising, with dropout, on a tiny model; None removes a setting."""
    data = {key: value for key, value in {**DEFAULTS, **changes}.items() if value is not None}
    return parse(train.Config, data)


def lines(folder):
    """metrics.jsonl without what depends on the clock."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


def updates(folder):
    """The lines of updates alone."""
    return [line for line in lines(folder) if "loss" in line]


def assert_same_training(one, other, rel=1e-5):
    """The same batches in the same order, and losses equal but for the order of float32 sums."""
    one, other = updates(one), updates(other)
    assert [line["batch_digest"] for line in one] == [line["batch_digest"] for line in other]
    assert [line["loss"] for line in one] == pytest.approx([line["loss"] for line in other], rel=rel)
