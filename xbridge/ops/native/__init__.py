"""C++ and CUDA kernels from csrc/, loaded through torch's stable ABI. Absent where they could not be built."""

import functools
from pathlib import Path

import torch

LIBRARY = "_library.abi3.so"


@functools.cache
def why_unavailable() -> str:
    """Load the library, once; "" or the reason why it cannot be used."""
    path = Path(__file__).with_name(LIBRARY)
    if not path.exists():
        return "the native operators are not built (pip install --no-build-isolation with a C++ compiler)"
    try:
        torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
    except OSError as error:
        return f"the native operators do not load: {str(error).splitlines()[0]}"
    return ""


def isa() -> str:
    """The instruction set that the CPU kernels use here: portable, avx2, avx512 or amx."""
    return "none" if why_unavailable() else str(torch.ops.xbridge.cpu_features())
