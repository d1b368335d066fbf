"""The numbers of a training do not depend on ranks, micro-batches or ZeRO stage, and not on where it was stopped.

Trainings of equally many ranks share one launch: starting processes costs more than fifty tiny updates.
"""

import importlib.util

import pytest
import torch
from processes import run_all, weights
from tiny_training import TINY, lines, updates

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"),
]

STILL = {
    "scratch": {**TINY, "dropout": 0.0},  # dropout masks are drawn per rank
    "budget": {"unit": "steps", "amount": 50},
    "save_every": 20,
    "keep_after": 9,
    "validate_every": 25,
}
# ranks -> (ZeRO stage, accumulation): each stage meets each number of ranks or each accumulation at least once
MATRIX = {
    1: [(0, 1), (0, 3), (2, 1), (3, 3)],
    2: [(0, 1), (1, 3), (2, 1), (3, 1)],
    4: [(0, 3), (1, 1), (2, 3), (3, 3)],
}
SUMS = 1e-5  # relative: float32 sums of a batch in another order, over fifty updates
OFFLOADED = {"stage": 3, "offload_optimizer": "cpu", "offload_parameters": "cpu"}


NOISY = {**STILL, "scratch": {**TINY, "dropout": 0.3}}
SOURCE = (4, 2, 3)
CONTINUED = {4: [2], 2: [1, 3], 1: [0, 3], 3: [0, 2], 8: [1]}  # ranks -> stages that go on from step 20 of SOURCE
MIXED = {
    **STILL,
    "objective": {"type": "mixture", "components": [{"objective": "translation"}, {"objective": "denoising"}]},
    "batch_tokens": 60,  # a rank's few rows are often all of one objective
}
NOISY_WAYS = {  # on three ranks DeepSpeed adds in another order from run to run; our own sums do not
    2: [{"stage": 0}, {"stage": 1}, {"stage": 2, "offload_optimizer": "cpu"}, OFFLOADED],
    3: [{"stage": 0}],
}
HALF = {2: [0, 2, 3]}  # ranks -> stages in bf16


@pytest.fixture(scope="module")
def runs(inputs, tmp_path_factory):
    """The folder of all runs: RANKS-STAGE-ACCUMULATION, {on,mixed,noisy,again}-RANKS-STAGE."""
    root = tmp_path_factory.mktemp("runs")
    source = root / "{}-{}-{}".format(*SOURCE)
    for ranks in (4, 2, 1, 3, 8):
        trainings, copies = {}, {}
        for stage, accumulation in MATRIX.get(ranks, []):
            trainings[root / f"{ranks}-{stage}-{accumulation}"] = with_zero(STILL, stage, accumulation)
        for stage in CONTINUED[ranks]:
            copies[root / f"on-{ranks}-{stage}"] = source
            trainings[root / f"on-{ranks}-{stage}"] = with_zero(STILL, stage, SOURCE[2])
        for zero in NOISY_WAYS.get(ranks, []):
            first, again = (root / f"{name}-{ranks}-{zero['stage']}" for name in ("noisy", "again"))
            copies[again] = first
            trainings[first] = trainings[again] = {**NOISY, "zero": zero}
        for stage in HALF.get(ranks, []):
            first, again = (root / f"{name}-{ranks}-bf16-{stage}" for name in ("noisy", "again"))
            copies[again] = first
            trainings[first] = trainings[again] = {**NOISY, "precision": "bf16", "zero": {"stage": stage}}
        for stage in {1: [0], 2: [0, 3]}.get(ranks, []):
            trainings[root / f"mixed-{ranks}-{stage}"] = with_zero(MIXED, stage, 1)
        run_all(inputs, ranks, trainings, copies=copies, step=20)
    return root


def with_zero(settings, stage, accumulation):
    """Settings with another way to do the same."""
    return {**settings, "zero": {"stage": stage}, "accumulation": accumulation}


def assert_close(found, expected, tolerance=SUMS):
    """Same batches and counts; losses, gradient norms and validations within float32 sums."""
    assert len(found) == len(expected)
    for one, two in zip(found, expected, strict=True):
        assert one.keys() == two.keys()
        for key, value in one.items():
            if key == "loss":
                assert value == pytest.approx(two[key], rel=tolerance)
            elif key == "grad_norm":
                assert value == pytest.approx(two[key], rel=20 * tolerance)
            elif key == "validation":
                assert value == pytest.approx(two[key], rel=tolerance)
            else:
                assert value == two[key], key


@pytest.mark.parametrize("way", [(ranks, *way) for ranks, ways in MATRIX.items() for way in ways], ids=str)
def test_losses_updates_and_validations_are_those_of_one_process(runs, way):
    found, reference = runs / "{}-{}-{}".format(*way), runs / "1-0-1"
    assert_close(lines(found), lines(reference))
    expected = weights(reference)
    for name, tensor in weights(found).items():
        if not name.endswith("k_proj.bias"):  # softmax ignores it: its gradient is rounding noise, magnified by AdamW
            torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("stage", [0, 3])
def test_ranks_whose_rows_are_of_different_objectives_train_a_mixture_as_one_process_does(runs, stage):
    assert_close(lines(runs / f"mixed-2-{stage}"), lines(runs / "mixed-1-0"))


def test_clipping_was_at_work_in_these_runs(runs):
    assert sum(line["grad_norm"] > 1 for line in updates(runs / "1-0-1")) > 5  # optim.clip_norm is 1


@pytest.mark.parametrize("way", [(ranks, stage) for ranks, stages in CONTINUED.items() for stage in stages], ids=str)
def test_a_run_saved_on_four_ranks_continues_on_any_number_at_any_stage(runs, way):
    found, source = runs / "on-{}-{}".format(*way), runs / "{}-{}-{}".format(*SOURCE)
    assert_close(lines(found), lines(source))


@pytest.mark.parametrize(
    "way", [(2, 0), (2, 1), (2, 2), (2, 3), (3, 0), (2, "bf16-0"), (2, "bf16-2"), (2, "bf16-3")], ids=str
)
def test_a_run_continues_bit_for_bit_with_dropout(runs, way):
    assert_identical(runs / "again-{}-{}".format(*way), runs / "noisy-{}-{}".format(*way))


def assert_identical(found, source):
    """The same numbers to the last bit."""
    assert lines(found) == lines(source)
    expected = weights(source)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(found).items())
