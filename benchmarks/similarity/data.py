"""Layers for timing: float32 rows that share a code, so that similarities are far from 0 and from 1."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.similarity import reference
from benchmarks.similarity.measure import Answer


def two_models(n: int, d: int, num_layers: int) -> tuple[list[Tensor], list[Tensor]]:
    """num_layers layers of each of two models, (n, d) float32; layer 0 of the second is independent of everything."""
    generator = torch.Generator().manual_seed(3)

    def normal() -> Tensor:
        return torch.randn(n, d, generator=generator)

    code = normal()
    first = [code + normal() for _ in range(num_layers)]
    second = [normal(), *(code + normal() for _ in range(num_layers - 1))]
    return first, second


def first_row(n: int, d: int, num_layers: int, estimator: str) -> Answer:
    """Linear CKA of layer 0 of the first model with layers 0, 1 and 2 of the second, in float64."""
    first, second = two_models(n, d, num_layers)
    x, *others = [reference.centred(z) for z in (first[0], *second[:3])]
    return [_pair(x, y, estimator) for y in others]


def _pair(x: reference.Matrix, y: reference.Matrix, estimator: str) -> float:
    """In feature space, for centred rows: HSIC_1 from squared norms and squared lengths (n x n would not fit)."""
    n = len(x)

    def hsic(a: reference.Matrix, b: reference.Matrix) -> float:
        product = float(np.square(a.T @ b).sum())
        if estimator == "biased":
            return product
        # rows of a centred Gram sum to zero, so those of the same with a zero diagonal sum to minus the diagonal
        p, q = np.square(a).sum(axis=1), np.square(b).sum(axis=1)
        total = float(p.sum() * q.sum()) / ((n - 1) * (n - 2))
        return product - float(p @ q) - 2 / (n - 2) * float(p @ q) + total

    return float(hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y)))


def corner(matrix: Sequence[Sequence[float]] | Tensor | np.ndarray) -> Answer:
    """The first three entries of the first row."""
    return [float(value) for value in matrix[0][:3]]


def warm_up() -> None:
    """The first call of everything that loads or starts late: threads, native libraries."""
    from xbridge.similarity import cka, cka_matrix

    x, y = torch.randn(2, 512, 16)
    for engine in ("moments", "gram"):
        cka_matrix([x], [y], engine=engine)  # type: ignore[call-overload]
    cka(x, y, kernel="rbf", bandwidth=4.0)
