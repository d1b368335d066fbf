"""`ingest` in C++ (csrc/cpu/ingest.cpp) and CUDA (csrc/cuda/ingest.cu)."""

import torch
from torch import Tensor

from xbridge.ops.native import why_no_cuda, why_unavailable

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
WRITES = {"cpu": (torch.float32,), "cuda": (torch.float32, torch.float16, torch.bfloat16)}


def why_not(x: Tensor, shift: Tensor, scale: float, rows: Tensor, squared_lengths: Tensor) -> str:
    """See `xbridge.ops.ingest.ingest`."""
    kind = x.device.type
    if kind not in WRITES:
        return f"there is no kernel for {kind} tensors"
    if x.dtype not in FLOATS or rows.dtype not in WRITES[kind]:
        return f"there is no {kind} kernel from {x.dtype} to {rows.dtype}"
    if x.shape[1] > 1 and (x.stride(1) != 1 or rows.stride(1) != 1):
        return "a row must be contiguous"
    return why_no_cuda() if kind == "cuda" else why_unavailable()


def ingest(x: Tensor, shift: Tensor, scale: float, rows: Tensor, squared_lengths: Tensor) -> int:
    """See `xbridge.ops.ingest.ingest`."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return int(torch.ops.xbridge.ingest(x, shift.to(x.device, wide).contiguous(), scale, rows, squared_lengths))
