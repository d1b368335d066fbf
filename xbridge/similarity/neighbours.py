"""Measures on neighbourhoods: do two sets of activations put the same examples next to each other?

x: (n, d1), y: (n, d2), row i the same example in both. Rows are centred first; an example is never its own neighbour,
its duplicates may be.
"""

import math

import numpy as np
import torch
from torch import Tensor

from xbridge.ops.margin_topk import Metric, nearest
from xbridge.similarity.kernels import unit_rows
from xbridge.similarity.rows import Layers, Rows, as_layers, as_pair, require_same_rows, standardise

BLOCK_ELEMENTS = 1 << 21


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
    left = torch.stack([_neighbours(x, name, k, metric) for name, x in rows_a.items()])
    right = left if b is None else torch.stack([_neighbours(y, name, k, metric) for name, y in rows_b.items()])
    shared = torch.zeros(len(left), len(right), dtype=torch.float64)
    for start in range(0, n, 1024):  # (rows, layers, n) membership, then one product for all pairs of layers
        rows = slice(start, min(n, start + 1024))
        in_a, in_b = _membership(left[:, rows], n), _membership(right[:, rows], n)
        shared += torch.einsum("sbn,tbn->st", in_a, in_b).double()
    return (shared / (n * k)).numpy()


def knn_jaccard(x: Rows, y: Rows, *, k: int = 10, metric: Metric = "cosine") -> float:
    """Mean Jaccard similarity |A and B| / |A or B| of the neighbourhoods of an example in x and in y, in [0, 1].

    A neighbourhood is every row at least as near as the k-th nearest one, so ties are in together and the value does
    not depend on the order of rows, with duplicates too (Wang et al., 2022, take exactly k). x: (n, d1), y: (n, d2).
    Scores are compared in float32 after accumulation in float64: ties are equal to 6e-8. Cost n^2 (d1 + d2).
    """
    x_rows, y_rows = as_pair(x, y)
    _check_k(k, len(x_rows))
    if metric == "cosine":
        x_rows, y_rows = unit_rows(x_rows, "x"), unit_rows(y_rows, "y")
    elif metric not in ("dot", "euclidean"):
        raise ValueError(f"metric must be cosine, dot or euclidean, not {metric!r}")
    n, total = len(x_rows), 0.0
    size = max(1, BLOCK_ELEMENTS // n)
    for start in range(0, n, size):
        in_x, in_y = (_neighbourhood(z, start, start + size, k, metric) for z in (x_rows, y_rows))
        total += float(((in_x & in_y).sum(dim=1).double() / (in_x | in_y).sum(dim=1)).sum())
    return total / n


def cknna(x: Rows, y: Rows, *, k: int = 10) -> float:
    """Centred kernel nearest-neighbour alignment: biased linear CKA restricted to shared neighbours.

    Huh et al. (2024), appendix A: A(x, y) / sqrt(A(x, x) A(y, y)) with A(x, y) = sum_ij alpha_ij K_ij L_ij over the
    pairs i != j where j is among the k nearest of i, by inner product, in x and also in y. K and L are the Gram
    matrices of centred rows (the paper centres one factor, which is not invariant to a shift). x: (n, d1), y: (n, d2).
    At k = n - 1 it is CKA without the diagonals. In [-1, 1]; for independent inputs about k / (n - 1).
    """
    x_rows, y_rows = as_pair(x, y)
    near_x, near_y = _neighbours(x_rows, "x", k, "dot"), _neighbours(y_rows, "y", k, "dot")
    total = torch.zeros(3, dtype=torch.float64)
    size = max(1, BLOCK_ELEMENTS // (k * (k + x_rows.shape[1] + y_rows.shape[1])))
    for start in range(0, len(x_rows), size):
        rows = slice(start, start + size)
        in_x, in_y = near_x[rows], near_y[rows]
        kernel_x = torch.einsum("bd,bkd->bk", x_rows[rows], x_rows[in_x])
        kernel_y = torch.einsum("bd,bkd->bk", y_rows[rows], y_rows[in_y])
        same = (in_x[:, :, None] == in_y[:, None, :]).double()
        shared = torch.einsum("bk,bkl,bl->", kernel_x, same, kernel_y)
        total += torch.stack([shared, kernel_x.square().sum(), kernel_y.square().sum()])
    shared, own_x, own_y = total.tolist()
    return float(shared / math.sqrt(own_x * own_y))


def cycle_knn(x: Rows, y: Rows, *, k: int = 10, metric: Metric = "cosine") -> float:
    """Share of examples that one finds back: i is a neighbour in x of one of its neighbours in y, in [0, 1].

    "Cycle k-NN" of the code of Huh et al. (2024). x: (n, d1), y: (n, d2). Not symmetric; it grows with k^2 / n by
    chance, and 1 needs k to be large or neighbourhoods to be reciprocal, even for x against itself.
    """
    x_rows, y_rows = as_pair(x, y)
    near_x, near_y = _neighbours(x_rows, "x", k, metric), _neighbours(y_rows, "y", k, metric)
    found, size = 0, max(1, BLOCK_ELEMENTS // k**2)
    for start in range(0, len(near_y), size):
        block = near_y[start : start + size]
        own = torch.arange(start, start + len(block))
        found += int((near_x[block].flatten(1) == own[:, None]).any(dim=1).sum())
    return found / len(near_y)


def _neighbours(x: Tensor, name: str, k: int, metric: Metric) -> Tensor:
    _check_k(k, len(x))
    rows, _ = standardise(x, name)
    try:
        return nearest(rows, rows, k, metric=metric, exclude_self=True)[1]
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _membership(neighbours_SBK: Tensor, n: int) -> Tensor:
    zeros = torch.zeros(*neighbours_SBK.shape[:2], n)
    return zeros.scatter_(2, neighbours_SBK, 1.0)


def _neighbourhood(x_ND: Tensor, start: int, stop: int, k: int, metric: Metric) -> Tensor:
    """(b, n) bool: the rows at least as near as the k-th nearest one of each of rows start to stop."""
    block_BD = x_ND[start:stop]
    if metric == "euclidean":  # differences, not a + b - 2ab: duplicates are at distance 0 exactly
        score_BN = -torch.cdist(block_BD, x_ND, compute_mode="donot_use_mm_for_euclid_dist").float()
    else:
        score_BN = (block_BD @ x_ND.T).float()
    score_BN.diagonal(start).fill_(-torch.inf)
    return score_BN >= score_BN.topk(k, dim=1).values[:, -1:]


def _check_k(k: int, n: int) -> None:
    if not 1 <= k < n:
        raise ValueError(f"k must be from 1 to n - 1 = {n - 1}, got {k}")
