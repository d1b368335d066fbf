"""`margin_both_ways` in Triton: the best partner by margin over all pairs, see `xbridge.ops.triton.neighbours`.

    ratio: s_ij / b_ij      distance: s_ij - b_ij      absolute: s_ij      b_ij = (near_x_i + near_y_j) / 2

(Artetxe and Schwenk, 2019, equations 2-4, https://aclanthology.org/P19-1309)
"""

from typing import Literal

from torch import Tensor

from xbridge.ops.triton import nearest_both_ways
from xbridge.ops.triton.device import why_not_here
from xbridge.ops.triton.neighbours import Score, best_both_ways, sides, unpack

Margin = Literal["ratio", "distance", "absolute"]
SCORES: dict[Margin, Score] = {"ratio": "ratio", "distance": "distance", "absolute": "dot"}


def why_not(x: Tensor, y: Tensor, near_x: Tensor, near_y: Tensor, margin: Margin = "ratio") -> str:
    """Why this call cannot run here, or ""."""
    return nearest_both_ways.why_not(x, y, 1) or why_not_here([x, y, near_x, near_y])


def margin_both_ways(
    x: Tensor, y: Tensor, near_x: Tensor, near_y: Tensor, margin: Margin = "ratio"
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x: (n, d), y: (m, d), unit rows; near_x: (n,), near_y: (m,): mean similarity to the k nearest of the other set.

    Returns score (n,) float32 and index (n,) int64 of the best row of y, and (m,), (m,) of the best row of x. Scores
    are those of float64, rounded once; ties go to the lowest index. Raises ValueError for a row that is not finite.
    """
    forward, backward = best_both_ways(*sides(x, y, near_x, near_y), 1, SCORES[margin])
    (forward_score, forward_index), (backward_score, backward_index) = unpack(forward), unpack(backward)
    return forward_score[:, 0], forward_index[:, 0], backward_score[:, 0], backward_index[:, 0]
