"""Kernels of CKA: what a layer's rows are shifted, scaled and compared with."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from xbridge.ops.gram_sums import Tile, laplacian_tile, linear_tile, rbf_tile, squared_distances
from xbridge.similarity.rows import Rows, as_rows

Kernel: TypeAlias = Literal["linear", "cosine", "rbf", "laplacian"] | Callable[[Tensor, Tensor], Tensor]
Bandwidth: TypeAlias = Literal["median"] | float
MEDIAN_ROWS = 2048
PILOT_ROWS = 512  # enough for a shift near the mean and a scale near the size


class KernelLayer(NamedTuple):
    """A layer's kernel is that of z = (x - shift) scale, with gamma in the units of z."""

    shift: Tensor  # (d,) float64, near the mean
    scale: float  # a power of two, near one over the root of the total variance
    gamma: float  # rbf exp(-gamma |z - z'|^2), laplacian exp(-gamma |z - z'|)


def check_kernel(kernel: Kernel) -> None:
    """ValueError for a kernel that is neither known nor a function."""
    if not callable(kernel) and kernel not in ("linear", "cosine", "rbf", "laplacian"):
        raise ValueError(f"kernel must be linear, cosine, rbf, laplacian or a function, not {kernel!r}")


def kernel_layers(
    layers: Mapping[str, Rows], kernel: Kernel, bandwidth: Bandwidth | Sequence[Bandwidth]
) -> list[KernelLayer]:
    """Shift, scale and width of each layer, from at most so many evenly spaced rows. ValueError names a constant layer.

    "median" is the median distance between (at most 2,048) rows, the same for every engine.
    """
    widths = [bandwidth] * len(layers) if isinstance(bandwidth, str | float | int) else bandwidth
    return [_kernel_layer(x, name, kernel, width) for (name, x), width in zip(layers.items(), widths, strict=True)]


def tile_of(layer: KernelLayer, kernel: Kernel) -> Tile:
    """The kernel as a function of blocks of z."""
    if callable(kernel):
        return kernel
    if kernel == "rbf":
        return rbf_tile((2 * layer.gamma) ** -0.5)
    return laplacian_tile(1 / layer.gamma) if kernel == "laplacian" else linear_tile


def unit_rows(x: Tensor, name: str, first_row: int = 0) -> Tensor:
    """Rows of length 1: (n, d), float32 or wider. ValueError names a row of zeros."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    largest = x.abs().amax(dim=1, keepdim=True)  # first: squares of small numbers would vanish
    if bool((largest == 0).any()):
        row = first_row + int((largest[:, 0] == 0).nonzero()[0])
        raise ValueError(f"{name}: row {row} is zero; its cosine is undefined")
    x = x / largest
    unit: Tensor = x / x.norm(dim=1, keepdim=True)
    return unit


def _kernel_layer(x: Rows, name: str, kernel: Kernel, bandwidth: Bandwidth) -> KernelLayer:
    pilot = as_rows(_spread(x, MEDIAN_ROWS if kernel in ("rbf", "laplacian") else PILOT_ROWS), name)
    if kernel == "cosine":
        pilot = unit_rows(pilot, name)
    shift = pilot[0] + (pilot - pilot[0]).mean(0)
    centred = pilot - shift
    largest = float(centred.abs().max())
    if largest == 0:
        raise ValueError(f"{name}: {_equal_rows(len(pilot), int(x.shape[0]))}; similarity to it is undefined")
    scale = 2.0 ** -round(math.log2(largest * float((centred / largest).square().sum(1).mean().sqrt())))
    if kernel not in ("rbf", "laplacian"):
        return KernelLayer(shift, scale, 1.0)
    if isinstance(bandwidth, str) and bandwidth != "median":
        raise ValueError(f'bandwidth must be "median" or a number, not {bandwidth!r}')
    width = _median_distance(centred) if isinstance(bandwidth, str) else float(bandwidth)
    if not width > 0:
        raise ValueError(f"{name}: the bandwidth must be positive, got {width:g}")
    width *= scale
    return KernelLayer(shift, scale, 0.5 / width**2 if kernel == "rbf" else 1 / width)


def _equal_rows(looked_at: int, n: int) -> str:
    whole = looked_at == n
    return f"all {n} rows are equal (zero variance)" if whole else f"{looked_at} rows spread over its {n} are all equal"


def _spread(x: Rows, count: int) -> Tensor:
    """At most `count` rows, evenly spaced; rows on disk are read in short runs."""
    n = int(x.shape[0])
    if n <= count:
        return torch.as_tensor(x[0:n])
    if isinstance(x, Tensor):
        return x[torch.linspace(0, n - 1, count, dtype=torch.float64).long().to(x.device)]
    starts = torch.linspace(0, n - 16, count // 16, dtype=torch.float64).long().tolist()
    return torch.cat([torch.as_tensor(x[start : start + 16]) for start in starts])


def _median_distance(x: Tensor) -> float:
    i, j = torch.triu_indices(len(x), len(x), offset=1)
    return float(squared_distances(x, x)[i, j].sqrt().median())
