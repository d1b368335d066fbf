"""`ingest` in C++ (csrc/cpu/ingest.cpp)."""

import torch
from torch import Tensor

from xbridge.ops.native import why_unavailable


def why_not(x: Tensor, shift: Tensor, scale: float, rows: Tensor, squared_lengths: Tensor) -> str:
    """See `xbridge.ops.ingest.ingest`."""
    if x.device.type != "cpu":
        return f"there is no kernel for {x.device.type} tensors"
    if rows.dtype != torch.float32:
        return f"it writes float32, not {rows.dtype}"
    if x.shape[1] > 1 and (x.stride(1) != 1 or rows.stride(1) != 1):
        return "a row must be contiguous"
    return why_unavailable()


def ingest(x: Tensor, shift: Tensor, scale: float, rows: Tensor, squared_lengths: Tensor) -> int:
    """See `xbridge.ops.ingest.ingest`."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return int(torch.ops.xbridge.ingest(x, shift.to(wide).contiguous(), scale, rows, squared_lengths))
