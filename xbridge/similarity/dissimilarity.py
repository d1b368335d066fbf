"""Representational similarity analysis: do two sets of activations hold the same pairs of examples far apart?

Kriegeskorte et al. (2008). x: (n, d1), y: (n, d2), row i the same example in both; the value is the correlation, over
all pairs of different examples, of their distance in x with their distance in y, in [-1, 1] and about 0 for independent
inputs. Distances: "sqeuclidean" and "euclidean"; "cosine" (1 - cos of the rows as they are, so it changes with a
shift) and "correlation" (1 - Pearson's correlation of two rows over their features).

No matrix of distances is stored. For rows of unit length 1 - cos = |u - v|^2 / 2, so three of the four distances are
squared Euclidean ones, and for those Pearson's correlation follows from second moments. With centred rows,
a_i = |x_i|^2, b_i = |y_i|^2, abar and bbar their means, and sums over ordered pairs,

    sum (d_x - mean)(d_y - mean) = 2 n sum_i (a_i - abar)(b_i - bbar) + 4 |X'Y|_F^2 - 4 n^2 abar bbar / (n - 1)

whose terms stay of the order of the result.
"""

import math
import warnings
from collections.abc import Iterator
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from xbridge.ops.gram_sums import squared_distances
from xbridge.similarity.allpairs import pair_matrix
from xbridge.similarity.kernels import unit_rows
from xbridge.similarity.rows import Layers, Rows, as_rows, require_same_rows, standardise

Distance: TypeAlias = Literal["sqeuclidean", "euclidean", "cosine", "correlation"]
EXACT_ROWS = 4096
NUM_BINS = 1 << 20
BLOCK_BYTES = 16 << 20
GRID = 2.0**40  # steps per mean squared distance / 2: distances that differ by rounding alone are ties
TOLERATED_ERROR = 1e-6


def rsa(x: Rows, y: Rows, *, distance: Distance = "sqeuclidean") -> float:
    """Pearson's correlation between the distances in x and in y over all pairs of examples.

    Cost n d1 d2 and memory of the inputs, except for "euclidean": n^2 (d1 + d2), in blocks. ValueError for n < 3, and
    where all pairs are equally far apart.
    """
    return float(rsa_matrix({"x": x}, {"y": y}, distance=distance)[0, 0])


def rsa_matrix(a: Layers, b: Layers | None = None, *, distance: Distance = "sqeuclidean") -> np.ndarray:
    """`rsa` between every layer of `a` and every layer of `b` (default: of `a`): (S_a, S_b) float64."""

    def named(x: Tensor, name: str) -> tuple[Tensor, str]:
        return _prepared(x, name, distance), name

    def prepare(x: Tensor, name: str) -> tuple[Tensor, float]:
        """The rows, and the root of the sum of their squared centred distances."""
        rows = _prepared(x, name, distance)
        return rows, math.sqrt(_distance_product(rows, rows, name))

    def pair(x: tuple[Tensor, float], y: tuple[Tensor, float]) -> float:
        return _distance_product(x[0], y[0]) / (x[1] * y[1])

    if distance == "euclidean":
        return pair_matrix(a, b, named, named, _streamed, symmetric=True)
    return pair_matrix(a, b, prepare, prepare, pair, symmetric=True)


def rsa_spearman(
    x: Rows, y: Rows, *, distance: Distance = "sqeuclidean", method: Literal["auto", "exact", "histogram"] = "auto"
) -> float:
    """Spearman's rank correlation between the distances in x and in y over all pairs of examples; ties get mid-ranks.

    "euclidean" and "sqeuclidean" have the same ranks. Distances equal up to rounding (1e-12 of the mean) are ties.

    method: "exact" sorts all n (n - 1) / 2 distances (40 n^2 bytes); "histogram" counts them in 2^20 bins in two passes
        of O(n) memory, and distances in one bin are ties. That loses a share L of the variance of the ranks,
        L = sum_b p_b^3 with p_b a bin's share of the N pairs, and the value is off by about L + sqrt(L / N): below
        1e-8 on ordinary activations of that size. A warning says so above 1e-6 (one row far from all others stretches
        the bins). "auto" is exact up to n = 4,096.
    """
    rows = {"x": as_rows(x, "x"), "y": as_rows(y, "y")}
    require_same_rows(rows)
    x_rows, y_rows = (_prepared(z, name, distance) for name, z in rows.items())
    if method not in ("auto", "exact", "histogram"):
        raise ValueError(f"method must be auto, exact or histogram, not {method!r}")
    if method == "exact" or (method == "auto" and len(x_rows) <= EXACT_ROWS):
        return _exact_spearman(x_rows, y_rows)
    return _histogram_spearman(x_rows, y_rows)


def _prepared(x: Tensor, name: str, distance: Distance) -> Tensor:
    """Centred rows of unit total variance, whose distances are (a multiple of) Euclidean ones."""
    if distance not in ("sqeuclidean", "euclidean", "cosine", "correlation"):
        raise ValueError(f"distance must be sqeuclidean, euclidean, cosine or correlation, not {distance!r}")
    if len(x) < 3:
        raise ValueError(f"{name}: {len(x)} rows; a correlation over pairs of rows needs at least 3")
    if distance == "correlation":
        x = _centred_over_features(x, name)
    if distance in ("cosine", "correlation"):
        x = unit_rows(x, name)
    return standardise(x, name)[0]


def _centred_over_features(x: Tensor, name: str) -> Tensor:
    """Rows less their own mean. ValueError names a row whose values are all equal."""
    x = x - x[:, :1]  # a constant row becomes zero exactly
    constant = ~x.any(dim=1)
    if constant.any():
        raise ValueError(f"{name}: row {int(constant.nonzero()[0])} is constant; its correlation is undefined")
    return x - x.mean(dim=1, keepdim=True)


def _distance_product(x: Tensor, y: Tensor, name: str | None = None) -> float:
    """Sum over pairs of the product of centred squared distances (module docstring), over 2 n. `name`: x is y."""
    n = len(x)
    a, b = x.square().sum(dim=1), y.square().sum(dim=1)
    lengths = float((a - a.mean()) @ (b - b.mean()))
    products, means = 2 * _squared_cross_norm(x, y) / n, 2 * float(a.sum() * b.sum()) / (n * (n - 1))
    value = lengths + products - means
    if name is not None and value <= 1e-13 * (lengths + products + means):
        raise ValueError(f"{name}: all pairs of rows are equally far apart; their distances have no correlation")
    return value


def _squared_cross_norm(x: Tensor, y: Tensor) -> float:
    """|X'Y|_F^2, through the smaller of the feature and the Gram space; memory of a block of rows."""
    if x.shape[1] * y.shape[1] <= len(x) * (x.shape[1] + y.shape[1]):
        return float((x.T @ y).square().sum())
    size = _block_rows(len(x))
    blocks = zip(torch.split(x, size), torch.split(y, size), strict=True)
    return float(sum(((x_block @ x.T) * (y_block @ y.T)).sum() for x_block, y_block in blocks))


def _streamed(layer_x: tuple[Tensor, str], layer_y: tuple[Tensor, str]) -> float:
    """Pearson's correlation of the unsquared distances, sums shifted by the mean of the first block."""
    (x, name_x), (y, name_y) = layer_x, layer_y
    shift: tuple[Tensor, Tensor] | None = None
    count, sums = 0, torch.zeros(5, dtype=torch.float64)
    for squared_x, squared_y in _pairs(x, y):
        distance_x, distance_y = squared_x.sqrt(), squared_y.sqrt()
        shift = shift or (distance_x.mean(), distance_y.mean())
        u, v = distance_x - shift[0], distance_y - shift[1]
        sums += torch.stack([u.sum(), v.sum(), u @ u, v @ v, u @ v])
        count += len(u)
    sum_u, sum_v, uu, vv, uv = (sums / count).tolist()
    variance_u, variance_v = uu - sum_u**2, vv - sum_v**2
    for name, variance in ((name_x, variance_u), (name_y, variance_v)):
        if variance <= 1e-13:
            raise ValueError(f"{name}: all pairs of rows are equally far apart; their distances have no correlation")
    return float(uv - sum_u * sum_v) / math.sqrt(variance_u * variance_v)


def _exact_spearman(x: Tensor, y: Tensor) -> float:
    pairs = [(_ticks(dx), _ticks(dy)) for dx, dy in _pairs(x, y)]
    ranks = [_centred_ranks(torch.cat(side), name) for side, name in zip(zip(*pairs, strict=True), "xy", strict=True)]
    return float(ranks[0] @ ranks[1] / (ranks[0].norm() * ranks[1].norm()))


def _centred_ranks(ticks: Tensor, name: str) -> Tensor:
    """Mid-ranks over their number, minus 1/2, so that products of millions of them stay of order 1."""
    _, inverse, counts = torch.unique(ticks, return_inverse=True, return_counts=True)
    return _rank_table(counts, name)[inverse]


def _rank_table(counts: Tensor, name: str) -> Tensor:
    """The centred mid-rank of each of a rising series of values that occur `counts` times."""
    if int(counts.max()) == int(counts.sum()):
        raise ValueError(f"{name}: all pairs of rows are equally far apart; their distances have no correlation")
    counts = counts.double()
    return (counts.cumsum(0) - counts / 2) / counts.sum() - 0.5


def _histogram_spearman(x: Tensor, y: Tensor) -> float:
    widths = [4 * float(z.square().sum(dim=1).max()) / NUM_BINS for z in (x, y)]  # |u - v|^2 <= 4 max |u|^2
    counts = torch.zeros(2, NUM_BINS, dtype=torch.int64)
    for squared in _pairs(x, y):
        for side in range(2):
            counts[side] += torch.bincount(_bins(squared[side], widths[side]), minlength=NUM_BINS)
    ranks = [_rank_table(counts[side], name) for side, name in enumerate("xy")]
    num_pairs = float(counts[0].sum())
    shares = counts.double() / num_pairs
    loss = float(shares.pow(3).sum(dim=1).max())
    error = loss + math.sqrt(loss / num_pairs)
    if error > TOLERATED_ERROR:
        warnings.warn(
            f"distances fall into few bins: Spearman's correlation is off by about {error:.0e}; "
            "use method='exact', or look for rows far from all others",
            stacklevel=3,
        )
    product = sum(float(ranks[0][_bins(dx, widths[0])] @ ranks[1][_bins(dy, widths[1])]) for dx, dy in _pairs(x, y))
    variances = [float(shares[side] @ ranks[side].square()) for side in range(2)]
    return product / (num_pairs * math.sqrt(variances[0] * variances[1]))


def _bins(squared: Tensor, width: float) -> Tensor:
    return (squared / width).long().clamp_max(NUM_BINS - 1)


def _ticks(squared: Tensor) -> Tensor:
    return (squared * GRID).round()


def _pairs(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Squared distances in x and in y of all pairs i < j, some at a time: (pairs,) each."""
    size = _block_rows(len(x))
    for start in range(0, len(x) - 1, size):
        rows = slice(start, start + size)
        block_x, block_y = squared_distances(x[rows], x[start:]), squared_distances(y[rows], y[start:])
        i, j = torch.triu_indices(len(block_x), len(block_x), offset=1)
        yield block_x[i, j], block_y[i, j]
        yield block_x[:, len(block_x) :].flatten(), block_y[:, len(block_x) :].flatten()


def _block_rows(n: int) -> int:
    return max(1, BLOCK_BYTES // (8 * n))
