"""Neuron-wise measures and regression against scikit-learn, brute force and closed forms."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from xbridge.similarity import anc, anc_absolute, linear_r2, max_correlation


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(n: int, d1: int, d2: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    latent = normal(n, 3, seed=seed)
    return (
        latent @ normal(3, d1, seed=seed + 1) + normal(n, d1, seed=seed + 3) + 5,
        latent @ normal(3, d2, seed=seed + 2) + normal(n, d2, seed=seed + 4) - 2,
    )


def test_anc_is_the_mean_of_numpy_correlations_signed_and_absolute():
    x, y = related(30, 5, 5)
    correlations = np.array([np.corrcoef(x[:, j], y[:, j])[0, 1] for j in range(5)])
    assert (correlations < 0).any()
    assert (correlations > 0).any()
    assert anc(x, y) == pytest.approx(correlations.mean(), abs=1e-12)
    assert anc_absolute(x, y) == pytest.approx(np.abs(correlations).mean(), abs=1e-12)


def test_flipping_a_neuron_changes_the_signed_form_only():
    x, y = related(30, 5, 5)
    flipped = y * torch.tensor([-1, 1, 1, -1, 1])
    assert anc_absolute(x, flipped) == pytest.approx(anc_absolute(x, y), abs=1e-12)
    assert abs(anc(x, flipped) - anc(x, y)) > 0.05


def test_absolute_anc_of_independent_inputs_is_the_mean_absolute_correlation_of_chance():
    n = 40
    value = anc_absolute(normal(n, 4000), normal(n, 4000, seed=1))
    assert value == pytest.approx((2 / (np.pi * (n - 2))) ** 0.5, rel=0.05)
    assert abs(anc(normal(n, 4000), normal(n, 4000, seed=1))) < 4 / (n * 4000) ** 0.5


def test_max_correlation_takes_the_best_partner_of_each_feature():
    x, y = related(30, 3, 6)
    table = np.abs(np.corrcoef(x.T, y.T)[:3, 3:])
    assert max_correlation(x, y) == pytest.approx(table.max(1).mean(), abs=1e-12)
    assert max_correlation(x, x[:, [2, 0, 1]] * -3) == pytest.approx(1)


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 0.5])
def test_r2_is_that_of_scikit_learn(ridge):
    x, y = related(40, 6, 4)
    alpha = ridge * float((x - x.mean(0)).square().sum())
    model = (Ridge(alpha=alpha) if ridge else LinearRegression()).fit(x, y)
    expected = r2_score(y, model.predict(x), multioutput="variance_weighted")
    assert linear_r2(x, y, ridge=ridge) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("ridge", "d"), [(0.0, 6), (0.3, 6), (0.3, 60)])
def test_leave_one_out_r2_equals_refitting_without_each_row(ridge, d):
    x, y = related(25, d, 3)
    alpha = ridge * float((x - x.mean(0)).square().sum())
    model = Ridge(alpha=alpha) if ridge else LinearRegression()
    predicted = cross_val_predict(model, x, y, cv=LeaveOneOut())
    others = (y.sum(0) - y) / 24
    expected = 1 - (y - torch.from_numpy(predicted)).square().sum() / (y - others).square().sum()
    assert linear_r2(x, y, ridge=ridge, leave_one_out=True) == pytest.approx(float(expected), abs=1e-9)


def test_in_sample_r2_is_one_for_wide_noise_and_leave_one_out_refuses_or_is_not_positive():
    x, y = normal(20, 50), normal(20, 3, seed=1)
    assert linear_r2(x, y) == pytest.approx(1, abs=1e-9)
    assert linear_r2(x, y, ridge=1.0, leave_one_out=True) < 0.05
    with pytest.raises(ValueError, match=r"row \d+ alone spans a direction"):
        linear_r2(x, y, leave_one_out=True)


def test_r2_of_a_rank_deficient_x_is_that_of_its_independent_features():
    x, y = related(30, 3, 4)
    assert linear_r2(torch.cat([x, x @ normal(3, 2)], 1), y) == pytest.approx(linear_r2(x, y), abs=1e-10)


def test_constant_neurons_and_unequal_shapes_are_refused():
    x = normal(10, 3)
    dead = x.clone()
    dead[:, 1] = 0.1
    with pytest.raises(ValueError, match="y: feature 1 is constant"):
        anc(x, dead)
    with pytest.raises(ValueError, match="shapes differ"):
        anc(x, normal(10, 4))
    with pytest.raises(ValueError, match="ridge must not be negative"):
        linear_r2(x, x, ridge=-1)
