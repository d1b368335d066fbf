"""CKA of iterators of row chunks: read once, by the engines that need one pass."""

from collections.abc import Iterator, Sequence
from typing import TypeAlias, cast

import torch
from torch import Tensor

from xbridge.similarity.compute import Options, check_choices, read_minibatches, unit_chunks, warn_if_degenerate
from xbridge.similarity.kernels import Bandwidth
from xbridge.similarity.minibatch import MinibatchSums
from xbridge.similarity.moments import SecondMoments
from xbridge.similarity.rows import Rows, as_chunk

Stream: TypeAlias = Iterator[Sequence[Rows]]
"""Chunks of rows: each a sequence of (rows, d_l), one per layer."""


def cka_of_stream(a: Stream, b: Stream | None, options: Options) -> tuple[Tensor, Tensor | None]:
    """The one-pass engines on chunks as they come. ValueError for options that need the rows twice."""
    if b is not None and not isinstance(b, Iterator):
        raise ValueError("a is an iterator of chunks, so b must be one too")
    if options.engine not in ("auto", "moments", "minibatch"):
        raise ValueError(f'an iterator of chunks is read once: engine "moments" or "minibatch", not {options.engine!r}')
    if options.groups is not None:
        raise ValueError("groups: an iterator of chunks is read once; give the layers themselves")
    check_choices(options)
    chunks = _joined_chunks(a, b)
    first, split = next(chunks, (None, None))
    if first is None:
        raise ValueError("the iterator holds no chunks")
    dims = [int(x.shape[1]) for x in first]
    names = [f"layer {i}" if i < (split or len(dims)) else f"layer {i - (split or 0)} of b" for i in range(len(dims))]
    one_pass = options.kernel in ("linear", "cosine") and not options.return_stderr
    if options.engine == "moments" and not one_pass:
        raise ValueError('one pass gives no standard error and takes the linear and cosine kernels: engine="minibatch"')
    everything = (chunk for part in (iter([(first, split)]), chunks) for chunk, _ in part)
    if options.engine == "minibatch" or not one_pass:
        sums = MinibatchSums(
            dims, batch_size=options.batch_size or 256, kernel=options.kernel, estimator=options.estimator, split=split,
            bandwidth=cast(Bandwidth, options.bandwidth), names=names,
        )  # fmt: skip
        for chunk in everything:
            sums.update(chunk)
        value, error = read_minibatches(sums, options)
    else:
        moments = SecondMoments(dims, split=split, precision="float64", names=names)
        for chunk in unit_chunks(everything, names, options.kernel):
            moments.update(chunk)
        value, error = torch.from_numpy(moments.cka(options.estimator)), None
    warn_if_degenerate(value, names, split)
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
