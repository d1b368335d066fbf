"""total += values, float32 terms into float64 sums: rounding of a product stays in the product."""

from torch import Tensor

from xbridge.ops.dispatch import op


@op
def accumulate(total: Tensor, values: Tensor) -> None:
    """total += values in place. total: (rows, cols) float64; values: (rows, cols) float32 or float64."""
    total += values
