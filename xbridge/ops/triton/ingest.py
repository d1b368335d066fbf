"""`ingest` in Triton: one read of the rows, one write."""

import torch
from torch import Tensor

from xbridge.ops.triton.device import why_not_here
from xbridge.ops.triton.prepare import prepare


def why_not(x: Tensor, shift: Tensor, scale: float, rows: Tensor, squared_lengths: Tensor) -> str:
    """See `xbridge.ops.ingest.ingest`."""
    if rows.dtype != torch.float32:
        return f"it writes float32, not {rows.dtype}"
    if rows.shape[1] > 1 and rows.stride(1) != 1:
        return "a row must be contiguous"
    return why_not_here([x, shift, rows, squared_lengths])


def ingest(x: Tensor, shift: Tensor, scale: float, rows: Tensor, squared_lengths: Tensor) -> int:
    """See `xbridge.ops.ingest.ingest`."""
    taken = prepare(x, shift, scale, torch.float32, out=rows)
    squared_lengths.copy_(taken.norms)
    first = int(taken.first_bad)
    return first if first < len(x) else -1
