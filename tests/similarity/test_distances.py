"""Distance correlation, MMD and the Fréchet distance against their definitions and closed forms for normal data."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist

from xbridge.similarity import distance_correlation, distances, frechet_distance, squared_mmd


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def doubly_centred(d: np.ndarray) -> np.ndarray:
    return d - d.mean(0) - d.mean(1)[:, None] + d.mean()


def u_centred(d: np.ndarray) -> np.ndarray:
    """Székely and Rizzo (2014), definition 2."""
    n = len(d)
    centred = d - d.sum(0) / (n - 2) - d.sum(1)[:, None] / (n - 2) + d.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(centred, 0)
    return centred


@pytest.mark.parametrize("n", [5, 40])
@pytest.mark.parametrize("block_rows", [1, 7, 100])
def test_distance_correlation_is_its_definition(monkeypatch, n, block_rows):
    monkeypatch.setattr(distances, "BLOCK_BYTES", 8 * n * block_rows)
    x = normal(n, 3)
    y = x[:, :2].square() + 0.3 * normal(n, 2, seed=1)
    dx, dy = cdist(x, x), cdist(y, y)
    a, b = doubly_centred(dx), doubly_centred(dy)
    biased = math.sqrt((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()))
    assert distance_correlation(x, y, estimator="biased") == pytest.approx(biased, abs=1e-12)
    a, b = u_centred(dx), u_centred(dy)
    corrected = (a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum())
    assert distance_correlation(x, y) == pytest.approx(corrected, abs=1e-12)


def test_distance_correlation_sees_dependence_without_linear_correlation():
    x = normal(300, 1)
    y = x.square()
    assert distance_correlation(x, y) > 0.15


def test_distance_correlation_of_a_bivariate_normal_is_known():
    """Székely et al. (2007), theorem 7: a closed form in rho."""
    rho, n = 0.6, 4000
    z = normal(n, 2)
    x, y = z[:, :1], rho * z[:, :1] + math.sqrt(1 - rho**2) * z[:, 1:]
    top = rho * math.asin(rho) + math.sqrt(1 - rho**2) - rho * math.asin(rho / 2) - math.sqrt(4 - rho**2) + 1
    expected = top / (1 + math.pi / 3 - math.sqrt(3))
    assert distance_correlation(x, y) == pytest.approx(expected, abs=0.03)


def test_unbiased_distance_correlation_of_independent_wide_inputs_is_near_zero_and_biased_is_not():
    pairs = [(normal(30, 60, seed=s), normal(30, 60, seed=s + 500)) for s in range(30)]
    unbiased = [distance_correlation(x, y) for x, y in pairs]
    assert abs(np.mean(unbiased)) < 4 * np.std(unbiased) / 30**0.5
    assert min(unbiased) < 0
    assert min(distance_correlation(x, y, estimator="biased") for x, y in pairs) > 0.8


def mmd_by_hand(x: torch.Tensor, y: torch.Tensor, kernel, estimator: str) -> float:
    kxx, kyy, kxy = kernel(x, x), kernel(y, y), kernel(x, y)
    if estimator == "biased":
        return float(kxx.mean() + kyy.mean() - 2 * kxy.mean())
    n, m = len(x), len(y)
    within = (kxx.sum() - np.trace(kxx)) / (n * (n - 1)) + (kyy.sum() - np.trace(kyy)) / (m * (m - 1))
    return float(within - 2 * kxy.mean())


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_mmd_is_its_definition(monkeypatch, estimator):
    monkeypatch.setattr(distances, "BLOCK_BYTES", 8 * 20 * 7)
    x, y = normal(23, 4) + 3, normal(17, 4, seed=1) * 1.5 + 3.2
    kernels = {
        "linear": lambda a, b: (a @ b.T).numpy(),
        "rbf": lambda a, b: np.exp(-cdist(a, b, "sqeuclidean") / (2 * 1.7**2)),
        "laplacian": lambda a, b: np.exp(-cdist(a, b) / 1.7),
    }
    for name, kernel in kernels.items():
        value = squared_mmd(x, y, kernel=name, estimator=estimator, bandwidth=1.7)
        assert value == pytest.approx(mmd_by_hand(x, y, kernel, estimator), abs=1e-9)


def test_rbf_mmd_of_two_normal_distributions_is_known():
    """E k of normals with variances 1 in d dimensions: (s^2 / (s^2 + 2))^(d/2) exp(-|difference|^2 / (2 (s^2 + 2)))."""
    d, width, shift = 3, 2.0, 1.0
    x, y = normal(2000, d), normal(2000, d, seed=1)
    y[:, 0] += shift
    ratio = (width**2 / (width**2 + 2)) ** (d / 2)
    expected = 2 * ratio * (1 - math.exp(-(shift**2) / (2 * (width**2 + 2))))
    assert squared_mmd(x, y, bandwidth=width) == pytest.approx(expected, rel=0.1)


def test_unbiased_mmd_is_zero_on_average_under_equal_distributions_and_biased_is_not():
    for kernel in ("linear", "rbf"):
        pairs = [(normal(20, 5, seed=s), normal(30, 5, seed=s + 500)) for s in range(40)]
        values = [squared_mmd(x, y, kernel=kernel) for x, y in pairs]
        assert abs(np.mean(values)) < 4 * np.std(values) / 40**0.5
        assert min(values) < 0
        assert all(squared_mmd(x, y, kernel=kernel, estimator="biased") > 0 for x, y in pairs)


def test_linear_mmd_survives_a_large_offset():
    x, y = normal(30, 4), normal(25, 4, seed=1) + 0.5
    assert squared_mmd(x + 1e6, y + 1e6, kernel="linear") == pytest.approx(squared_mmd(x, y, kernel="linear"), abs=1e-8)


def test_frechet_distance_equals_the_formula_with_matrix_roots():
    x, y = normal(40, 5) * torch.linspace(1, 3, 5) + 1, normal(30, 5, seed=1) + 0.3
    cx, cy = (np.cov(z.T.numpy(), bias=True) for z in (x, y))
    root_x = sqrtm(cx).real
    squared = float((x.mean(0) - y.mean(0)).square().sum()) + np.trace(cx + cy - 2 * sqrtm(root_x @ cy @ root_x).real)
    assert frechet_distance(x, y) ** 2 == pytest.approx(squared, abs=1e-9)


def test_frechet_distance_of_fewer_rows_than_features_needs_no_jitter():
    """tr (C_x^1/2 C_y C_x^1/2)^1/2 = |X Y'|_* / sqrt(n m), which is well conditioned whatever the ranks."""
    x, y = normal(6, 12) * torch.linspace(1, 3, 12), normal(5, 12, seed=1)
    x, y = x - x.mean(0), y - y.mean(0)
    cross = float(torch.linalg.svdvals(x @ y.T).sum()) / math.sqrt(6 * 5)
    squared = float(x.square().sum() / 6 + y.square().sum() / 5) - 2 * cross
    assert frechet_distance(x, y) ** 2 == pytest.approx(squared, abs=1e-9)


def test_frechet_distance_of_a_shifted_and_stretched_set_is_known():
    """W2 of N(m, s^2 I) and N(m', s'^2 I): sqrt(|m - m'|^2 + d (s - s')^2), here with exact sample moments."""
    x = torch.cat([torch.eye(4), -torch.eye(4)]).double() * 2  # covariance I, mean 0
    assert frechet_distance(x, 3 * x + 5) == pytest.approx(math.sqrt(4 * 25 + 4 * 4))
    assert frechet_distance(x, x[torch.arange(7, -1, -1)]) == pytest.approx(0, abs=1e-12)


def test_distance_correlation_without_a_value_is_refused():
    with pytest.raises(ValueError, match="equally far apart"):
        distance_correlation(torch.eye(6), normal(6, 2))
    with pytest.raises(ValueError, match="3 rows: the unbiased estimator needs at least 4"):
        distance_correlation(normal(3, 2), normal(3, 2))
    assert distance_correlation(normal(2, 2), normal(2, 2), estimator="biased") == pytest.approx(1)


def test_sets_that_cannot_be_compared_are_refused():
    x = normal(5, 3)
    with pytest.raises(ValueError, match="same features, got 3 and 2"):
        squared_mmd(x, normal(5, 2))
    with pytest.raises(ValueError, match="y: 1 rows; at least 2"):
        squared_mmd(x, x[:1])
    with pytest.raises(ValueError, match="kernel must be"):
        squared_mmd(x, x, kernel="cosine")
    with pytest.raises(ValueError, match="row 3 holds NaN"):
        frechet_distance(x, torch.where(torch.arange(5)[:, None] == 3, torch.nan, x))
