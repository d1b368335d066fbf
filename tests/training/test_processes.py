"""Trainings as processes: killed and continued, on two ranks, and sharded. Nothing here is simulated."""

import importlib.util
import os
import signal
import time

import pytest
import torch
from processes import finished, ranks_of, run, start, wait_for_step, weights
from tiny_training import lines, updates

pytestmark = pytest.mark.slow

needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
REDUCTION = 1e-5  # float32 sums of a batch in another order, over ten updates


def assert_same_run(one, two):
    assert lines(one) == lines(two)
    expected = weights(two)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(one).items())


LONG = {"budget": {"unit": "steps", "amount": 400}, "save_every": 20, "validate_every": 150}


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    """400 updates without interruption."""
    return run(inputs, tmp_path_factory.mktemp("whole"), **LONG)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signalled_training_saves_and_continues_bit_for_bit(inputs, whole, tmp_path, number):
    process = start(inputs, tmp_path, **LONG)
    wait_for_step(tmp_path, 33)
    process.send_signal(number)
    finished(process, 128 + number)
    stopped = len(updates(tmp_path))
    assert [path.name for path in sorted((tmp_path / "checkpoints").glob("step-*"))][-1] == f"step-{stopped:06d}"
    run(inputs, tmp_path, **LONG)
    assert_same_run(tmp_path, whole)


def test_a_training_killed_many_times_ends_with_the_numbers_of_one_that_was_not(inputs, whole, tmp_path):
    for step in (27, 61, 140):
        process = start(inputs, tmp_path, **LONG)
        wait_for_step(tmp_path, step)
        os.killpg(process.pid, signal.SIGKILL)
        finished(process, -signal.SIGKILL)
    run(inputs, tmp_path, **LONG)
    assert_same_run(tmp_path, whole)


def test_kills_in_the_middle_of_saves_never_leave_a_checkpoint_that_is_not_whole(inputs, whole, tmp_path):
    often = {**LONG, "save_every": 1}  # most of the time is spent saving
    for attempt in range(4):
        process = start(inputs, tmp_path, **often)
        wait_for_step(tmp_path, 12 * (attempt + 1))
        time.sleep(0.011 * attempt)
        os.killpg(process.pid, signal.SIGKILL)
        finished(process, -signal.SIGKILL)
    run(inputs, tmp_path, **often)
    assert_same_run(tmp_path, whole)


def test_two_ranks_stop_at_the_same_step_when_one_is_signalled(inputs, tmp_path):
    process = start(inputs, tmp_path, ranks=2, **LONG)
    wait_for_step(tmp_path, 33)
    os.kill(ranks_of(process)[1], signal.SIGTERM)
    process.communicate(timeout=300)
    stopped = len(updates(tmp_path))
    assert stopped < 400
    assert (tmp_path / "checkpoints" / f"step-{stopped:06d}" / "state.json").exists()
