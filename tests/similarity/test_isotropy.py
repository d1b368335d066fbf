"""Isotropy and dimension against closed forms, hand-worked spectra and known manifolds."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from xbridge.similarity import (
    effective_rank,
    isoscore,
    isoscore_star,
    participation_ratio,
    partition_isotropy,
    spectrum,
    two_nn,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def axes(*lengths: float) -> torch.Tensor:
    """Points at plus and minus `length` on each axis: mean 0, variances length^2 / d."""
    return torch.cat([torch.diag(torch.tensor(lengths)), -torch.diag(torch.tensor(lengths))]).double()


def test_spectrum_is_that_of_numpys_covariance():
    x = normal(40, 6) * torch.linspace(1, 3, 6) + 100
    expected = np.linalg.eigvalsh(np.cov(x.T.numpy(), bias=True))[::-1]
    assert np.allclose(spectrum(x), expected, rtol=1e-10)
    wide = spectrum(x[:4])
    assert wide.shape == (4,)
    assert wide[3] < 1e-20  # four centred rows span three directions


def test_participation_ratio_and_effective_rank_of_known_spectra():
    x = axes(2.0, 1.0, 1.0)  # variances 4 : 1 : 1, deviations 2 : 1 : 1
    assert participation_ratio(x * 7 + 3) == pytest.approx(36 / 18)
    assert effective_rank(x * 7 + 3) == pytest.approx(math.exp(entropy([0.5, 0.25, 0.25])))
    line = torch.arange(9.0)[:, None] * torch.tensor([[1.0, 2.0]])
    assert participation_ratio(line) == pytest.approx(1)
    assert effective_rank(line) == pytest.approx(1, abs=1e-6)


def test_participation_ratio_of_few_gaussian_rows_is_biased_as_stated():
    n, d = 100, 300
    assert participation_ratio(normal(n, d)) == pytest.approx(1 / (1 / n + 1 / d), rel=0.02)


def test_isoscore_star_without_shrinkage_is_isoscore_and_with_all_of_it_that_of_the_reference():
    x, more = normal(50, 6) * torch.linspace(1, 3, 6), normal(4000, 6) * torch.linspace(1, 2, 6)
    covariance = torch.from_numpy(np.cov(more.T.numpy(), bias=True))
    assert isoscore_star(x, covariance, zeta=0) == pytest.approx(isoscore(x), abs=1e-12)
    assert isoscore_star(x, covariance, zeta=1) == pytest.approx(isoscore(more), abs=1e-9)


def test_isoscore_star_corrects_what_few_rows_take_from_isoscore():
    few, many = normal(12, 10), normal(5000, 10, seed=1)
    covariance = torch.from_numpy(np.cov(many.T.numpy(), bias=True))
    assert isoscore(few) < 0.6
    assert isoscore_star(few, covariance, zeta=0.9) > 0.9


def test_partition_isotropy_is_its_definition_and_one_for_symmetric_axes():
    x = normal(30, 4) + torch.tensor([0.5, 0, 0, 0])
    _, vectors = np.linalg.eigh((x.T @ x).numpy())
    sums = [np.exp(sign * x.numpy() @ c).sum() for c in vectors.T for sign in (1, -1)]
    assert partition_isotropy(x) == pytest.approx(min(sums) / max(sums), abs=1e-12)
    assert partition_isotropy(axes(1.0, 1.0, 1.0)) == pytest.approx(1)
    # one direction c with c . x = 1 always: Z is n e along it and n / e against it
    assert partition_isotropy(torch.tensor([[1.0], [1.0]])) == pytest.approx(math.exp(-2))


def test_partition_isotropy_does_not_overflow_and_counts_directions_without_rows():
    x = torch.tensor([[1000.0, 0.0, 0.0]])
    assert partition_isotropy(x) == 0  # e^-2000
    assert partition_isotropy(x / 1000) == pytest.approx(math.exp(-2))
    # e^1 + e^-1 along the first axis, 2 along the empty second one
    pair = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert partition_isotropy(pair) == pytest.approx(1 / math.cosh(1))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_two_nn_finds_the_dimension_of_a_flat_manifold_in_a_wide_space(d):
    values = torch.rand(3000, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    embedded = values @ torch.linalg.qr(normal(40, d)).Q.T
    assert two_nn(embedded) == pytest.approx(d, rel=0.08)


def test_two_nn_of_a_curved_surface_is_two():
    sphere = normal(4000, 3)
    assert two_nn(sphere / sphere.norm(dim=1, keepdim=True)) == pytest.approx(2, rel=0.08)


def test_two_nn_is_the_mean_log_ratio_worked_by_hand():
    # nearest distances: 0: 1, 3; 1: 1, 2; 3: 2, 3; 7: 4, 6
    x = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert two_nn(x) == pytest.approx(3 / (math.log(3) + math.log(2) + math.log(1.5) + math.log(1.5)), rel=1e-6)


def test_what_has_no_dimension_is_refused():
    x = normal(10, 3)
    with pytest.raises(ValueError, match="row 0 has a duplicate"):
        two_nn(torch.cat([x, x[:1]]))
    with pytest.raises(ValueError, match="at least 3"):
        two_nn(x[:2])
    with pytest.raises(ValueError, match="equally far from its two nearest"):
        two_nn(torch.eye(4))
    with pytest.raises(ValueError, match="rows are zero"):
        partition_isotropy(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="zeta must be"):
        isoscore_star(x, torch.eye(3), zeta=2)
    with pytest.raises(ValueError, match=r"expected \(3, 3\)"):
        isoscore_star(x, torch.eye(4), zeta=0.5)
