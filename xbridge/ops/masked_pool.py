"""One vector per sequence from the states of its positions, and the states of chosen positions.

Padding never enters: states outside the mask may hold anything, NaN included. Means are accumulated in float32 or in
the states' own type where that is wider, and returned in it.

Shape letters: B sequences, T positions, D features, N chosen positions over all sequences.
"""

from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["mean", "first", "last"]


def masked_pool(states_BTD: Tensor, mask_BT: Tensor, pooling: Pooling = "mean") -> Tensor:
    """Pool the positions where `mask_BT` is true: their mean, the first of them, or the last of them.

    states: (batch, time, d), mask: (batch, time) bool. Returns (batch, d), float32 or wider. Differentiable in the
    states. Raises ValueError for shapes that do not fit, a sequence without a true position, or an unknown pooling.
    """
    if states_BTD.ndim != 3 or mask_BT.shape != states_BTD.shape[:2] or mask_BT.dtype != torch.bool:
        raise ValueError(
            f"expected states (batch, time, d) and a bool mask (batch, time), got {tuple(states_BTD.shape)} and "
            f"{mask_BT.dtype} {tuple(mask_BT.shape)}"
        )
    count_B = mask_BT.sum(dim=1)
    if not bool((count_B > 0).all()):
        raise ValueError(f"sequence {int((count_B == 0).nonzero()[0])} has no position to pool")
    states_BTD = states_BTD.to(torch.promote_types(states_BTD.dtype, torch.float32))
    if pooling == "mean":
        total_BD = states_BTD.masked_fill(~mask_BT[:, :, None], 0).sum(dim=1)
        return total_BD / count_B[:, None].to(total_BD.dtype)
    if pooling == "first":
        position_B = mask_BT.int().argmax(dim=1)
    elif pooling == "last":
        position_B = mask_BT.shape[1] - 1 - mask_BT.flip(1).int().argmax(dim=1)
    else:
        raise ValueError(f"pooling must be mean, first or last, not {pooling!r}")
    return states_BTD[torch.arange(len(states_BTD), device=states_BTD.device), position_B]


def take_positions(states_BTD: Tensor, sequence_N: Tensor, position_N: Tensor) -> Tensor:
    """The states at (sequence, position) pairs: (n, d), float32 or wider. Both index tensors: (n,) int64."""
    states_ND = states_BTD[sequence_N, position_N]
    return states_ND.to(torch.promote_types(states_ND.dtype, torch.float32))
