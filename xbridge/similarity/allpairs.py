"""A measure between all pairs of layers: what belongs to one layer is computed once, not once per pair."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from xbridge.similarity.rows import Layers, as_layers

P = TypeVar("P")
Q = TypeVar("Q")


def pair_matrix(
    a: Layers,
    b: Layers | None,
    prepare_a: Callable[[Tensor, str], P],
    prepare_b: Callable[[Tensor, str], Q],
    pair: Callable[[P, Q], float],
    *,
    symmetric: bool,
) -> np.ndarray:
    """pair(prepare_a(layer of a), prepare_b(layer of b)) for all pairs: (S_a, S_b) float64. `b` None stands for `a`.

    prepare_a, prepare_b: take a layer's rows, (n, d) float64 and finite, and its name for messages.
    symmetric: both are one function and pair(u, v) = pair(v, u), so that half the work is enough where `b` is None.

    ValueError, naming the layers, for unequal n and what the functions refuse.
    """
    rows_a = as_layers(a, "a")
    rows_b = rows_a if b is None else as_layers(b, "b")
    (name_a, x), (name_b, y) = next(iter(rows_a.items())), next(iter(rows_b.items()))
    if len(x) != len(y):
        raise ValueError(f"{name_b} has {len(y)} rows, {name_a} has {len(x)}: row i must be the same example in both")
    left: list[Any] = [prepare_a(x, name) for name, x in rows_a.items()]
    right = left if symmetric and b is None else [prepare_b(y, name) for name, y in rows_b.items()]
    value = np.empty((len(left), len(right)))
    for i, u in enumerate(left):
        for j, v in enumerate(right):
            mirrored = symmetric and b is None and j < i
            value[i, j] = value[j, i] if mirrored else pair(u, v)
    return value
