"""Gram sums of many batches of rows, each by itself: what minibatch estimates of HSIC add up."""

from collections.abc import Sequence

import torch
from torch import Tensor

from xbridge.ops.dispatch import op
from xbridge.ops.gram_sums import GramTotals, TileKernel, gram_sums


@op
def batch_gram_sums(
    layers: Sequence[Tensor],
    shifts: Sequence[Tensor],
    scales: Sequence[float],
    kernel: TileKernel,
    gammas: Sequence[float],
    size: int,
) -> GramTotals:
    """`gram_sums` of every run of `size` rows: products (B, S, S) and row sums (B, S, size) of B batches.

    layers: (B size, d_l) each, any float type; shifts: (B, d_l) float64, one row per batch; the rest as in `gram_sums`.
    Cost: B size^2 (F + S^2) multiply-adds.
    """
    totals = []
    for b, start in enumerate(range(0, len(layers[0]), size)):
        batch, means = [x[start : start + size] for x in layers], [shift[b] for shift in shifts]
        totals.append(gram_sums(batch, means, scales, kernel, gammas))
    return GramTotals(torch.stack([t.products for t in totals]), torch.stack([t.row_sums for t in totals]))
