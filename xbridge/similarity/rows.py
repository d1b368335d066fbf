"""Activation matrices as the measures want them: whole in float64, centred, of unit scale; or in slices, as they
are."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor


class Sliceable(Protocol):
    """Rows on disk or elsewhere: a shape, and slices of rows as tensors or arrays. Memory maps and stores are such."""

    @property
    def shape(self) -> Any:
        """(n, d)"""

    def __getitem__(self, rows: slice, /) -> Any:
        """Rows start to stop, (stop - start, d)."""


Rows: TypeAlias = Tensor | np.ndarray | Sliceable  # (n, d), any float type, any device
Layers: TypeAlias = Sequence[Rows] | Mapping[str, Rows]


def as_rows(x: Rows, name: str) -> Tensor:
    """(n, d) float64 on the CPU. ValueError names the layer and row of the first value that is not finite."""
    rows = as_chunk(x if isinstance(x, Tensor | np.ndarray) else x[0 : _shape(x, name)[0]], name)
    rows = rows.to("cpu", torch.float64)
    bad = ~torch.isfinite(rows).all(dim=1)
    if bad.any():
        raise ValueError(f"{name}: row {int(bad.nonzero()[0])} holds NaN or infinity")
    return rows


def as_chunk(x: Any, name: str) -> Tensor:
    """(n, d) as a tensor in its own float type, on its own device; whole numbers become float64."""
    if not isinstance(x, Tensor):
        array = np.ascontiguousarray(x)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nothing here writes
            x = torch.from_numpy(array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("=")))
    tensor: Tensor = x.detach()
    if tensor.ndim != 2:
        raise ValueError(f"{name}: expected (n, d), got {tuple(tensor.shape)}")
    if tensor.is_complex():
        raise ValueError(f"{name}: expected real numbers, got {tensor.dtype}")
    return tensor if tensor.is_floating_point() else tensor.double()


def named_layers(layers: Layers, name: str) -> dict[str, Rows]:
    """Name -> rows, as given. A sequence's layers are called "layer 0 of a", ...; all must have the same n.

    An object with a method `layers` (a store of activations) stands for what that returns.
    """
    found = layers.layers() if hasattr(layers, "layers") else layers
    named = dict(found) if isinstance(found, Mapping) else {f"layer {i} of {name}": x for i, x in enumerate(found)}
    if not named:
        raise ValueError(f"{name}: no layers")
    (first, (n, _)), *others = [(key, _shape(x, key)) for key, x in named.items()]
    for key, (count, _) in others:
        if count != n:
            raise ValueError(f"{key} has {count} rows, {first} has {n}: row i must be the same example in both")
    return named


def num_rows(layers: Mapping[str, Rows]) -> int:
    """n of the first layer."""
    return _shape(next(iter(layers.values())), "layer")[0]


def dims_of(layers: Mapping[str, Rows]) -> list[int]:
    """Features of each layer."""
    return [_shape(x, key)[1] for key, x in layers.items()]


def chunks_of(layers: Mapping[str, Rows], chunk_rows: int) -> Iterator[list[Tensor]]:
    """All layers' rows, so many at a time, each in its own float type."""
    n = num_rows(layers)
    for start in range(0, n, chunk_rows):
        yield [as_chunk(x[start : min(n, start + chunk_rows)], key) for key, x in layers.items()]


def _shape(x: Rows, name: str) -> tuple[int, int]:
    shape = tuple(x.shape)
    if len(shape) != 2:
        raise ValueError(f"{name}: expected (n, d), got {shape}")
    return int(shape[0]), int(shape[1])


def as_layers(layers: Layers, name: str) -> dict[str, Tensor]:
    """Name -> (n, d_l) float64, all in memory; names and errors as `named_layers`."""
    return {key: as_rows(x, key) for key, x in named_layers(layers, name).items()}


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
