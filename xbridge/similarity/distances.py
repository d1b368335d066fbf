"""Dependence measured by distances, and distances between two sets of rows that are not paired.

Distance correlation compares paired rows as CKA does, with -|u - v| as kernel. The maximum mean discrepancy and the
Fréchet distance ask how far two sets in one feature space (two languages in one layer, say) lie apart as distributions.
"""

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from xbridge.ops.gram_sums import Tile, laplacian_tile, rbf_tile, squared_distances
from xbridge.ops.hsic import Estimator, HsicSums, cka_from_sums
from xbridge.similarity.rows import Rows, as_pair, as_rows, standardise

DiscrepancyKernel: TypeAlias = Literal["linear", "rbf", "laplacian"]
BLOCK_BYTES = 16 << 20
MEDIAN_ROWS = 2048


def distance_correlation(x: Rows, y: Rows, *, estimator: Estimator = "unbiased") -> float:
    """Distance correlation of x: (n, d1) and y: (n, d2), row i the same example in both.

    "unbiased": the bias-corrected squared distance correlation of Székely and Rizzo (2014, equation 3.5), about 0 for
    independent inputs, sometimes negative; for inputs related linearly it is near the biased one squared. "biased": the
    distance correlation of Székely et al. (2007, definition 3), the root, in [0, 1]; it tends to 1 for independent
    inputs as d / n grows. Double centring makes either the CKA with the negative Euclidean distance as kernel, with
    HSIC_1 or HSIC_0 (Sejdinovic et al., 2013). Cost n^2 (d1 + d2), memory O(n). ValueError for n < 4 (biased: 2), and
    where "unbiased" is undefined, as all rows are equally far apart.
    """
    if estimator not in ("unbiased", "biased"):
        raise ValueError(f"estimator must be unbiased or biased, not {estimator!r}")
    x_centred, y_centred = as_pair(x, y)
    least = 4 if estimator == "unbiased" else 2
    if len(x_centred) < least:
        raise ValueError(f"{len(x_centred)} rows: the {estimator} estimator needs at least {least}")
    value = float(cka_from_sums(_distance_sums(x_centred, y_centred), estimator))
    if math.isnan(value):
        raise ValueError("all rows of x, or of y, are equally far apart: their distance correlation is undefined")
    return value if estimator == "unbiased" else math.sqrt(value)


def squared_mmd(
    x: Rows,
    y: Rows,
    *,
    kernel: DiscrepancyKernel = "rbf",
    estimator: Estimator = "unbiased",
    bandwidth: Literal["median"] | float = "median",
) -> float:
    """Squared maximum mean discrepancy between the distributions of two sets (Gretton et al., 2012).

    x: (n, d), y: (m, d): rows are not paired. E k(x, x') + E k(y, y') - 2 E k(x, y); "unbiased" (lemma 6) leaves the
    pairs of a row with itself out, is about 0 for equal distributions and may be negative; "biased" (equation 5) is
    at least 0. "linear": |difference of means|^2 in squared units of the input, unchanged by anything but the means;
    "rbf" exp(-d^2 / (2 bandwidth^2)) and "laplacian" exp(-d / bandwidth), where "median" is the median distance between
    (at most 2,048, evenly spaced) rows of both sets together. Cost (n + m)^2 d (linear: (n + m) d), memory O(n + m).
    ValueError for fewer than 2 rows (biased: 1), and where all rows of both are equal.
    """
    x_rows, y_rows = _same_space(x, y, least=2 if estimator == "unbiased" else 1)
    if estimator not in ("unbiased", "biased"):
        raise ValueError(f"estimator must be unbiased or biased, not {estimator!r}")
    if kernel == "linear":
        return _linear_mmd(x_rows, y_rows, estimator)
    if kernel not in ("rbf", "laplacian"):
        raise ValueError(f"kernel must be linear, rbf or laplacian, not {kernel!r}")
    pooled, scale = standardise(torch.cat([x_rows, y_rows]), "x and y together")
    width = _median_distance(pooled) if bandwidth == "median" else bandwidth / scale
    if not width > 0:
        raise ValueError(f"the bandwidth must be positive, got {width * scale:g}: give a number")
    tile = rbf_tile(width) if kernel == "rbf" else laplacian_tile(width)
    x_rows, y_rows = pooled[: len(x_rows)], pooled[len(x_rows) :]
    between = _kernel_sum(x_rows, y_rows, tile) / (len(x_rows) * len(y_rows))
    return _mean_within(x_rows, tile, estimator) + _mean_within(y_rows, tile, estimator) - 2 * between


def frechet_distance(x: Rows, y: Rows) -> float:
    """2-Wasserstein distance between the normal distributions with the means and covariances of two sets.

    x: (n, d), y: (m, d): rows are not paired; covariances are divided by n and m. |mean_x - mean_y|^2 + tr C_x + tr C_y
    - 2 tr (C_x^1/2 C_y C_x^1/2)^1/2, and the root of that, in units of the input (Dowson and Landau, 1982; its square
    is the FID of Heusel et al., 2017). tr (...)^1/2 is the nuclear norm of C_x^1/2 C_y^1/2, from the singular values of
    the rows, so that rank-deficient sets need no jitter. A metric between such normal distributions. With few rows
    it is biased upwards.
    """
    x_rows, y_rows = _same_space(x, y, least=1)
    shift = x_rows[0]
    x_rows, y_rows = x_rows - shift, y_rows - shift
    mean_x, mean_y = x_rows.mean(dim=0), y_rows.mean(dim=0)
    root_x, root_y = _covariance_root(x_rows - mean_x), _covariance_root(y_rows - mean_y)
    # min over orthogonal Q of |root_x - Q root_y|^2 is tr C_x + tr C_y - 2 |root_x root_y'|_*, without cancellation
    left, _, right = torch.linalg.svd(root_x @ root_y.T, full_matrices=False)
    spread = (root_x - left @ right @ root_y).square().sum()
    return float(((mean_x - mean_y).square().sum() + spread).sqrt())


def _distance_sums(x: Tensor, y: Tensor) -> HsicSums:
    """HSIC's sums over the matrices of distances; tiles on and above the diagonal stand for those below it.

    HSIC does not change when both kernels change sign, so distances serve as they are.
    """
    n = len(x)
    pair, own_x, own_y = torch.zeros(3, dtype=torch.float64)
    rows_x, rows_y = torch.zeros(2, n, dtype=torch.float64)
    size = max(1, BLOCK_BYTES // (8 * n))
    for start in range(0, n, size):
        block_x, block_y = _distances_from(x, start, size, rows_x), _distances_from(y, start, size, rows_y)
        pair += _symmetric_product(block_x, block_y)
        own_x += _symmetric_product(block_x, block_x)
        own_y += _symmetric_product(block_y, block_y)
    return HsicSums(
        pair=pair[None, None],
        pair_rows=(rows_x @ rows_y)[None, None],
        left=own_x[None],
        left_rows=(rows_x @ rows_x)[None],
        left_total=rows_x.sum()[None],
        right=own_y[None],
        right_rows=(rows_y @ rows_y)[None],
        right_total=rows_y.sum()[None],
        num_examples=torch.tensor(float(n), dtype=torch.float64),
    )


def _distances_from(x: Tensor, start: int, size: int, row_sums: Tensor) -> Tensor:
    """Distances of rows start to start + size to rows start to n, (b, n - start), added to `row_sums`, (n,)."""
    block = squared_distances(x[start : start + size], x[start:]).sqrt()
    block.diagonal().zero_()  # by rule: rounding would leave 1e-8
    b = len(block)
    row_sums[start : start + b] += block.sum(dim=1)
    row_sums[start + b :] += block[:, b:].sum(dim=0)
    return block


def _symmetric_product(u: Tensor, v: Tensor) -> Tensor:
    """Sum of u v over the block, what is right of the square on the diagonal counted twice."""
    b = len(u)
    total: Tensor = 2 * torch.einsum("ij,ij->", u, v) - torch.einsum("ij,ij->", u[:, :b], v[:, :b])
    return total


def _median_distance(x: Tensor) -> float:
    if len(x) > MEDIAN_ROWS:
        x = x[torch.linspace(0, len(x) - 1, MEDIAN_ROWS).long()]
    i, j = torch.triu_indices(len(x), len(x), offset=1)
    return float(squared_distances(x, x)[i, j].median().sqrt())


def _same_space(x: Rows, y: Rows, *, least: int) -> tuple[Tensor, Tensor]:
    x_rows, y_rows = as_rows(x, "x"), as_rows(y, "y")
    if x_rows.shape[1] != y_rows.shape[1]:
        raise ValueError(f"both sets must have the same features, got {x_rows.shape[1]} and {y_rows.shape[1]}")
    for name, rows in (("x", x_rows), ("y", y_rows)):
        if len(rows) < least:
            raise ValueError(f"{name}: {len(rows)} rows; at least {least} are needed")
    return x_rows, y_rows


def _linear_mmd(x: Tensor, y: Tensor, estimator: Estimator) -> float:
    """|difference of means|^2, less what the sampling of either mean adds to it: tr C / n with C unbiased."""
    shift = x[0].clone()
    x, y = x - shift, y - shift
    value = (x.mean(dim=0) - y.mean(dim=0)).square().sum()
    if estimator == "unbiased":
        value = value - sum(z.var(dim=0).sum() / len(z) for z in (x, y))
    return float(value)


def _mean_within(x: Tensor, tile: Tile, estimator: Estimator) -> float:
    """Mean kernel value of a set with itself; k(u, u) = 1 by rule, not by computation."""
    n = len(x)
    off_diagonal = _kernel_sum(x, x, tile, skip_diagonal=True)
    return off_diagonal / (n * (n - 1)) if estimator == "unbiased" else (off_diagonal + n) / n**2


def _kernel_sum(x: Tensor, y: Tensor, tile: Tile, *, skip_diagonal: bool = False) -> float:
    total, start = 0.0, 0
    for rows in torch.split(x, max(1, BLOCK_BYTES // (8 * len(y)))):
        values = tile(rows, y)
        if skip_diagonal:
            values.diagonal(start).zero_()
        total += float(values.sum())
        start += len(rows)
    return total


def _covariance_root(x: Tensor) -> Tensor:
    """(d, d) R with R'R = X'X / n: singular values and directions of the rows, padded with zeros."""
    n, d = x.shape
    _, singular, directions = torch.linalg.svd(x, full_matrices=False)
    root = torch.zeros(d, d, dtype=x.dtype)
    root[: len(singular)] = singular[:, None] * directions / n**0.5
    return root
