"""Measures on neighbourhoods and distances: mutual k-nearest neighbours and representational similarity analysis."""

import numpy as np
import torch
from torch import Tensor

from xbridge.ops.gram_sums import squared_distances
from xbridge.ops.margin_topk import Metric, nearest
from xbridge.similarity.rows import Layers, Rows, as_layers, as_pair, require_same_rows, standardise


def mutual_knn(x: Rows, y: Rows, *, k: int = 10, metric: Metric = "cosine") -> float:
    """Mean share of the k nearest neighbours of an example that x and y agree on, in [0, 1].

    Huh et al. (2024), section 3, appendix A. x: (n, d1), y: (n, d2); rows are centred first; an example is never its
    own neighbour, its duplicates may be. Expected value for independent inputs: k / (n - 1). Invariant to shift,
    positive scale and rotation of either side.
    """
    return float(mutual_knn_matrix({"x": x}, {"y": y}, k=k, metric=metric)[0, 0])


def mutual_knn_matrix(a: Layers, b: Layers | None = None, *, k: int = 10, metric: Metric = "cosine") -> np.ndarray:
    """`mutual_knn` between every layer of `a` and every layer of `b` (default: of `a`): (S_a, S_b) float64."""
    rows_a = as_layers(a, "a")
    rows_b = rows_a if b is None else as_layers(b, "b")
    require_same_rows({"a": next(iter(rows_a.values())), "b": next(iter(rows_b.values()))})
    n = len(next(iter(rows_a.values())))
    if not 1 <= k < n:
        raise ValueError(f"k must be from 1 to n - 1 = {n - 1}, got {k}")
    left = torch.stack([_neighbours(x, name, k, metric) for name, x in rows_a.items()])
    right = left if b is None else torch.stack([_neighbours(y, name, k, metric) for name, y in rows_b.items()])
    shared = torch.zeros(len(left), len(right), dtype=torch.float64)
    for start in range(0, n, 1024):  # (rows, layers, n) membership, then one product for all pairs of layers
        rows = slice(start, min(n, start + 1024))
        in_a, in_b = _membership(left[:, rows], n), _membership(right[:, rows], n)
        shared += torch.einsum("sbn,tbn->st", in_a, in_b).double()
    return (shared / (n * k)).numpy()


def rsa(x: Rows, y: Rows) -> float:
    """Pearson correlation between the squared Euclidean distances of all pairs of examples in x and in y.

    Kriegeskorte et al. (2008), with Pearson's in place of Spearman's correlation. Invariant to shift, scale and
    rotation of either side. Memory n^2.
    """
    x_centred, y_centred = as_pair(x, y)
    i, j = torch.triu_indices(len(x_centred), len(x_centred), offset=1)
    distances = torch.stack([squared_distances(z, z)[i, j] for z in (x_centred, y_centred)])
    return float(torch.corrcoef(distances)[0, 1])


def _neighbours(x: Tensor, name: str, k: int, metric: Metric) -> Tensor:
    try:
        return nearest(standardise(x, name)[0], standardise(x, name)[0], k, metric=metric, exclude_self=True)[1]
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _membership(neighbours_SBK: Tensor, n: int) -> Tensor:
    zeros = torch.zeros(*neighbours_SBK.shape[:2], n)
    return zeros.scatter_(2, neighbours_SBK, 1.0)
