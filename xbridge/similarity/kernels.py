"""Kernels of CKA: a layer's rows, prepared, and the function that gives a block of its kernel matrix."""

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from xbridge.ops.gram_sums import Tile, laplacian_tile, linear_tile, rbf_tile, squared_distances
from xbridge.similarity.rows import standardise

Kernel: TypeAlias = Literal["linear", "cosine", "rbf", "laplacian"] | Callable[[Tensor, Tensor], Tensor]
Bandwidth: TypeAlias = Literal["median"] | float
MEDIAN_ROWS = 2048


def prepare(layers: dict[str, Tensor], kernel: Kernel, bandwidth: Bandwidth) -> list[tuple[Tensor, Tile]]:
    """Each layer's rows and kernel; names are for messages. See `xbridge.similarity.cka_matrix` for the options."""
    return [_prepare_layer(x, name, kernel, bandwidth) for name, x in layers.items()]


def _prepare_layer(x: Tensor, name: str, kernel: Kernel, bandwidth: Bandwidth) -> tuple[Tensor, Tile]:
    if callable(kernel):
        return x, kernel
    if kernel == "cosine":
        length = x.norm(dim=1, keepdim=True)
        if (length == 0).any():
            raise ValueError(f"{name}: row {int((length[:, 0] == 0).nonzero()[0])} is zero; its cosine is undefined")
        x = x / length
    x, scale = standardise(x, name)
    if kernel in ("linear", "cosine"):
        return x, linear_tile
    if kernel not in ("rbf", "laplacian"):
        raise ValueError(f"kernel must be linear, cosine, rbf, laplacian or a function, not {kernel!r}")
    width = _median_distance(x) if bandwidth == "median" else float(bandwidth) / scale
    if not width > 0:
        raise ValueError(f"{name}: the bandwidth must be positive, got {width * scale:g}")
    return x, rbf_tile(width) if kernel == "rbf" else laplacian_tile(width)


def _median_distance(x: Tensor) -> float:
    if len(x) > MEDIAN_ROWS:
        x = x[torch.linspace(0, len(x) - 1, MEDIAN_ROWS).long()]
    i, j = torch.triu_indices(len(x), len(x), offset=1)
    return float(squared_distances(x, x)[i, j].sqrt().median())
