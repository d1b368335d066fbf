"""Rows weighted and shifted, in one precision for a product of matrices, with what an error bound asks of them."""

from typing import NamedTuple

import torch
from torch import Tensor

from xbridge.ops.dispatch import op


class Factors(NamedTuple):
    """What `factor_rows` returns."""

    rows: Tensor  # (n, d) x weight - shift, rounded once
    squares: Tensor  # (n,) float64: squared lengths
    products: Tensor  # (n,) float64: products with another vector


@op
def factor_rows(x_ND: Tensor, weight_N: Tensor, shift_D: Tensor, other_D: Tensor, dtype: torch.dtype) -> Factors:
    """x weight - shift, row by row, computed in float64 and rounded to `dtype`; lengths and products before rounding.

    x_ND: any float type; weight, shift and other: float64. Sums of d terms in any order.
    """
    rows_ND = x_ND.double() * weight_N[:, None] - shift_D
    return Factors(rows_ND.to(dtype), rows_ND.square().sum(dim=1), rows_ND @ other_D)
