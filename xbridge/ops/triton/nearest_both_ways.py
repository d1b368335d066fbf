"""`nearest_both_ways` in Triton: see `xbridge.ops.triton.neighbours`."""

import torch
from torch import Tensor

from xbridge.ops.triton.device import NARROW, why_not_here
from xbridge.ops.triton.neighbours import best_both_ways, sides, unpack

TAKEN = (*NARROW, torch.float32, torch.float64)
MAX_ROWS = 1 << 31


def why_not(x: Tensor, y: Tensor, k: int) -> str:
    """See `xbridge.ops.nearest_both_ways.nearest_both_ways`."""
    for rows in (x, y):
        if rows.dtype not in TAKEN:
            return f"it takes float16, bfloat16, float32 or float64 rows, not {rows.dtype}"
        if min(rows.shape) == 0 or len(rows) >= MAX_ROWS:
            return f"it takes 1 to 2^31 - 1 rows with at least one column, not {tuple(rows.shape)}"
    return why_not_here([x, y])


def nearest_both_ways(x: Tensor, y: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `xbridge.ops.nearest_both_ways.nearest_both_ways`. Raises ValueError for a row that is not finite."""
    forward, backward = best_both_ways(*sides(x, y), k, "dot")
    return (*unpack(forward), *unpack(backward))
