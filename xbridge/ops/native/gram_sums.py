"""`gram_sums` in C++ (csrc/cpu/gram_sums.cpp): float32 tiles, computed once for both triangles and never stored."""

from collections.abc import Sequence

import torch
from torch import Tensor

from xbridge.ops.gram_sums import GramTotals, TileKernel
from xbridge.ops.native import why_unavailable

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def why_not(
    layers: Sequence[Tensor],
    shifts: Sequence[Tensor],
    scales: Sequence[float],
    kernel: TileKernel,
    gammas: Sequence[float],
) -> str:
    """See `xbridge.ops.gram_sums.gram_sums`."""
    for x in layers:
        if x.device.type != "cpu":
            return f"there is no kernel for {x.device.type} tensors"
        if x.dtype not in DTYPES:
            return f"it computes in float32, not {x.dtype}"
        if x.shape[1] > 1 and x.stride(1) != 1:
            return "a row must be contiguous"
    return why_unavailable()


def gram_sums(
    layers: Sequence[Tensor],
    shifts: Sequence[Tensor],
    scales: Sequence[float],
    kernel: TileKernel,
    gammas: Sequence[float],
) -> GramTotals:
    """See `xbridge.ops.gram_sums.gram_sums`."""
    shifts = float_shifts(shifts)
    return GramTotals(*torch.ops.xbridge.gram_sums(list(layers), shifts, list(scales), kernel, list(gammas)))


def float_shifts(shifts: Sequence[Tensor]) -> list[Tensor]:
    """Shifts as the kernels read them."""
    return [shift.to("cpu", torch.float32).contiguous() for shift in shifts]


def _shapes(
    layers: list[Tensor], shifts: list[Tensor], scales: list[float], kernel: str, gammas: list[float]
) -> tuple[Tensor, Tensor]:
    num_layers, n = len(layers), layers[0].shape[0]
    products = layers[0].new_empty(num_layers, num_layers, dtype=torch.float64)
    return products, layers[0].new_empty(num_layers, n, dtype=torch.float64)


if not why_unavailable():
    torch.library.register_fake("xbridge::gram_sums", _shapes)
