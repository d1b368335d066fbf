"""RSA against scipy on explicit distances, and the O(n) paths against the exact ones."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from scipy.stats import pearsonr, spearmanr

from xbridge.similarity import dissimilarity, rsa, rsa_spearman

DISTANCES = ("sqeuclidean", "euclidean", "cosine", "correlation")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(n: int, d1: int, d2: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    latent = normal(n, 3, seed=seed)
    return (
        latent @ normal(3, d1, seed=seed + 1) + normal(n, d1, seed=seed + 3) + 2,
        latent @ normal(3, d2, seed=seed + 2) + normal(n, d2, seed=seed + 4) - 1,
    )


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(("n", "d1", "d2"), [(3, 4, 3), (25, 4, 6), (12, 90, 40)])
def test_rsa_is_the_correlation_of_scipys_distances(monkeypatch, distance, n, d1, d2):
    monkeypatch.setattr(dissimilarity, "BLOCK_BYTES", 8 * n * 5)  # blocks of 5 rows
    x, y = related(n, d1, d2)
    distances = pdist(x, distance), pdist(y, distance)
    assert rsa(x, y, distance=distance) == pytest.approx(pearsonr(*distances).statistic, abs=1e-10)
    assert rsa_spearman(x, y, distance=distance) == pytest.approx(spearmanr(*distances).statistic, abs=1e-10)


@pytest.mark.parametrize(("scale", "offset"), [(1e-6, 0), (1e6, 0), (1, 1e4)])
def test_scale_and_offset_cost_rsa_no_precision(scale, offset):
    x, y = related(40, 5, 7)
    moved = x * scale + offset
    exact = (moved - offset) / scale  # what is left of x after rounding
    assert rsa(moved, y) == pytest.approx(rsa(exact, y), abs=1e-11)
    assert rsa_spearman(moved, y) == pytest.approx(rsa_spearman(exact, y), abs=1e-11)


def test_cosine_rsa_of_nearly_parallel_rows_keeps_its_digits():
    """Mean cosine 0.9999: 1 - cos in float64 has 12 digits left, differences of unit rows have all."""
    x, y = (z + 100 for z in related(40, 5, 7))
    expected = pearsonr(pdist(x, "cosine"), pdist(y, "cosine")).statistic
    assert rsa(x, y, distance="cosine") == pytest.approx(expected, abs=1e-8)


def test_ties_get_mid_ranks_as_in_scipy_with_duplicates_and_binary_features():
    x, y = related(30, 4, 5)
    x, y = (x > 2).double().repeat(2, 1), y.repeat(2, 1)
    expected = spearmanr(pdist(x, "sqeuclidean"), pdist(y, "sqeuclidean").round(9)).statistic
    assert rsa_spearman(x, y) == pytest.approx(expected, abs=1e-10)
    rotated = x @ torch.linalg.qr(normal(4, 4, seed=9)).Q
    assert rsa_spearman(rotated, y) == pytest.approx(expected, abs=1e-10)


def test_the_histogram_is_within_its_stated_error_of_the_exact_value():
    x, y = related(400, 30, 20)
    exact = rsa_spearman(x, y, method="exact")
    assert rsa_spearman(x, y, method="histogram") == pytest.approx(exact, abs=1e-6)
    assert rsa_spearman(x, x, method="histogram") == pytest.approx(1, abs=1e-12)


def test_the_histogram_warns_when_an_outlier_leaves_few_bins():
    x, y = related(200, 30, 20)
    x[0] *= 1e5
    with pytest.warns(UserWarning, match="method='exact'"):
        rsa_spearman(x, y, method="histogram")


def test_rsa_of_independent_inputs_is_near_zero():
    values = [rsa(normal(60, 10, seed=s), normal(60, 10, seed=s + 99)) for s in range(30)]
    assert abs(np.mean(values)) < 4 * np.std(values) / 30**0.5


@pytest.mark.parametrize("measure", [rsa, rsa_spearman])
def test_what_has_no_correlation_is_refused(measure):
    y = normal(5, 4)
    with pytest.raises(ValueError, match="x: all pairs of rows are equally far apart"):
        measure(torch.eye(5), y)
    with pytest.raises(ValueError, match="at least 3"):
        measure(y[:2], y[:2])
    with pytest.raises(ValueError, match="y: row 2 is zero; its cosine"):
        measure(y, torch.cat([y[:2], torch.zeros(1, 4), y[3:]]), distance="cosine")
    with pytest.raises(ValueError, match="y: row 4 is constant; its correlation"):
        measure(y, torch.cat([y[:4], torch.full((1, 4), 0.1)]), distance="correlation")
    with pytest.raises(ValueError, match="distance must be"):
        measure(y, y, distance="manhattan")


def test_unsquared_distances_that_are_all_equal_are_refused():
    with pytest.raises(ValueError, match="y: all pairs of rows are equally far apart"):
        rsa(normal(5, 4), torch.eye(5), distance="euclidean")
