"""`accumulate` in C++ (csrc/cpu/accumulate.cpp): no float64 copy of the terms."""

import torch
from torch import Tensor

from xbridge.ops.native import why_unavailable


def why_not(total: Tensor, values: Tensor) -> str:
    """See `xbridge.ops.accumulate.accumulate`."""
    if total.device.type != "cpu":
        return f"there is no kernel for {total.device.type} tensors"
    if total.dtype != torch.float64 or values.dtype != torch.float32:
        return f"it adds float32 to float64, not {values.dtype} to {total.dtype}"
    if total.shape[1] > 1 and (total.stride(1) != 1 or values.stride(1) != 1):
        return "a row must be contiguous"
    return why_unavailable()


def accumulate(total: Tensor, values: Tensor) -> None:
    """See `xbridge.ops.accumulate.accumulate`."""
    torch.ops.xbridge.accumulate(total, values)
