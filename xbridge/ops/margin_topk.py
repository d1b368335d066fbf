"""Nearest neighbours and margin scores between two sets of vectors: exact, over all pairs, in blocks.

The margin compares a pair's cosine with the mean cosine of either side to its k nearest neighbours on the other side
(Artetxe and Schwenk, 2019, equations 1-4, https://aclanthology.org/P19-1309):

    b(x, y) = (mean of the k best cos(x, .) + mean of the k best cos(., y)) / 2
    ratio: cos(x, y) / b      distance: cos(x, y) - b      absolute: cos(x, y)

Scores are float64, summed in one fixed order (`pair_scores`, `pair_products`): equal vectors have equal scores whatever
the block, the backend and the number of threads, and ties go to the lowest index. Most of the work is done in float32,
within an error bound that leaves the answer as it is (`neighbour_search`). No n x m matrix is stored, and no copy of
the inputs is made.
"""

from typing import NamedTuple

from torch import Tensor

from xbridge.ops.dispatch import Backend
from xbridge.ops.neighbour_search import search
from xbridge.ops.pair_products import fold
from xbridge.ops.pair_scores import Margin, Metric, pair_scores

__all__ = ["BothWays", "Margin", "MarginScores", "Metric", "margin_scores", "nearest", "nearest_both_ways"]


class BothWays(NamedTuple):
    """The nearest rows of the other set, nearest first, both ways. Scores are float64, indices int64."""

    forward_score: Tensor  # (n, k)
    forward_index: Tensor  # (n, k) rows of y
    backward_score: Tensor  # (m, k)
    backward_index: Tensor  # (m, k) rows of x


class MarginScores(NamedTuple):
    """The best partner of every row, both ways. `*_index`: int64; `*_score`: float64, larger is better."""

    forward_index: Tensor  # (n,) best target row of each source row
    forward_score: Tensor  # (n,)
    backward_index: Tensor  # (m,) best source row of each target row
    backward_score: Tensor  # (m,)


def nearest(
    queries: Tensor,
    keys: Tensor,
    k: int,
    *,
    metric: Metric = "cosine",
    exclude_self: bool = False,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """The k nearest `keys` of every query, nearest first; ties by lowest index. Cost: n m d multiply-adds.

    queries: (n, d), keys: (m, d), any float type, on one device; one tensor given twice costs half.
    k is cut to the number of keys there are. `exclude_self` leaves out key i for query i (queries and keys are the
    same set). Whatever `backend` is, so are the results; "reference" works in float64 alone.

    Returns scores (n, k) float64 and indices (n, k) int64. The scores of "cosine" and "dot" fall along a row; those of
    "euclidean" are distances and rise. Raises ValueError for wrong shapes, k < 1, a row that is not finite, and, for
    "cosine", a row of zeros.
    """
    _check_pair(queries, keys, k)
    scores = pair_scores(queries, keys, metric, ("queries", "keys"), backend)
    (found,) = search(scores, k, exclude_self=exclude_self)
    return (-found.scores if metric == "euclidean" else found.scores), found.indices


def nearest_both_ways(
    x: Tensor, y: Tensor, k: int, *, metric: Metric = "cosine", backend: Backend = "auto"
) -> BothWays:
    """`nearest` from x: (n, d) to y: (m, d) and from y to x, for the cost of one: n m d multiply-adds.

    k is cut to the size of the set that is searched. Errors as in `nearest`.
    """
    _check_pair(x, y, k)
    forward, backward = search(pair_scores(x, y, metric, ("x", "y"), backend), k, both_ways=True)
    sign = -1 if metric == "euclidean" else 1
    return BothWays(sign * forward.scores, forward.indices, sign * backward.scores, backward.indices)


def margin_scores(
    source: Tensor, target: Tensor, k: int = 4, margin: Margin = "ratio", *, backend: Backend = "auto"
) -> MarginScores:
    """For every row its best partner in the other set by margin, both directions at once. Cost: 2 n m d multiply-adds.

    source: (n, d), target: (m, d), any float type. The maximum is over all pairs, not over the k candidates. k is cut
    to the size of the set that is searched. Raises ValueError as `nearest` does, and for a ratio margin of 0 / 0.
    A ratio has no bound near a mean cosine of zero: rows with such partners are compared one by one, at n m d
    additions in float64 in the worst case.
    """
    _check_pair(source, target, k)
    if margin not in ("ratio", "distance", "absolute"):
        raise ValueError(f"margin must be ratio, distance or absolute, not {margin!r}")
    scores = pair_scores(source, target, "cosine", ("source", "target"), backend)
    if margin != "absolute":
        forward, backward = search(scores, k, both_ways=True)
        near_source_N, near_target_M = (fold(side.scores) / side.scores.shape[1] for side in (forward, backward))
        scores = scores.with_margin(margin, near_source_N, near_target_M)
    forward, backward = search(scores, 1, both_ways=True)
    return MarginScores(forward.indices[:, 0], forward.scores[:, 0], backward.indices[:, 0], backward.scores[:, 0])


def _check_pair(x: Tensor, y: Tensor, k: int) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"expected (n, d) and (m, d), got {tuple(x.shape)} and {tuple(y.shape)}")
    if len(x) == 0 or len(y) == 0:
        raise ValueError("a set without rows has no neighbours")
    if x.shape[1] == 0:
        raise ValueError("rows without features have no neighbours")
    if x.device != y.device:
        raise ValueError(f"both sets must be on one device, not {x.device} and {y.device}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
