"""Nearest neighbours and margin scores between two sets of vectors: exact, over all pairs, in blocks.

The margin compares a pair's cosine with the mean cosine of either side to its k nearest neighbours on the other side
(Artetxe and Schwenk, 2019, equations 1-4, https://aclanthology.org/P19-1309):

    b(x, y) = (mean of the k best cos(x, .) + mean of the k best cos(., y)) / 2
    ratio: cos(x, y) / b      distance: cos(x, y) - b      absolute: cos(x, y)

Scores are accumulated in float64 and rounded once to float32. Equal vectors thus have equal scores whatever the block
and the number of threads, and ties go to the lowest index. No n x m matrix is stored.

Shape letters: N queries or source rows, M keys or target rows, D features, K neighbours, B rows of a block.
"""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Metric = Literal["cosine", "dot", "euclidean"]
Margin = Literal["ratio", "distance", "absolute"]
BLOCK_ELEMENTS = 1 << 21  # scores held at once: 16 MB in float64
_LOW = 0xFFFFFFFF


class MarginScores(NamedTuple):
    """The best partner of every row, both ways. `*_index`: int64; `*_score`: float32, larger is better."""

    forward_index: Tensor  # (n,) best target row of each source row
    forward_score: Tensor  # (n,)
    backward_index: Tensor  # (m,) best source row of each target row
    backward_score: Tensor  # (m,)


def nearest(
    queries: Tensor, keys: Tensor, k: int, *, metric: Metric = "cosine", exclude_self: bool = False
) -> tuple[Tensor, Tensor]:
    """The k nearest `keys` of every query, nearest first; ties by lowest index. Cost: n m d multiply-adds.

    queries: (n, d), keys: (m, d), any float type, on one device. k is cut to the number of keys there are.
    `exclude_self` leaves out key i for query i (queries and keys are the same set).

    Returns scores (n, k) float32 and indices (n, k) int64. The scores of "cosine" and "dot" fall along a row; those of
    "euclidean" are distances and rise. Raises ValueError for wrong shapes, k < 1, a row that is not finite, and, for
    "cosine", a row of zeros.
    """
    _check_pair(queries, keys, k)
    n, m = len(queries), len(keys)
    q_ND, k_MD = _prepare(queries, metric, "queries"), _prepare(keys, metric, "keys")
    k = min(k, m - 1 if exclude_self else m)
    packed_NK = torch.empty(n, k, dtype=torch.int64, device=queries.device)
    for rows in _blocks(n, m):
        packed_BM = _pack(_scores(q_ND[rows], k_MD, metric))
        if exclude_self:
            packed_BM[torch.arange(packed_BM.shape[0]), torch.arange(rows.start, rows.stop)] = torch.iinfo(
                torch.int64
            ).min
        packed_NK[rows] = packed_BM.topk(k, dim=1).values
    scores_NK, indices_NK = _unpack(packed_NK)
    return (-scores_NK if metric == "euclidean" else scores_NK), indices_NK


def margin_scores(source: Tensor, target: Tensor, k: int = 4, margin: Margin = "ratio") -> MarginScores:
    """For every row its best partner in the other set by margin, both directions at once. Cost: 2 n m d multiply-adds.

    source: (n, d), target: (m, d), any float type. The maximum is over all pairs, not over the k candidates. k is cut
    to the size of the smaller set, on either side. Raises ValueError as `nearest` does.
    """
    _check_pair(source, target, k)
    if margin not in ("ratio", "distance", "absolute"):
        raise ValueError(f"margin must be ratio, distance or absolute, not {margin!r}")
    x_ND, y_MD = _prepare(source, "cosine", "source"), _prepare(target, "cosine", "target")
    near_x_N, near_y_M = _mean_of_best(x_ND, y_MD, k)

    def score(cosine_BM: Tensor, rows: slice) -> Tensor:
        base_BM = (near_x_N[rows, None] + near_y_M[None, :]) / 2
        return {"ratio": cosine_BM / base_BM, "distance": cosine_BM - base_BM, "absolute": cosine_BM}[margin]

    forward_N, backward_M = _best_both_ways(x_ND, y_MD, 1, score)
    (forward_score, forward_index), (backward_score, backward_index) = _unpack(forward_N), _unpack(backward_M)
    return MarginScores(forward_index[:, 0], forward_score[:, 0], backward_index[:, 0], backward_score[:, 0])


def _mean_of_best(x_ND: Tensor, y_MD: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Mean cosine of every row to its k nearest rows of the other set: (n,) and (m,) float64."""
    forward_NK, backward_MK = _best_both_ways(x_ND, y_MD, k, lambda cosine, _: cosine)
    return _unpack(forward_NK)[0].double().mean(dim=1), _unpack(backward_MK)[0].double().mean(dim=1)


def _best_both_ways(
    x_ND: Tensor, y_MD: Tensor, k: int, score: Callable[[Tensor, slice], Tensor]
) -> tuple[Tensor, Tensor]:
    """The k best packed scores of each row and of each column of score(x y'), computing every block of it once."""
    n, m = len(x_ND), len(y_MD)
    forward_NK = torch.empty(n, min(k, m), dtype=torch.int64, device=x_ND.device)
    backward_MK = torch.empty(m, 0, dtype=torch.int64, device=x_ND.device)
    for rows in _blocks(n, m):
        score_BM = score(_scores(x_ND[rows], y_MD, "dot"), rows)
        forward_NK[rows] = _pack(score_BM).topk(min(k, m), dim=1).values
        columns_MB = torch.cat([backward_MK, _pack(score_BM.T, first=rows.start)], dim=1)
        backward_MK = columns_MB.topk(min(k, columns_MB.shape[1]), dim=1).values
    return forward_NK, backward_MK


def _scores(q_BD: Tensor, k_MD: Tensor, metric: Metric) -> Tensor:
    if metric == "euclidean":  # differences, not a + b - 2ab: equal rows are at distance 0 exactly
        return -torch.cdist(q_BD, k_MD, compute_mode="donot_use_mm_for_euclid_dist")
    return q_BD @ k_MD.T


def _pack(score_BM: Tensor, first: int = 0) -> Tensor:
    """Score (high word) and index (low word, falling) in one int64 that sorts by score, then by lowest index."""
    bits = (score_BM.float() + 0.0).view(torch.int32)  # + 0.0: minus zero equals zero
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    index_M = torch.arange(first, first + score_BM.shape[1], device=score_BM.device)
    return (ordered << 32) | (_LOW - index_M)


def _unpack(packed: Tensor) -> tuple[Tensor, Tensor]:
    ordered = (packed >> 32).int()
    bits = ordered ^ ((ordered >> 31) & 0x7FFFFFFF)
    return bits.view(torch.float32), _LOW - (packed & _LOW)


def _blocks(n: int, m: int) -> Iterator[slice]:
    rows = max(1, BLOCK_ELEMENTS // max(1, m))
    return (slice(start, min(n, start + rows)) for start in range(0, n, rows))


def _prepare(x_ND: Tensor, metric: Metric, name: str) -> Tensor:
    """float64 rows, of unit length for "cosine"."""
    if metric not in ("cosine", "dot", "euclidean"):
        raise ValueError(f"metric must be cosine, dot or euclidean, not {metric!r}")
    x_ND = x_ND.detach().double()
    bad = ~torch.isfinite(x_ND).all(dim=1)
    if bad.any():
        raise ValueError(f"{name}: row {int(bad.nonzero()[0])} holds NaN or infinity")
    if metric != "cosine":
        return x_ND
    length_N = x_ND.abs().amax(dim=1)
    if (length_N == 0).any():
        raise ValueError(f"{name}: row {int((length_N == 0).nonzero()[0])} is zero; its cosine is undefined")
    x_ND = x_ND / length_N[:, None]  # the largest entry first: squares of 1e-200 would vanish
    unit_ND: Tensor = x_ND / x_ND.norm(dim=1, keepdim=True)
    return unit_ND


def _check_pair(x: Tensor, y: Tensor, k: int) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"expected (n, d) and (m, d), got {tuple(x.shape)} and {tuple(y.shape)}")
    if len(x) == 0 or len(y) == 0:
        raise ValueError("a set without rows has no neighbours")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
