"""Whether Triton kernels can run here, and on which device they are launched."""

import importlib.util
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

NARROW = (torch.float16, torch.bfloat16)


def interpreting() -> bool:
    """Whether kernels run on the CPU in Triton's interpreter (set before triton is imported)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def why_not_here(tensors: Sequence[Tensor]) -> str:
    """Why no Triton kernel can take these tensors, or "": triton must be there, and all tensors on one GPU."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    devices = {x.device for x in tensors}
    if len(devices) != 1:
        return f"the tensors are on {len(devices)} devices"
    kind = next(iter(devices)).type
    if interpreting():
        return "" if kind == "cpu" else "TRITON_INTERPRET=1 runs kernels on the CPU only"
    if kind != "cuda":
        return "the rows are not on a CUDA device" if torch.cuda.is_available() else "no CUDA device"
    if torch.version.hip is None and torch.cuda.get_device_capability(next(iter(devices))) < (8, 0):
        return "the kernels need a GPU of compute capability 8.0 or later"
    return ""


def on_device(x: Tensor) -> AbstractContextManager[object]:
    """The context in which a kernel is launched on the tensor's device."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext()
