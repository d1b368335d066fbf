"""Centred kernel alignment (Kornblith et al., 2019), exact, for all pairs of layers at once, with its sampling error.

    CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))

The default estimator is the unbiased HSIC_1 of Song et al. (2012): about 0 for independent inputs, where the biased one
grows with d / n. Its estimates can be negative, and are not clamped. Rows are centred and brought to unit scale before
anything is multiplied, so offsets and scales of the input do not cost precision.

**Engines**: "moments" works with d x d matrices in one pass (linear and cosine), "gram" with tiles of n x n that are
never stored, "minibatch" estimates from disjoint batches. The first two give the same number.

**Standard error**: the delete-one jackknife, exact (similarity/jackknife.py); over batches for "minibatch". It is the
spread of the estimate over samples of examples, for the given models. Where examples are not independent (translations
of one sentence), pass `groups`: whole groups are left out. For independent inputs, where CKA is 0, the jackknife
overstates the error by about sqrt(2) (the statistic is degenerate there).
"""

from collections.abc import Iterator
from typing import Literal, cast, overload

import numpy as np

from xbridge.ops.dispatch import Backend
from xbridge.ops.hsic import Estimator
from xbridge.similarity.compute import Options, cka_of_layers
from xbridge.similarity.engines import Engine
from xbridge.similarity.kernels import Bandwidth, Kernel
from xbridge.similarity.rows import Layers, Rows, named_layers, num_rows
from xbridge.similarity.streams import Stream, cka_of_stream


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
    batch_size: int | None = None,
    backend: Backend = "auto",
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
    batch_size: int | None = None,
    backend: Backend = "auto",
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
    batch_size: int | None = None,
    backend: Backend = "auto",
) -> float | tuple[float, float]:
    """CKA of x: (n, d1) and y: (n, d2), row i the same example in both; see `cka_matrix` for the options.

    A pair of bandwidths is the kernel's width for x and for y. With `return_stderr`, also the standard error.
    """
    widths = bandwidth if isinstance(bandwidth, tuple) else (bandwidth, bandwidth)
    options = Options(kernel, estimator, widths, return_stderr, groups, engine, batch_size, backend)
    value, error = cka_of_layers({"x": x, "y": y}, 1, options)
    return (float(value[0, 0]), float(error[0, 0])) if error is not None else float(value[0, 0])


@overload
def cka_matrix(
    a: Layers | Stream,
    b: Layers | Stream | None = None,
    *,
    kernel: Kernel = "linear",
    estimator: Estimator = "unbiased",
    bandwidth: Bandwidth = "median",
    return_stderr: Literal[False] = False,
    groups: Rows | None = None,
    engine: Engine = "auto",
    batch_size: int | None = None,
    backend: Backend = "auto",
) -> np.ndarray: ...
@overload
def cka_matrix(
    a: Layers | Stream,
    b: Layers | Stream | None = None,
    *,
    kernel: Kernel = "linear",
    estimator: Estimator = "unbiased",
    bandwidth: Bandwidth = "median",
    return_stderr: Literal[True],
    groups: Rows | None = None,
    engine: Engine = "auto",
    batch_size: int | None = None,
    backend: Backend = "auto",
) -> tuple[np.ndarray, np.ndarray]: ...
def cka_matrix(
    a: Layers | Stream,
    b: Layers | Stream | None = None,
    *,
    kernel: Kernel = "linear",
    estimator: Estimator = "unbiased",
    bandwidth: Bandwidth = "median",
    return_stderr: bool = False,
    groups: Rows | None = None,
    engine: Engine = "auto",
    batch_size: int | None = None,
    backend: Backend = "auto",
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """CKA between every layer of `a` and every layer of `b` (default: of `a`): (S_a, S_b) float64.

    a, b: sequences, or mappings from names, of (n, d_l) tensors, numpy arrays, memory maps, or layers of an
    `ActivationStore`: whatever has a shape and slices of rows. Any float type and device; row i is the same example
    everywhere. Or iterators of chunks of rows, each a sequence of (rows, d_l): read once, for "moments" and
    "minibatch".
    kernel: "linear"; "cosine" (linear on rows of unit length); "rbf" exp(-d^2 / (2 bandwidth^2)) and "laplacian"
    exp(-d / bandwidth) on Euclidean distances d; or a function of ((b, d), (n, d)) rows that returns a (b, n) tile.
    bandwidth: a width in the input's units, or "median": the median distance between (at most 2,048, evenly spaced)
    rows, layer by layer.
    groups: (n,) whole numbers, examples that belong together; only the standard error depends on them.
    engine: "auto" takes the cheaper of "moments" and "gram"; batch_size (default 256) is that of "minibatch".
    backend: "reference" computes in float64 throughout. "auto" does so for small work, and for large work and input
    narrower than float64 takes float32 products with float64 sums, within 1e-7 of it; "native" and "triton" name
    the kernels for that.

    Returns the matrix, or with `return_stderr` (matrix, standard errors). Raises ValueError, naming layer and row, for
    values that are not finite, rows that are all equal, unequal n, and n < 4 (5 with `return_stderr`; biased: 2, 3).
    An entry is NaN, with a warning that names the layer, where a layer's HSIC with itself is zero: all rows are equally
    far apart.
    """
    options = Options(kernel, estimator, bandwidth, return_stderr, groups, engine, batch_size, backend)
    if isinstance(a, Iterator):
        value, error = cka_of_stream(a, cast(Stream | None, b), options)
    else:
        layers, split = joined_layers(a, cast(Layers | None, b))
        value, error = cka_of_layers(layers, split, options)
    return (value.cpu().numpy(), error.cpu().numpy()) if error is not None else value.cpu().numpy()


def joined_layers(a: Layers, b: Layers | None) -> tuple[dict[str, Rows], int | None]:
    """All layers under names of their own, and how many of them are of `a` (None: there is no b)."""
    left = named_layers(a, "a")
    if b is None:
        return left, None
    right = named_layers(b, "b")
    if num_rows(left) != num_rows(right):
        n, m = num_rows(left), num_rows(right)
        raise ValueError(f"b has {m} rows, a has {n}: row i must be the same example in both")
    shared = left.keys() & right.keys()
    named_left = {f"{key} of a" if key in shared else key: x for key, x in left.items()}
    return {**named_left, **{f"{key} of b" if key in shared else key: x for key, x in right.items()}}, len(left)
