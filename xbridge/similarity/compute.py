"""CKA of layers in memory or on disk, by the engine that was chosen.

Each engine fills the sums of HSIC for all pairs of layers (similarity/readout.py, gram.py, minibatch.py); values and
standard errors then come from one finaliser (ops/hsic.py, jackknife.py).
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

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
from xbridge.similarity.moments import BLOCK_ROWS, Precision, SecondMoments
from xbridge.similarity.readout import hsic_sums
from xbridge.similarity.rows import Rows, as_chunk, as_rows, chunks_of, dims_of, named_layers, num_rows


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


def cka_of_layers(layers: Mapping[str, Rows], split: int | None, options: Options) -> tuple[Tensor, Tensor | None]:
    """CKA and, when asked for, its standard error: (S_a, S_b) each."""
    layers = named_layers(layers, "layers")
    n, group_N = num_rows(layers), _group_ids(options.groups, num_rows(layers))
    _check_options(options, n, group_N)
    backend = checked(options.backend)
    dtypes = [as_chunk(x[0:1], name).dtype for name, x in layers.items()]
    precision = choose_precision(n, dims_of(layers), split, dtypes, backend)
    engine = choose_engine(
        options.engine, options.kernel, n, dims_of(layers), split, precision=precision,
        fast_grams=backend != "reference" and torch.float64 not in dtypes and not why_unavailable(),
        return_stderr=options.return_stderr, grouped=options.return_stderr and group_N is not None,
    )  # fmt: skip
    if options.backend == "triton" and engine != "gram":
        raise ValueError(
            f'backend triton has kernels for engine="gram"; "{engine}" multiplies with torch on any device'
        )
    if engine == "minibatch":
        value, error = _by_minibatch(layers, split, options)
    elif engine == "moments":
        value, error = _by_moments(layers, split, options, precision)
    else:
        value, error = _by_gram({name: as_chunk(x[0:n], name) for name, x in layers.items()}, split, options, group_N)
    warn_if_degenerate(value, list(layers), split)
    return value, error


def _by_moments(
    layers: Mapping[str, Rows], split: int | None, options: Options, precision: Precision
) -> tuple[Tensor, Tensor | None]:
    names = list(layers)
    moments = SecondMoments(dims_of(layers), split=split, precision=precision, names=names)

    def chunks() -> Iterator[list[Tensor]]:
        return unit_chunks(chunks_of(layers, BLOCK_ROWS), names, options.kernel)

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
    return read_minibatches(sums, options)


def _minibatch_kernels(layers: Mapping[str, Rows], options: Options) -> list[KernelLayer] | None:
    """For kernels with a width, that of the whole sample; the others take what they need from the first batch."""
    with_width = options.kernel in ("rbf", "laplacian")
    return kernel_layers(layers, options.kernel, options.bandwidth) if with_width else None


def check_choices(options: Options) -> None:
    """ValueError for a kernel, estimator, batch size or backend that there is not, here or at all."""
    check_kernel(options.kernel)
    if options.estimator not in ("unbiased", "biased"):
        raise ValueError(f"estimator must be unbiased or biased, not {options.estimator!r}")
    if options.batch_size is not None and options.engine != "minibatch":
        raise ValueError('batch_size is for engine="minibatch"')
    if checked(options.backend) == "native" and why_unavailable():
        raise ValueError(f"backend native: {why_unavailable()}")


def _check_options(options: Options, n: int, group_N: Tensor | None) -> None:
    check_choices(options)
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


def warn_if_degenerate(value: Tensor, names: Sequence[str], split: int | None) -> None:
    """A RuntimeWarning that names a layer whose entries are all NaN."""
    undefined = value.isnan()
    names_left, names_right = (names, names) if split is None else (names[:split], names[split:])
    for side, whole in ((names_left, undefined.all(1)), (names_right, undefined.all(0))):
        for index in whole.nonzero()[:1, 0].tolist():
            warnings.warn(
                f"{side[index]}: its HSIC with itself is zero (all rows equally far apart?), so its CKA is NaN",
                RuntimeWarning,
                stacklevel=4,
            )


def unit_chunks(chunks: Iterable[Sequence[Tensor]], names: Sequence[str], kernel: Kernel) -> Iterator[list[Tensor]]:
    """The chunks, their rows of unit length for the cosine kernel."""
    row = 0
    for chunk in chunks:
        if kernel == "cosine":
            yield [unit_rows(x, name, row) for x, name in zip(chunk, names, strict=True)]
        else:
            yield list(chunk)
        row += len(chunk[0])


def read_minibatches(sums: MinibatchSums, options: Options) -> tuple[Tensor, Tensor | None]:
    """The estimate and, when asked for, its standard error."""
    error = torch.from_numpy(sums.stderr()) if options.return_stderr else None
    return torch.from_numpy(sums.cka()), error
