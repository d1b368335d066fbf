"""`xty` in C++ with AMX (csrc/cpu/moments_amx.cpp)."""

import torch
from torch import Tensor

from xbridge.ops.native import isa, why_unavailable


def why_not(x: Tensor, y: Tensor, total: Tensor) -> str:
    """See `xbridge.ops.xty.xty`."""
    if x.device.type != "cpu":
        return f"there is no kernel for {x.device.type} tensors"
    if x.dtype != torch.bfloat16 or y.dtype != torch.bfloat16:
        return f"it multiplies bfloat16, not {x.dtype} and {y.dtype}"
    if total.dtype != torch.float32:
        return f"it sums in float32, not {total.dtype}"
    if any(m.shape[1] > 1 and m.stride(1) != 1 for m in (x, y, total)):
        return "a row must be contiguous"
    reason = why_unavailable()
    if not reason and isa() != "amx":
        return f"it needs AMX, and this processor has {isa()}"
    return reason


def xty(x: Tensor, y: Tensor, total: Tensor) -> None:
    """See `xbridge.ops.xty.xty`."""
    torch.ops.xbridge.xty(x, y, total)
