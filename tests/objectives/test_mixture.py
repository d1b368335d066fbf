"""Mixtures: shares by weight, and the loss of the whole as the sum of its parts."""

import numpy as np
import pytest
import torch

from xbridge.core.config import parse
from xbridge.core.errors import ConfigError
from xbridge.data.sampling import Examples
from xbridge.models.loading import new_mbart
from xbridge.objectives import denoising, translation
from xbridge.objectives.mixture import Config, build

MIXED = {"components": [{"objective": "translation", "weight": 3}, {"objective": "denoising", "weight": 1}]}


def test_parts_carry_their_objective_and_shares_follow_the_weights(material):
    mixture = build(parse(Config, MIXED), material)
    names = [part.name for part in mixture.parts]
    assert names[0] == "translation/eng_Latn-deu_Latn"
    assert names[4:] == ["denoising/eng_Latn", "denoising/deu_Latn", "denoising/spa_Latn"]
    assert mixture.shares.values[0].sum() == pytest.approx(1)
    assert mixture.shares.values[0, :4].sum() == pytest.approx(0.75)


def test_the_loss_is_the_sum_of_the_objectives_losses(material, toy_tokenizer):
    model = new_mbart(
        toy_tokenizer, seed=0, layers=1, d_model=16, ffn=16, heads=2, init_std=0.2, max_positions=16, dropout=0.0
    ).eval()
    mixture = build(parse(Config, MIXED), material)
    parts = np.asarray([5, 0, 4, 3, 6])
    rows, zeros = np.arange(5), np.zeros(5, dtype=np.int64)
    chosen = Examples(parts, rows, zeros)
    whole = mixture.loss(model, mixture.collate(chosen))
    mt, noise = translation.build(translation.Config(), material), denoising.build(denoising.Config(), material)
    first = mt.loss(model, mt.collate(Examples(np.asarray([0, 3]), rows[[1, 3]], zeros[:2])))
    second = noise.loss(model, noise.collate(Examples(np.asarray([1, 0, 2]), rows[[0, 2, 4]], zeros[:3])))
    torch.testing.assert_close(whole.sum, first.sum + second.sum)
    assert whole.count == first.count + second.count == mixture.lengths(chosen).supervised.sum()


def test_an_objective_without_rows_is_there_unscored_and_changes_nothing(material, toy_tokenizer):
    model = new_mbart(
        toy_tokenizer, seed=0, layers=1, d_model=16, ffn=16, heads=2, init_std=0.2, max_positions=16, dropout=0.0
    ).eval()
    mixture, noise = build(parse(Config, MIXED), material), denoising.build(denoising.Config(), material)
    rows = np.arange(3)
    batch = mixture.collate(Examples(rows + 4, rows, rows * 0))
    assert [(index, own.count > 0) for index, own in batch] == [(0, False), (1, True)]
    whole, alone = mixture.loss(model, batch), noise.loss(model, noise.collate(Examples(rows, rows, rows * 0)))
    assert (whole.sum.item(), whole.count) == (alone.sum.item(), alone.count)


def test_weights_change_with_the_phases_of_the_run_and_the_plan_follows_them(material):
    from xbridge.data.batching import Budget, TokenPlan

    early, late = ([{"until": 0.5, "value": a}, {"until": 1, "value": b}] for a, b in ((1, 0), (0, 1)))
    components = [{"objective": "denoising", "weight": early}, {"objective": "translation", "weight": late}]
    mixture = build(parse(Config, {"components": components}), material)
    assert mixture.shares.until == (0.5, 1.0)
    assert mixture.shares.values[:, :3].sum(axis=1).tolist() == pytest.approx([1, 0])
    budget = Budget(unit="steps", amount=40)
    plan = TokenPlan(mixture, seed=1, budget=budget, batch_tokens=200, shares=mixture.shares)
    is_noise = [float((plan.examples(step).part < 3).mean()) for step in range(plan.num_steps)]
    switch = is_noise.index(0.0)
    assert is_noise == [1.0] * switch + [0.0] * (40 - switch)
    assert switch == pytest.approx(20, abs=4)


def test_a_phase_without_any_weight_is_refused():
    late = [{"until": 0.5, "value": 0}, {"until": 1, "value": 1}]
    with pytest.raises(ConfigError, match=r"all weights are 0 in the phase that ends at 0\.5"):
        parse(Config, {"components": [{"objective": "translation", "weight": late}]})


def test_a_weight_of_zero_is_refused():
    with pytest.raises(ConfigError, match=r"components\.0\.weight: must be above 0"):
        parse(Config, {"components": [{"objective": "translation", "weight": 0}]})
