"""Neighbourhood measures against dense definitions, with ties and duplicates; hubness against scipy and by hand."""

import numpy as np
import pytest
import torch
from scipy.stats import skew

from xbridge.similarity import (
    cka,
    cknna,
    cycle_knn,
    hubness_skewness,
    k_occurrence,
    knn_jaccard,
    mutual_knn,
    neighbours,
    robin_hood_index,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(n: int, d1: int, d2: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    latent = normal(n, 3, seed=seed)
    return (
        latent @ normal(3, d1, seed=seed + 1) + normal(n, d1, seed=seed + 3),
        latent @ normal(3, d2, seed=seed + 2) + normal(n, d2, seed=seed + 4),
    )


def dense_neighbours(x: torch.Tensor, k: int, metric: str) -> list[set[int]]:
    """The k nearest other rows, by a full sort."""
    x = x - x.mean(0)
    if metric == "cosine":
        x = x / x.norm(dim=1, keepdim=True)
    score = -torch.cdist(x, x) if metric == "euclidean" else x @ x.T
    score.fill_diagonal_(-torch.inf)
    return [set(row[:k].tolist()) for row in score.argsort(dim=1, descending=True)]


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("k", [1, 7, 39])
def test_overlap_jaccard_and_cycle_equal_their_definitions_on_sets(monkeypatch, metric, k):
    monkeypatch.setattr(neighbours, "BLOCK_ELEMENTS", 40 * 9)
    x, y = related(40, 4, 6)
    in_x, in_y = dense_neighbours(x, k, metric), dense_neighbours(y, k, metric)
    pairs = list(zip(in_x, in_y, strict=True))
    assert mutual_knn(x, y, k=k, metric=metric) == pytest.approx(np.mean([len(a & b) / k for a, b in pairs]))
    expected = np.mean([len(a & b) / len(a | b) for a, b in pairs])
    assert knn_jaccard(x, y, k=k, metric=metric) == pytest.approx(expected)
    back = [any(i in in_x[j] for j in b) for i, b in enumerate(in_y)]
    assert cycle_knn(x, y, k=k, metric=metric) == pytest.approx(np.mean(back))


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_jaccard_of_a_rotation_is_one_though_half_the_rows_are_duplicates(metric):
    x = normal(30, 4)
    x = torch.cat([x, x[:15], x[:15]])
    rotated = x @ torch.linalg.qr(normal(4, 4, seed=1)).Q
    assert knn_jaccard(x, rotated, k=3, metric=metric) == 1
    order = torch.randperm(60, generator=torch.Generator().manual_seed(2))
    other = normal(60, 5, seed=3)
    shuffled = knn_jaccard(x[order], other[order], k=3, metric=metric)
    assert shuffled == pytest.approx(knn_jaccard(x, other, k=3, metric=metric), abs=1e-12)


def test_jaccard_takes_all_rows_that_tie_with_the_kth():
    """On a line 0 1 2, row 1 has two nearest rows at distance 1; on 0 1 3 it has one."""
    x, y = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [1.0], [3.0]])
    assert knn_jaccard(x, y, k=1, metric="euclidean") == pytest.approx((1 + 1 / 2 + 1) / 3)


def cknna_by_definition(x: torch.Tensor, y: torch.Tensor, k: int) -> float:
    def align(a, b):
        gram_a, gram_b = a @ a.T, b @ b.T
        near_a, near_b = (dense_neighbours(z, k, "dot") for z in (a, b))
        pairs = [(i, j) for i in range(len(a)) for j in near_a[i] & near_b[i]]
        return float(sum(gram_a[i, j] * gram_b[i, j] for i, j in pairs))

    x, y = x - x.mean(0), y - y.mean(0)
    return align(x, y) / (align(x, x) * align(y, y)) ** 0.5


@pytest.mark.parametrize("k", [1, 5, 24])
def test_cknna_is_its_definition(monkeypatch, k):
    monkeypatch.setattr(neighbours, "BLOCK_ELEMENTS", 200)
    x, y = related(25, 4, 6)
    assert cknna(x, y, k=k) == pytest.approx(cknna_by_definition(x, y, k), abs=1e-12)


def test_cknna_with_all_neighbours_approaches_biased_cka():
    x, y = related(400, 4, 6)
    assert cknna(x, y, k=399) == pytest.approx(cka(x, y, estimator="biased"), abs=0.02)


@pytest.mark.parametrize("measure", [mutual_knn, knn_jaccard, cknna, cycle_knn])
def test_too_many_neighbours_are_refused(measure):
    x = normal(10, 3)
    with pytest.raises(ValueError, match="k must be from 1 to n - 1 = 9, got 10"):
        measure(x, x, k=10)
    with pytest.raises(ValueError, match="k must be from 1"):
        measure(x, x, k=0)


def test_k_occurrence_counts_the_queries_that_find_a_row():
    x = torch.tensor([[0.0], [1.0], [2.1], [10.0]])
    # nearest: 0 -> 1, 1 -> 0, 2.1 -> 1, 10 -> 2.1
    assert k_occurrence(x, k=1, metric="euclidean").tolist() == [1, 2, 1, 0]
    queries = torch.tensor([[0.9], [1.2], [9.0], [100.0]])
    assert k_occurrence(x, queries, k=1, metric="euclidean").tolist() == [0, 2, 0, 2]
    # means 1: half of |0| + |1| + |0| + |1| over 4, and of 1 + 1 + 1 + 1 over 4
    assert robin_hood_index(x, k=1, metric="euclidean") == pytest.approx(2 / 8)
    assert robin_hood_index(x, queries, k=1, metric="euclidean") == pytest.approx(4 / 8)


def test_hubness_skewness_is_that_of_scipy_and_zero_without_hubs():
    x = normal(200, 50)
    counts = k_occurrence(x, k=5)
    assert int(counts.sum()) == 1000
    assert hubness_skewness(x, k=5) == pytest.approx(skew(counts.numpy()), abs=1e-12)
    angle = torch.arange(12) * (2 * torch.pi / 12)
    ring = torch.stack([angle.cos(), angle.sin()], 1).double()
    assert k_occurrence(ring, k=11).tolist() == [11] * 12
    assert hubness_skewness(ring, k=11) == 0


def test_hubness_grows_with_dimension():
    """Radovanović et al. (2010), figure 1: skewness of Gaussian data rises with d."""
    low, high = (hubness_skewness(normal(500, d), k=10, metric="euclidean") for d in (3, 100))
    assert low < 0.5 < 1.5 < high


def test_hubness_refuses_more_neighbours_than_rows():
    with pytest.raises(ValueError, match="k must be from 1 to 9"):
        k_occurrence(normal(10, 3), k=10)
    with pytest.raises(ValueError, match="k must be from 1 to 10"):
        k_occurrence(normal(10, 3), normal(20, 3), k=11)
