"""HSIC against hand-worked values and its trace formula."""

import pytest
import torch

from xbridge.ops.hsic import hsic_of_grams


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_unbiased_hsic_worked_by_hand():
    """Four points: HSIC_1 = [tr + (1'K1)(1'L1)/6 - 1'KL1] / 4 with n = 4 (Song et al., 2012, equation 5)."""
    K = torch.zeros(4, 4)
    K[0, 1] = K[1, 0] = 1
    L = K.clone()
    L[2, 3] = L[3, 2] = 2
    # tr(KL) = 2; totals 2 and 6; row sums (1,1,0,0).(1,1,2,2) = 2
    assert float(hsic_of_grams(K, L)) == pytest.approx((2 + 2 * 6 / 6 - 2 / 2 * 2) / 4)


def test_biased_hsic_is_the_trace_formula():
    x, y, n = normal(9, 3), normal(9, 2, seed=1), 9
    K, L, H = x @ x.T, y @ y.T, torch.eye(9, dtype=torch.float64) - 1 / 9
    expected = torch.trace(K @ H @ L @ H) / (n - 1) ** 2
    assert float(hsic_of_grams(K, L, "biased")) == pytest.approx(float(expected), rel=1e-12)


def test_unbiased_hsic_ignores_the_diagonal_and_terms_of_one_example():
    """HSIC_1(K + f_i + f_j, L) = HSIC_1(K, L), whatever is on the diagonal."""
    K, L, f = normal(8, 8), normal(8, 8, seed=1), normal(8, seed=2)
    K, L = K + K.T, L + L.T
    moved = K + f[:, None] + f[None, :] + torch.diag(normal(8, seed=3) * 100)
    assert float(hsic_of_grams(moved, L)) == pytest.approx(float(hsic_of_grams(K, L)), abs=1e-12)


def test_unbiased_hsic_has_the_mean_of_the_population():
    """For x = y standard normal in one dimension and linear kernels the population HSIC is Var(x)^2 = 1."""
    values = []
    for seed in range(400):
        x = normal(6, 1, seed=seed)
        values.append(float(hsic_of_grams(x @ x.T, x @ x.T)))
    values = torch.tensor(values)
    assert float(values.mean()) == pytest.approx(1, abs=3 * float(values.std()) / 20)


def test_a_hollow_gram_of_the_wrong_kind_would_show():
    """K - diag(K) as a broadcast vector, a known public bug, gives another number."""
    x = normal(7, 3)
    K = x @ x.T
    broken = K - K.diagonal()
    assert abs(float(hsic_of_grams(broken, K)) - float(hsic_of_grams(K, K))) > 1e-3
