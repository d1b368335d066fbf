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

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, overload

import numpy as np
import torch
from torch import Tensor

from xbridge.ops.dispatch import Backend, checked
from xbridge.ops.gram_sums import GramBlocks, Tile
from xbridge.ops.hsic import Estimator, cka_from_sums
from xbridge.ops.native import why_unavailable
from xbridge.similarity.engines import Engine, choose_engine, choose_precision
from xbridge.similarity.gram import prepared, whole_sample_sums
from xbridge.similarity.jackknife import FeatureDeletions, jackknife
from xbridge.similarity.kernels import Bandwidth, Kernel, KernelLayer, check_kernel, kernel_layers, tile_of, unit_rows
from xbridge.similarity.minibatch import MinibatchSums
from xbridge.similarity.moments import BLOCK_ROWS, SecondMoments
from xbridge.similarity.readout import hsic_sums
from xbridge.similarity.rows import Layers, Rows, as_chunk, as_rows, chunks_of, dims_of, named_layers, num_rows

Stream: TypeAlias = Iterator[Sequence[Rows]]
"""Chunks of rows: each a sequence of (rows, d_l), one per layer."""


@dataclass(frozen=True)
class Options:
    """What is computed; see `cka_matrix`."""

    kernel: Kernel
    estimator: Estimator
    bandwidth: Bandwidth | tuple[Bandwidth, ...]
    return_stderr: bool
    groups: Rows | None
    engine: Engine
    batch_size: int | None
    backend: Backend


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
    value, error = _matrix({"x": x, "y": y}, 1, options)
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
        value, error = _of_stream(a, cast(Stream | None, b), options)
    else:
        layers, split = _joined(a, cast(Layers | None, b))
        value, error = _matrix(layers, split, options)
    return (value.cpu().numpy(), error.cpu().numpy()) if error is not None else value.cpu().numpy()


def _joined(a: Layers, b: Layers | None) -> tuple[dict[str, Rows], int | None]:
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


def _matrix(layers: Mapping[str, Rows], split: int | None, options: Options) -> tuple[Tensor, Tensor | None]:
    """CKA and, when asked for, its standard error: (S_a, S_b) each."""
    layers = named_layers(layers, "layers")
    n, group_N = num_rows(layers), _group_ids(options.groups, num_rows(layers))
    _check_options(options, n, group_N)
    engine = choose_engine(
        options.engine, options.kernel, n, dims_of(layers), split, backend=checked(options.backend),
        return_stderr=options.return_stderr, grouped=options.return_stderr and group_N is not None,
    )  # fmt: skip
    if engine == "minibatch":
        value, error = _by_minibatch(layers, split, options)
    elif engine == "moments":
        value, error = _by_moments(layers, split, options)
    else:
        value, error = _by_gram({name: as_chunk(x[0:n], name) for name, x in layers.items()}, split, options, group_N)
    _warn_if_degenerate(value, list(layers), split)
    return value, error


def _by_moments(layers: Mapping[str, Rows], split: int | None, options: Options) -> tuple[Tensor, Tensor | None]:
    names, dims = list(layers), dims_of(layers)
    dtypes = [as_chunk(x[0:1], name).dtype for name, x in layers.items()]
    precision = choose_precision(num_rows(layers), dims, split, dtypes, checked(options.backend))
    moments = SecondMoments(dims, split=split, precision=precision, names=names)

    def chunks() -> Iterator[list[Tensor]]:
        return _unit_chunks(chunks_of(layers, BLOCK_ROWS), names, options.kernel)

    for chunk in chunks():
        moments.update(chunk)
    moments.flush()
    totals = hsic_sums(moments.state(), options.estimator, names)
    value = cka_from_sums(totals, options.estimator)
    if not options.return_stderr:
        return value, None
    dtype = torch.float64 if precision == "float64" else torch.float32
    deletions = FeatureDeletions(moments, totals, options.estimator, dtype).blocks(chunks())
    return value, jackknife(value, deletions, options.estimator)


def _by_gram(
    layers: Mapping[str, Tensor], split: int | None, options: Options, group_N: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    if callable(options.kernel) or options.return_stderr:
        return _by_gram_blocks(layers, split, options, group_N)
    rows, kernel = prepared(layers, options.kernel)
    kernels = kernel_layers(rows, kernel, options.bandwidth)
    sums = whole_sample_sums(
        rows, split=split, kernel=kernel, kernels=kernels, estimator=options.estimator, backend=options.backend
    )
    return cka_from_sums(sums, options.estimator), None


def _by_gram_blocks(
    layers: Mapping[str, Tensor], split: int | None, options: Options, group_N: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """In float64 throughout, for kernels given as functions and for deletions."""
    rows = {name: as_rows(x, name) for name, x in layers.items()}
    tiles: list[tuple[Tensor, Tile]]
    if callable(options.kernel):
        tiles = [(x, options.kernel) for x in rows.values()]
    else:
        rows, kernel = prepared(rows, options.kernel)
        kernels = kernel_layers(rows, kernel, options.bandwidth)
        tiles = [((x - k.shift) * k.scale, tile_of(k, kernel)) for x, k in zip(rows.values(), kernels, strict=True)]
    left, right = (tiles, None) if split is None else (tiles[:split], tiles[split:])
    blocks = GramBlocks(left, right, keep_diagonal=options.estimator == "biased")
    totals = blocks.totals()
    value = cka_from_sums(totals, options.estimator)
    if not options.return_stderr:
        return value, None
    return value, jackknife(value, blocks.deletions(totals, group_N), options.estimator)


def _by_minibatch(layers: Mapping[str, Rows], split: int | None, options: Options) -> tuple[Tensor, Tensor | None]:
    sums = MinibatchSums(
        dims_of(layers), batch_size=options.batch_size or 256, kernel=options.kernel, estimator=options.estimator,
        split=split, names=list(layers), kernels=_minibatch_kernels(layers, options),
    )  # fmt: skip
    for chunk in chunks_of(layers, BLOCK_ROWS):
        sums.update(chunk)
    return _read(sums, options)


def _minibatch_kernels(layers: Mapping[str, Rows], options: Options) -> list[KernelLayer] | None:
    return None if callable(options.kernel) else kernel_layers(layers, options.kernel, options.bandwidth)


def _of_stream(a: Stream, b: Stream | None, options: Options) -> tuple[Tensor, Tensor | None]:
    """The one-pass engines on chunks as they come."""
    if options.engine not in ("auto", "moments", "minibatch"):
        raise ValueError(f'an iterator of chunks is read once: engine "moments" or "minibatch", not {options.engine!r}')
    if options.groups is not None:
        raise ValueError("groups: an iterator of chunks is read once; give the layers themselves")
    check_kernel(options.kernel)
    chunks = _joined_chunks(a, b)
    first, split = next(chunks, (None, None))
    if first is None:
        raise ValueError("the iterator holds no chunks")
    dims = [int(x.shape[1]) for x in first]
    names = [f"layer {i}" for i in range(len(dims))]
    one_pass = options.kernel in ("linear", "cosine") and not options.return_stderr
    if options.engine == "moments" and not one_pass:
        raise ValueError('one pass gives no standard error and takes the linear and cosine kernels: engine="minibatch"')
    everything = (chunk for part in (iter([(first, split)]), chunks) for chunk, _ in part)
    if options.engine == "minibatch" or not one_pass:
        sums = MinibatchSums(
            dims, batch_size=options.batch_size or 256, kernel=options.kernel, estimator=options.estimator, split=split,
            bandwidth=cast(Bandwidth, options.bandwidth),
        )  # fmt: skip
        for chunk in everything:
            sums.update(chunk)
        value, error = _read(sums, options)
    else:
        moments = SecondMoments(dims, split=split, precision="float64")
        for chunk in _unit_chunks(everything, names, options.kernel):
            moments.update(chunk)
        value, error = torch.from_numpy(moments.cka(options.estimator)), None
    _warn_if_degenerate(value, names, split)
    return value, error


def _joined_chunks(a: Stream, b: Stream | None) -> Iterator[tuple[list[Tensor], int | None]]:
    for number, chunk in enumerate(a):
        left = [as_chunk(x, f"layer {i} of chunk {number}") for i, x in enumerate(chunk)]
        if b is None:
            yield left, None
            continue
        other = next(b, None)
        if other is None:
            raise ValueError(f"b has {number} chunks, a has more: both must give the same rows at the same time")
        yield [*left, *(as_chunk(x, f"layer {i} of chunk {number} of b") for i, x in enumerate(other))], len(left)
    if b is not None and next(b, None) is not None:
        raise ValueError("b has more chunks than a: both must give the same rows at the same time")


def _unit_chunks(chunks: Iterable[Sequence[Tensor]], names: Sequence[str], kernel: Kernel) -> Iterator[list[Tensor]]:
    """The chunks, their rows of unit length for the cosine kernel."""
    row = 0
    for chunk in chunks:
        if kernel == "cosine":
            yield [unit_rows(x, name, row) for x, name in zip(chunk, names, strict=True)]
        else:
            yield list(chunk)
        row += len(chunk[0])


def _read(sums: MinibatchSums, options: Options) -> tuple[Tensor, Tensor | None]:
    error = torch.from_numpy(sums.stderr()) if options.return_stderr else None
    return torch.from_numpy(sums.cka()), error


def _check_options(options: Options, n: int, group_N: Tensor | None) -> None:
    check_kernel(options.kernel)
    if options.estimator not in ("unbiased", "biased"):
        raise ValueError(f"estimator must be unbiased or biased, not {options.estimator!r}")
    if options.batch_size is not None and options.engine != "minibatch":
        raise ValueError('batch_size is for engine="minibatch"')
    if checked(options.backend) == "native" and why_unavailable():
        raise ValueError(f"backend native: {why_unavailable()}")
    num_left_out = 0 if not options.return_stderr else 1 if group_N is None else int(torch.bincount(group_N).max())
    least = (4 if options.estimator == "unbiased" else 2) + num_left_out
    if n < least:
        raise ValueError(f"{n} examples: the {options.estimator} estimator needs at least {least}")


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


def _warn_if_degenerate(value: Tensor, names: Sequence[str], split: int | None) -> None:
    undefined = value.isnan()
    names_left, names_right = (names, names) if split is None else (names[:split], names[split:])
    for side, whole in ((names_left, undefined.all(1)), (names_right, undefined.all(0))):
        for index in whole.nonzero()[:1, 0].tolist():
            warnings.warn(
                f"{side[index]}: its HSIC with itself is zero (all rows equally far apart?), so its CKA is NaN",
                RuntimeWarning,
                stacklevel=4,
            )
