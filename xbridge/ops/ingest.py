"""Rows on their way into sums: shifted, scaled, cast, measured and checked in one pass.

A shift near the mean and a power of two as scale keep float32 products free of cancellation, whatever the input's
offset and size: x - c is exact or rounded to a part in 2^24 of itself, and the sums that follow are small.
"""

import torch
from torch import Tensor

from xbridge.ops.dispatch import op


@op
def ingest(x: Tensor, shift: Tensor, scale: float, rows: Tensor, squared_lengths: Tensor) -> int:
    """rows = (x - shift) scale and squared_lengths = |rows_i|^2, both written in place.

    x: (n, d), any float type; shift: (d,) float64; scale: a power of two; rows: (n, d) float32 or float64, may be a
    view; squared_lengths: (n,) float64. Returns the number of the first row that is not finite, or -1.
    """
    wide = torch.promote_types(torch.promote_types(x.dtype, torch.float32), rows.dtype)
    rows.copy_((x.to(wide) - shift.to(wide)) * scale)
    squared_lengths.copy_(rows.double().square().sum(1))
    bad = ~torch.isfinite(squared_lengths)
    return int(bad.nonzero()[0]) if bool(bad.any()) else -1
