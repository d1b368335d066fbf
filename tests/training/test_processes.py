"""Trainings as processes: killed and continued, on two ranks, and sharded. Nothing here is simulated."""

import importlib.util
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
import torch
from processes import finished, launch, ranks_of, run, start, wait_for_step, weights, write_settings
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


def test_two_ranks_stopped_at_twenty_random_moments_give_the_trace_of_a_run_that_was_not(inputs, tmp_path):
    settings = {
        "objective": "translation", "budget": {"unit": "steps", "amount": 600}, "save_every": 7, "validate_every": 10,
        "translation_scores": {"every": 20, "rows": 4, "max_new_tokens": 6, "batch_tokens": 60},
    }  # fmt: skip
    run(inputs, tmp_path / "whole", ranks=2, **settings)
    cut = write_settings(tmp_path / "cut", **settings)
    process = launch(inputs, [cut], ranks=2, script=Path(__file__).with_name("stop_often.py"))
    random, sent = Random(0), 0
    wait_for_step(cut, 3)
    while process.poll() is None and sent < 60:
        time.sleep(random.uniform(0.05, 0.5))
        number = random.choice([signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
        before = (cut / "stops").read_text()
        with suppress(ProcessLookupError, FileNotFoundError, IndexError):  # the run may end just now
            os.kill(random.choice(ranks_of(process)), number)
        sent += 1
        for _ in range(200):
            if process.poll() is not None or (cut / "stops").read_text() != before:
                break
            time.sleep(0.02)
    finished(process)
    assert int((cut / "stops").read_text()) >= 20
    assert_same_run(cut, tmp_path / "whole")


@needs_deepspeed
def test_a_rank_that_dies_ends_the_others_with_a_message_and_kills_cost_no_number(inputs, tmp_path):
    settings = {**LONG, "zero": {"stage": 2}, "budget": {"unit": "steps", "amount": 60}, "save_every": 1}
    run(inputs, tmp_path / "whole", ranks=2, **settings)
    cut = tmp_path / "cut"
    process = start(inputs, cut, ranks=2, **settings)
    wait_for_step(cut, 11)
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    assert process.communicate(timeout=120)[1].count("xbridge: ") <= 1
    process = start(inputs, cut, ranks=2, **settings)
    wait_for_step(cut, 31)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=120)
    run(inputs, cut, ranks=2, **settings)
    assert_same_run(cut, tmp_path / "whole")
