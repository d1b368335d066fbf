"""Second moments of bfloat16 rows, summed in float32."""

from torch import Tensor

from xbridge.ops.dispatch import op


@op
def xty(x: Tensor, y: Tensor, total: Tensor) -> None:
    """total += x^T y, with every product exact and sums in float32.

    x: (n, d1) bfloat16; y: (n, d2) bfloat16; total: (d1, d2) float32, changed in place.
    torch's product of bfloat16 matrices on a CPU rounds its result to bfloat16, which no sum of chunks survives.
    Cost: n d1 d2 multiply-adds.
    """
    total.addmm_(x.float().T, y.float())
