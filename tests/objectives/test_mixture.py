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


def test_a_weight_of_zero_is_refused():
    with pytest.raises(ConfigError, match=r"components\.0\.weight: must be above 0"):
        parse(Config, {"components": [{"objective": "translation", "weight": 0}]})
