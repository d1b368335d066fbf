"""Activation matrices as the measures want them: float64, checked, centred, of unit scale."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

Rows: TypeAlias = Tensor | np.ndarray  # (n, d), any float type, any device
Layers: TypeAlias = Sequence[Rows] | Mapping[str, Rows]


def as_rows(x: Rows, name: str) -> Tensor:
    """(n, d) float64 on the CPU. ValueError names the layer and row of the first value that is not finite."""
    tensor = (torch.from_numpy(np.ascontiguousarray(x)) if isinstance(x, np.ndarray) else x).detach()
    if tensor.ndim != 2:
        raise ValueError(f"{name}: expected (n, d), got {tuple(tensor.shape)}")
    rows = tensor.to("cpu", torch.float64)
    bad = ~torch.isfinite(rows).all(dim=1)
    if bad.any():
        raise ValueError(f"{name}: row {int(bad.nonzero()[0])} holds NaN or infinity")
    return rows


def as_layers(layers: Layers, name: str) -> dict[str, Tensor]:
    """Name -> (n, d_l) float64. A sequence's layers are called "layer 0 of a", ...; all must have the same n."""
    named = layers if isinstance(layers, Mapping) else {f"layer {i} of {name}": x for i, x in enumerate(layers)}
    if not named:
        raise ValueError(f"{name}: no layers")
    rows = {key: as_rows(x, key) for key, x in named.items()}
    require_same_rows(rows)
    return rows


def as_pair(x: Rows, y: Rows) -> tuple[Tensor, Tensor]:
    """Both as centred float64 rows of unit total variance, with the same n."""
    rows = {"x": as_rows(x, "x"), "y": as_rows(y, "y")}
    require_same_rows(rows)
    return standardise(rows["x"], "x")[0], standardise(rows["y"], "y")[0]


def require_same_rows(rows: Mapping[str, Tensor]) -> None:
    """ValueError unless all layers have as many rows as the first."""
    (first, x), *others = rows.items()
    for name, y in others:
        if len(y) != len(x):
            raise ValueError(f"{name} has {len(y)} rows, {first} has {len(x)}: row i must be the same example in both")


def standardise(x: Tensor, name: str) -> tuple[Tensor, float]:
    """Centred rows divided by the root of their total variance, and that root. ValueError where all rows are equal.

    The first row is subtracted before the mean: rows that are all equal become zero exactly, and a large common offset
    costs no precision.
    """
    if len(x) == 0:
        raise ValueError(f"{name}: no rows")
    x = x - x[0]
    largest = float(x.abs().max())
    if largest == 0:
        raise ValueError(f"{name}: all {len(x)} rows are equal (zero variance); similarity to it is undefined")
    x = x / largest
    x = x - x.mean(dim=0)
    scale = float(x.square().sum(dim=1).mean().sqrt())
    return x / scale, scale * largest
