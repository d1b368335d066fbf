"""`factor_rows` in C++ (csrc/cpu/factor_rows.cpp)."""

import torch
from torch import Tensor

from xbridge.ops.factor_rows import Factors
from xbridge.ops.native import why_unavailable


def why_not(x_ND: Tensor, weight_N: Tensor, shift_D: Tensor, other_D: Tensor, dtype: torch.dtype) -> str:
    """See `xbridge.ops.factor_rows.factor_rows`."""
    if x_ND.device.type != "cpu":
        return f"there is no kernel for {x_ND.device.type} tensors"
    if dtype != torch.float32:
        return f"it writes float32, not {dtype}"
    return why_unavailable()


def factor_rows(x_ND: Tensor, weight_N: Tensor, shift_D: Tensor, other_D: Tensor, dtype: torch.dtype) -> Factors:
    """See `xbridge.ops.factor_rows.factor_rows`."""
    n, d = x_ND.shape
    x_ND = x_ND if d == 1 or x_ND.stride(1) == 1 else x_ND.contiguous()
    found = Factors(torch.empty(n, d), torch.empty(n, dtype=torch.float64), torch.empty(n, dtype=torch.float64))
    torch.ops.xbridge.factor_rows(x_ND, weight_N.contiguous(), shift_D.contiguous(), other_D.contiguous(), *found)
    return found
