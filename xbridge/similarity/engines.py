"""Which engine: feature space or Gram space, for the whole set of layer pairs at once; and which precision.

Feature space costs n F_a F_b multiply-adds, Gram space n^2 F / 2: they cross near n = (number of layers) x d, not n =
d.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch

from xbridge.ops.dispatch import Backend
from xbridge.similarity.gram import EXACT_WORK
from xbridge.similarity.kernels import Kernel
from xbridge.similarity.moments import Precision

Engine: TypeAlias = Literal["auto", "moments", "gram", "minibatch"]


def choose_engine(
    engine: Engine,
    kernel: Kernel,
    n: int,
    dims: Sequence[int],
    split: int | None,
    *,
    return_stderr: bool,
    grouped: bool,
) -> Literal["moments", "gram", "minibatch"]:
    """The cheaper exact engine, unless `engine` says which. ValueError for one that cannot take this."""
    if engine not in ("auto", "moments", "gram", "minibatch"):
        raise ValueError(f"engine must be auto, moments, gram or minibatch, not {engine!r}")
    if engine == "minibatch":
        if grouped:
            raise ValueError('groups: engine "minibatch" has its error from batches; use "gram"')
        return "minibatch"
    possible = kernel in ("linear", "cosine") and not grouped
    if engine == "moments" and not possible:
        raise ValueError('engine "moments" takes the linear and cosine kernels, and no groups; use "gram"')
    if engine != "auto":
        return engine
    if not possible:
        return "gram"
    in_features = moments_work(n, dims, split) * (1 + return_stderr)
    return "moments" if in_features < _gram_work(n, dims, split, return_stderr=return_stderr) else "gram"


def choose_precision(
    n: int, dims: Sequence[int], split: int | None, dtypes: Sequence[torch.dtype], backend: Backend
) -> Precision:
    """float64 for float64 input, for the reference, and where it costs next to nothing."""
    if backend == "reference" or any(dtype == torch.float64 for dtype in dtypes):
        return "float64"
    small = backend == "auto" and moments_work(n, dims, split) < EXACT_WORK
    return "float64" if small else "float32"


def moments_work(n: int, dims: Sequence[int], split: int | None) -> float:
    """Multiply-adds of the second moments that all pairs need."""
    own = sum(d * d for d in dims)
    if split is not None:
        return float(n) * (own + sum(dims[:split]) * sum(dims[split:]))
    return float(n) * (sum(dims) ** 2 + own) / 2


def _gram_work(n: int, dims: Sequence[int], split: int | None, *, return_stderr: bool) -> float:
    """The same for Gram space, with constants for what is bound by memory rather than by arithmetic."""
    num_left, num_right = split or len(dims), len(dims) - (split or 0)
    if return_stderr:  # float64 blocks, twice
        pairs, layers = num_left * num_right, num_left + num_right
        return n * n * (sum(dims) * 2.0 + 4 * pairs + 400.0 * layers)
    return n * n * (sum(dims) / 2 + 64.0 * len(dims))
