"""`batch_gram_sums` in C++ (csrc/cpu/gram_sums.cpp): a thread takes whole batches, and meets the others once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from xbridge.ops.gram_sums import GramTotals, TileKernel
from xbridge.ops.native import gram_sums, why_unavailable


def why_not(
    layers: Sequence[Tensor],
    shifts: Sequence[Tensor],
    scales: Sequence[float],
    kernel: TileKernel,
    gammas: Sequence[float],
    size: int,
) -> str:
    """See `xbridge.ops.batch_gram_sums.batch_gram_sums`."""
    return gram_sums.why_not(layers, shifts, scales, kernel, gammas)


def batch_gram_sums(
    layers: Sequence[Tensor],
    shifts: Sequence[Tensor],
    scales: Sequence[float],
    kernel: TileKernel,
    gammas: Sequence[float],
    size: int,
) -> GramTotals:
    """See `xbridge.ops.batch_gram_sums.batch_gram_sums`."""
    shifts = gram_sums.float_shifts(shifts)
    return GramTotals(
        *torch.ops.xbridge.batch_gram_sums(list(layers), shifts, list(scales), kernel, list(gammas), size)
    )


def _shapes(
    layers: list[Tensor], shifts: list[Tensor], scales: list[float], kernel: str, gammas: list[float], size: int
) -> tuple[Tensor, Tensor]:
    num_layers, num_batches = len(layers), layers[0].shape[0] // size
    products = layers[0].new_empty(num_batches, num_layers, num_layers, dtype=torch.float64)
    return products, layers[0].new_empty(num_batches, num_layers, size, dtype=torch.float64)


if not why_unavailable():
    torch.library.register_fake("xbridge::batch_gram_sums", _shapes)
