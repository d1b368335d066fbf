"""Rows as the other kernels want them, with their statistics, in one pass over memory.

    stored = cast((row - shift) * scale), columns padded by zeros to a multiple of 8 (16-byte rows in 16 bit)

`split` keeps float32 rows to 22 bits as two float16 planes [low | high]: then low + high = (row - shift) * scale.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from xbridge.ops.triton.configs import INGEST, PLANE_MULTIPLE
from xbridge.ops.triton.device import on_device

STORED = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class Prepared:
    """Stored rows, and the statistics of the values that they hold."""

    rows: Tensor
    """(n, width): one plane of columns, or two where split"""
    norms: Tensor
    """(n,) float64, squared lengths"""
    column_sums: Tensor
    """(d,) float64"""
    num_bad: Tensor
    """() int64, rows that hold NaN or infinity, or do not fit the stored type"""
    first_bad: Tensor
    """() int64, the first of them, n where there is none"""


def prepare(
    rows: Tensor,
    shift: Tensor,
    scale: float = 1.0,
    dtype: torch.dtype = torch.float16,
    *,
    split: bool = False,
    out: Tensor | None = None,
) -> Prepared:
    """rows: (n, d), any float type and strides; shift: (d,), subtracted in float32, or in float64 from
    float64 rows; scale: best a power of two.

    dtype: float16, bfloat16 or float32 of the stored rows; `split` needs float16. `out`: (n, d) of that type, columns
    contiguous, where the rows must go somewhere; it gets no padding. Column sums are exact to float32
    rounding of 64 rows at a time, added in float64 in a fixed order. Cost: one read and one write of the rows.
    Raises ValueError for shapes that do not fit, a scale that is not positive, or a type that cannot be stored.
    """
    if rows.ndim != 2 or shift.shape != rows.shape[1:]:
        raise ValueError(f"expected rows (n, d) and shift (d,), got {tuple(rows.shape)} and {tuple(shift.shape)}")
    if dtype not in STORED or (split and dtype != torch.float16) or not rows.dtype.is_floating_point:
        raise ValueError(f"cannot store {rows.dtype} rows as {'split ' if split else ''}{dtype}")
    if out is not None and (split or out.shape != rows.shape or out.dtype != dtype or out.stride(1) != 1):
        raise ValueError(f"expected out {tuple(rows.shape)} {dtype} with contiguous rows, one plane")
    if not 0 < scale < float("inf"):
        raise ValueError(f"the scale must be positive, got {scale}")
    from xbridge.ops.triton.kernels.ingest import ingest_kernel

    rows, wide = rows.detach(), torch.promote_types(rows.dtype, torch.float32)
    shift = shift.detach().to(wide).contiguous()
    n, d = rows.shape
    multiple = PLANE_MULTIPLE if split else 8
    plane = d if out is not None else -(-d // multiple) * multiple
    width, back = (2 * plane, plane) if split else (plane, 0)
    programs = -(-n // INGEST.rows)
    stored = torch.empty(n, width, dtype=dtype, device=rows.device) if out is None else out
    norms = torch.zeros(n, dtype=torch.float64, device=rows.device)
    sums = torch.zeros(programs, d, dtype=torch.float32, device=rows.device)
    bad = torch.zeros(programs, dtype=torch.int64, device=rows.device)
    first = torch.full((programs,), n, dtype=torch.int64, device=rows.device)
    if n and d:
        with on_device(rows):
            ingest_kernel[(programs,)](
                rows, shift, stored, norms, sums, bad, first, n, d, rows.stride(0), rows.stride(1), stored.stride(0),
                width, back, scale, ROWS=INGEST.rows, COLS=INGEST.cols, num_warps=INGEST.num_warps,
            )  # fmt: skip
    first_bad = torch.cat([first, first.new_tensor([n])]).min()
    return Prepared(stored, norms, sums.sum(0, dtype=torch.float64), bad.sum(), first_bad)
