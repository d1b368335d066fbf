"""Centred kernel alignment (Kornblith et al., 2019), exact, for all pairs of layers at once, with its sampling error.

    CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))

The default estimator is the unbiased HSIC_1 of Song et al. (2012): about 0 for independent inputs, where the biased one
grows with d / n. Its estimates can be negative, and are not clamped. All arithmetic is float64 on centred rows of unit
scale, so offsets and scales of the input do not cost precision.

**Standard error**: the delete-one jackknife (Efron and Stein, 1981), computed exactly, not by n recomputations: leaving
out an example changes the sums of HSIC by terms that follow from the rows of the kernel matrices. It is the spread of
the estimate over samples of examples, for the given models. Where examples are not independent (translations of one
sentence), pass `groups`: whole groups are left out. For independent inputs, where CKA is 0, the jackknife overstates
the error by about sqrt(2) (the statistic is degenerate there).
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor

from xbridge.ops.feature_sums import FeatureSums
from xbridge.ops.gram_sums import GramSums, Tile
from xbridge.ops.hsic import Estimator, HsicSums, cka_from_sums
from xbridge.similarity.kernels import Bandwidth, Kernel, prepare
from xbridge.similarity.rows import Layers, Rows, as_layers, as_rows, require_same_rows, standardise

Engine: TypeAlias = Literal["auto", "moments", "gram"]


@overload
def cka(
    x: Rows,
    y: Rows,
    *,
    kernel: Kernel = "linear",
    estimator: Estimator = "unbiased",
    bandwidth: Bandwidth | tuple[float, float] = "median",
    return_stderr: Literal[False] = False,
    groups: Rows | None = None,
    engine: Engine = "auto",
) -> float: ...
@overload
def cka(
    x: Rows,
    y: Rows,
    *,
    kernel: Kernel = "linear",
    estimator: Estimator = "unbiased",
    bandwidth: Bandwidth | tuple[float, float] = "median",
    return_stderr: Literal[True],
    groups: Rows | None = None,
    engine: Engine = "auto",
) -> tuple[float, float]: ...
def cka(
    x: Rows,
    y: Rows,
    *,
    kernel: Kernel = "linear",
    estimator: Estimator = "unbiased",
    bandwidth: Bandwidth | tuple[float, float] = "median",
    return_stderr: bool = False,
    groups: Rows | None = None,
    engine: Engine = "auto",
) -> float | tuple[float, float]:
    """CKA of x: (n, d1) and y: (n, d2), row i the same example in both; see `cka_matrix` for the options.

    A pair of bandwidths is the kernel's width for x and for y. With `return_stderr`, also the standard error.
    """
    rows = {"x": as_rows(x, "x"), "y": as_rows(y, "y")}
    require_same_rows(rows)
    width_x, width_y = bandwidth if isinstance(bandwidth, tuple) else (bandwidth, bandwidth)
    left, right = prepare({"x": rows["x"]}, kernel, width_x), prepare({"y": rows["y"]}, kernel, width_y)
    value, error = _matrix(left, right, kernel, estimator, return_stderr, groups, engine, ["x"], ["y"])
    return (float(value[0, 0]), float(error[0, 0])) if error is not None else float(value[0, 0])


@overload
def cka_matrix(
    a: Layers,
    b: Layers | None = None,
    *,
    kernel: Kernel = "linear",
    estimator: Estimator = "unbiased",
    bandwidth: Bandwidth = "median",
    return_stderr: Literal[False] = False,
    groups: Rows | None = None,
    engine: Engine = "auto",
) -> np.ndarray: ...
@overload
def cka_matrix(
    a: Layers,
    b: Layers | None = None,
    *,
    kernel: Kernel = "linear",
    estimator: Estimator = "unbiased",
    bandwidth: Bandwidth = "median",
    return_stderr: Literal[True],
    groups: Rows | None = None,
    engine: Engine = "auto",
) -> tuple[np.ndarray, np.ndarray]: ...
def cka_matrix(
    a: Layers,
    b: Layers | None = None,
    *,
    kernel: Kernel = "linear",
    estimator: Estimator = "unbiased",
    bandwidth: Bandwidth = "median",
    return_stderr: bool = False,
    groups: Rows | None = None,
    engine: Engine = "auto",
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """CKA between every layer of `a` and every layer of `b` (default: of `a`): (S_a, S_b) float64.

    a, b: sequences, or mappings from names, of (n, d_l); row i is the same example everywhere. Any float
        type and device; computed on the CPU in float64.
    kernel: "linear"; "cosine" (linear on rows of unit length); "rbf" exp(-d^2 / (2 bandwidth^2)) and "laplacian"
    exp(-d / bandwidth) on Euclidean distances d; or a function of ((b, d), (n, d)) rows that returns a (b, n) tile.
    bandwidth: a width in the input's units, or "median": the median distance between (at most 2,048, evenly spaced)
    rows, layer by layer.
    groups: (n,) whole numbers, examples that belong together; only the standard error depends on them.
    engine: "moments" works with d x d matrices (linear and cosine), "gram" with blocks of n x n; "auto" takes the
    cheaper one. They agree to rounding.

    Returns the matrix, or with `return_stderr` (matrix, standard errors). Raises ValueError, naming layer and row, for
    values that are not finite, rows that are all equal, unequal n, and n < 4 (5 with `return_stderr`; biased: 2, 3).
    An entry is NaN, with a warning that names the layer, where a layer's HSIC with itself is zero: all rows are equally
    far apart.
    """
    rows_a = as_layers(a, "a")
    rows_b = rows_a if b is None else as_layers(b, "b")
    require_same_rows({"a": next(iter(rows_a.values())), "b": next(iter(rows_b.values()))})
    left = prepare(rows_a, kernel, bandwidth)
    right = None if b is None else prepare(rows_b, kernel, bandwidth)
    names = list(rows_a), list(rows_b)
    value, error = _matrix(left, right, kernel, estimator, return_stderr, groups, engine, *names)
    return (value.numpy(), error.numpy()) if error is not None else value.numpy()


def cka_permutation_test(
    x: Rows, y: Rows, *, num_permutations: int = 1000, seed: int = 0, estimator: Estimator = "unbiased"
) -> tuple[float, float]:
    """Linear CKA of x: (n, d1) and y: (n, d2), and the p-value of independence: rows of y are permuted, one-sided.

    p = (1 + permutations with a CKA at least as high) / (1 + num_permutations). Cost per permutation: n d1 d2
    multiply-adds, with d cut to n.
    """
    value = cka(x, y, estimator=estimator)
    rows_x, rows_y = (_rotated(standardise(as_rows(z, name), name)[0]) for z, name in ((x, "x"), (y, "y")))
    a, b = rows_x.square().sum(1), rows_y.square().sum(1)
    diagonal = len(rows_x) / (len(rows_x) - 2) if estimator == "unbiased" else 0.0
    generator = torch.Generator().manual_seed(seed)

    def varying_part(order: Tensor) -> float:
        return float((rows_x.T @ rows_y[order]).square().sum() - diagonal * (a @ b[order]))

    observed = varying_part(torch.arange(len(rows_x)))
    tolerance = 1e-12 * abs(observed)
    orders = (torch.randperm(len(rows_x), generator=generator) for _ in range(num_permutations))
    return value, (1 + sum(varying_part(order) >= observed - tolerance for order in orders)) / (1 + num_permutations)


def _rotated(x: Tensor) -> Tensor:
    """The rows in a basis of at most n dimensions: the same inner products, fewer columns."""
    return x if x.shape[1] <= len(x) else torch.linalg.qr(x.T, mode="r").R.T


def _matrix(
    left: list[tuple[Tensor, Tile]],
    right: list[tuple[Tensor, Tile]] | None,
    kernel: Kernel,
    estimator: Estimator,
    return_stderr: bool,
    groups: Rows | None,
    engine: Engine,
    names_left: Sequence[str],
    names_right: Sequence[str],
) -> tuple[Tensor, Tensor | None]:
    """CKA and, when asked for, its standard error: (S_a, S_b) each."""
    if estimator not in ("unbiased", "biased"):
        raise ValueError(f"estimator must be unbiased or biased, not {estimator!r}")
    n = len(left[0][0])
    group_N = _group_ids(groups, n)
    num_left_out = 0 if not return_stderr else 1 if group_N is None else int(torch.bincount(group_N).max())
    least = (4 if estimator == "unbiased" else 2) + num_left_out
    if n < least:
        raise ValueError(f"{n} examples: the {estimator} estimator needs at least {least}")
    sums: GramSums | FeatureSums
    keep_diagonal = estimator == "biased"
    if _use_moments(left, right, kernel, engine, return_stderr=return_stderr, grouped=group_N is not None):
        sums = FeatureSums(
            [x for x, _ in left], None if right is None else [y for y, _ in right], keep_diagonal=keep_diagonal
        )
    else:
        sums = GramSums(left, right, keep_diagonal=keep_diagonal)
    totals = sums.totals()
    value = cka_from_sums(totals, estimator)
    _warn_if_degenerate(value, names_left, names_right)
    if not return_stderr:
        return value, None
    deletions = sums.deletions(totals, group_N) if isinstance(sums, GramSums) else sums.deletions(totals)
    return value, _jackknife(value, deletions, estimator)


def _jackknife(value: Tensor, deletions: Iterator[HsicSums], estimator: Estimator) -> Tensor:
    """sqrt((G-1)/G sum_g (CKA_(g) - mean CKA_(.))^2), from differences to the full value."""
    count, first, second = 0, torch.zeros_like(value), torch.zeros_like(value)
    for sums in deletions:
        change = cka_from_sums(sums, estimator) - value
        count, first, second = count + len(change), first + change.sum(0), second + change.square().sum(0)
    return ((count - 1) / count * (second - first.square() / count)).clamp_min(0).sqrt()


def _group_ids(groups: Rows | None, n: int) -> Tensor | None:
    """Groups numbered 0, 1, ... as int64."""
    if groups is None:
        return None
    ids = torch.as_tensor(groups)
    if ids.shape != (n,):
        raise ValueError(f"groups: expected {n} whole numbers, got shape {tuple(ids.shape)}")
    numbered: Tensor = torch.unique(ids, return_inverse=True)[1]
    if int(numbered.max()) == 0:
        raise ValueError("groups: all examples are in one group; the standard error needs at least two")
    return numbered


def _use_moments(
    left: list[tuple[Tensor, Tile]],
    right: list[tuple[Tensor, Tile]] | None,
    kernel: Kernel,
    engine: Engine,
    *,
    return_stderr: bool,
    grouped: bool,
) -> bool:
    """Feature space or Gram space: the cheaper one, unless `engine` says which."""
    possible = kernel in ("linear", "cosine") and not (grouped and return_stderr)
    if engine == "moments" and not possible:
        raise ValueError('engine "moments" takes the linear and cosine kernels, and no groups; use "gram"')
    if engine not in ("auto", "moments", "gram"):
        raise ValueError(f"engine must be auto, moments or gram, not {engine!r}")
    if engine != "auto" or not possible:
        return engine == "moments"
    n, other = len(left[0][0]), left if right is None else right
    dims_left, dims_right = sum(x.shape[1] for x, _ in left), sum(y.shape[1] for y, _ in other)
    num_layers, num_pairs = len(left) + (0 if right is None else len(other)), len(left) * len(other)
    dims = dims_left + (0 if right is None else dims_right)
    # multiply-adds; the constants, for what is bound by memory, were fitted to measurements on a CPU
    in_features = 0.75 * n * dims_left * dims_right * (1 + return_stderr)
    in_grams = n * n * (dims + num_pairs + return_stderr * (400 * num_layers + 3 * num_pairs))
    return in_features < in_grams


def _warn_if_degenerate(value: Tensor, names_left: Sequence[str], names_right: Sequence[str]) -> None:
    undefined = value.isnan()
    for names, whole in ((names_left, undefined.all(1)), (names_right, undefined.all(0))):
        for index in whole.nonzero()[:1, 0].tolist():
            warnings.warn(
                f"{names[index]}: its HSIC with itself is zero (all rows equally far apart?), so its CKA is NaN",
                RuntimeWarning,
                stacklevel=4,
            )
