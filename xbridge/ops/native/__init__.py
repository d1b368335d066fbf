"""C++ and CUDA kernels from csrc/, loaded through torch's stable ABI. Absent where they could not be built.

XBRIDGE_NATIVE=off builds none, and loads none that were built.
"""

import functools
import os
from pathlib import Path

import torch

LIBRARY = "_library.abi3.so"  # all schemas, and the CPU kernels
CUDA_LIBRARY = "_cuda.abi3.so"  # the CUDA kernels


@functools.cache
def why_unavailable() -> str:
    """Load the library, once; "" or the reason why it cannot be used."""
    if os.environ.get("XBRIDGE_NATIVE") == "off":
        return "switched off by XBRIDGE_NATIVE=off"
    return _load(LIBRARY, "the native operators are not built (pip install --no-build-isolation with a C++ compiler)")


@functools.cache
def why_no_cuda() -> str:
    """Load the CUDA kernels, once; "" or the reason why they cannot be used."""
    if torch.version.cuda is None:
        return "this build of torch has no CUDA"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    return why_unavailable() or _load(
        CUDA_LIBRARY, "the CUDA operators are not built (pip install --no-build-isolation with nvcc on the PATH)"
    )


def _load(name: str, why_absent: str) -> str:
    path = Path(__file__).with_name(name)
    if not path.exists():
        return why_absent
    try:
        torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
    except OSError as error:
        return f"{name} does not load: {str(error).splitlines()[0]}"
    return ""


def isa() -> str:
    """The instruction set that the CPU kernels use here: portable, avx2, avx512 or amx."""
    return "none" if why_unavailable() else str(torch.ops.xbridge.cpu_features())
