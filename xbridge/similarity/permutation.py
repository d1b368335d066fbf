"""Permutation tests of CKA: how often do shuffled partners look as similar as the true ones?"""

import torch
from torch import Tensor

from xbridge.ops.hsic import Estimator
from xbridge.similarity.cka import cka
from xbridge.similarity.rows import Rows, as_rows, standardise


def cka_permutation_test(
    x: Rows, y: Rows, *, num_permutations: int = 1000, seed: int = 0, estimator: Estimator = "unbiased"
) -> tuple[float, float]:
    """Linear CKA of x: (n, d1) and y: (n, d2), and the p-value of independence: rows of y are permuted, one-sided.

    p = (1 + permutations with a CKA at least as high) / (1 + num_permutations). Cost per permutation: n d1 d2
    multiply-adds, with d cut to n.
    """
    value = cka(x, y, estimator=estimator)
    rows_x, rows_y = (_rotated(standardise(as_rows(z, name), name)[0]) for z, name in ((x, "x"), (y, "y")))
    a, b = rows_x.square().sum(1), rows_y.square().sum(1)
    diagonal = len(rows_x) / (len(rows_x) - 2) if estimator == "unbiased" else 0.0
    generator = torch.Generator().manual_seed(seed)

    def varying_part(order: Tensor) -> float:
        return float((rows_x.T @ rows_y[order]).square().sum() - diagonal * (a @ b[order]))

    observed = varying_part(torch.arange(len(rows_x)))
    tolerance = 1e-12 * abs(observed)
    orders = (torch.randperm(len(rows_x), generator=generator) for _ in range(num_permutations))
    return value, (1 + sum(varying_part(order) >= observed - tolerance for order in orders)) / (1 + num_permutations)


def _rotated(x: Tensor) -> Tensor:
    """The rows in a basis of at most n dimensions: the same inner products, fewer columns."""
    return x if x.shape[1] <= len(x) else torch.linalg.qr(x.T, mode="r").R.T
