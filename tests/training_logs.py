"""What the log of a training says, for tests that compare two."""

import json

import pytest


def updates(folder):
    """The updates in a training's log, without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines if "loss" in line]


def assert_same_training(one, other, rel=1e-5):
    """The same batches in the same order, and losses equal but for the order of float32 sums."""
    one, other = updates(one), updates(other)
    assert [line["batch_digest"] for line in one] == [line["batch_digest"] for line in other]
    assert [line["loss"] for line in one] == pytest.approx([line["loss"] for line in other], rel=rel)
