"""The learning rate in closed form, and what is decayed."""

import math

import pytest
from torch import nn

from xbridge.core.config import parse
from xbridge.core.errors import ConfigError
from xbridge.training.optim import OptimConfig, learning_rate, make_optimizer


def rates(schedule, num_steps=101, **settings):
    config = OptimConfig(lr=1.0, warmup_steps=10, schedule=schedule, final_share=0.1, **settings)
    return [learning_rate(config, step, num_steps) for step in range(num_steps)]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "inverse_sqrt"])
def test_warm_up_rises_evenly_to_the_peak(schedule):
    assert rates(schedule)[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])


def test_each_schedule_follows_its_formula():
    assert rates("constant")[10:] == [1.0] * 91
    assert rates("linear")[10:] == pytest.approx([1 - 0.9 * step / 90 for step in range(91)])
    assert rates("cosine")[10:] == pytest.approx([0.1 + 0.9 * (1 + math.cos(math.pi * s / 90)) / 2 for s in range(91)])
    assert rates("inverse_sqrt")[10:] == pytest.approx([math.sqrt(10 / (step + 1)) for step in range(10, 101)])


def test_the_last_update_has_the_final_share_of_the_peak():
    assert rates("linear")[-1] == pytest.approx(0.1)
    assert rates("cosine")[-1] == pytest.approx(0.1)


def test_matrices_are_decayed_and_vectors_are_not_and_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    model[2].requires_grad_(False)
    groups = make_optimizer(model, OptimConfig(weight_decay=0.3)).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(1, 0.3), (3, 0.0)]


@pytest.mark.parametrize(("key", "value"), [("lr", 0), ("warmup_steps", -1), ("final_share", 2), ("clip_norm", -1)])
def test_values_out_of_range_name_their_key(key, value):
    with pytest.raises(ConfigError, match=f"^optim.{key}: "):
        parse(OptimConfig, {key: value}, "optim")
