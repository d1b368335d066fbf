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
    precision: Precision,
    fast_grams: bool,
    return_stderr: bool,
    grouped: bool,
) -> Literal["moments", "gram", "minibatch"]:
    """The cheaper exact engine, unless `engine` says which. ValueError for one that cannot take this.

    precision: what second moments would be computed in; fast_grams: whether Gram sums have a kernel here.
    """
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
    in_features = _moments_cost(n, dims, split, precision) * (1 + return_stderr)
    in_grams = _deletions_cost(n, dims, split) if return_stderr else _gram_cost(n, dims, fast_grams)
    return "moments" if in_features < in_grams else "gram"


def choose_precision(
    n: int, dims: Sequence[int], split: int | None, dtypes: Sequence[torch.dtype], backend: Backend
) -> Precision:
    """float64 for float64 input, for the reference, and where it costs next to nothing."""
    if backend == "reference" or any(dtype == torch.float64 for dtype in dtypes):
        return "float64"
    small = backend == "auto" and _moments_work(n, dims, split) < EXACT_WORK
    return "float64" if small else "float32"


def _moments_work(n: int, dims: Sequence[int], split: int | None) -> float:
    """Multiply-adds of the second moments that all pairs need."""
    own = sum(d * d for d in dims)
    if split is not None:
        return float(n) * (own + sum(dims[:split]) * sum(dims[split:]))
    return float(n) * (sum(dims) ** 2 + own) / 2


# Costs are in float64 multiply-adds of a CPU; what stands beside the counted ones was fitted to task G of
# benchmarks/similarity (n from 256 to 10,240, 2 to 50 layers), where the choice is within 1.25 of the better engine.


def _moments_cost(n: int, dims: Sequence[int], split: int | None, precision: Precision) -> float:
    num_pairs = len(dims) + (len(dims) ** 2 / 2 if split is None else split * (len(dims) - split))
    return _moments_work(n, dims, split) * (1.0 if precision == "float64" else 0.4) + 5e6 * num_pairs


def _gram_cost(n: int, dims: Sequence[int], fast: bool) -> float:
    num_layers, num_features = len(dims), sum(dims)
    if fast and float(n) * n * num_features >= EXACT_WORK:  # float32, one triangle
        return 0.35 * n * n * (num_features / 2 + 20.0 * num_layers)
    return n * n * (num_features + num_layers * (num_layers + 64.0))


def _deletions_cost(n: int, dims: Sequence[int], split: int | None) -> float:
    """Sums and deletions in float64 blocks."""
    num_left, num_right = split or len(dims), len(dims) - (split or 0)
    return n * n * (sum(dims) * 2.0 + 4 * num_left * num_right + 400.0 * (num_left + num_right))
