"""One read and one write of a layer's rows: shift, scale, cast, pad, and what the sums need to know about them."""

import triton
import triton.language as tl


@triton.jit
def ingest_kernel(
    rows_ptr,  # (n, d), any float type and strides
    shift_ptr,  # (d,) float32, float64 where the rows are
    out_ptr,  # (n, width): one plane, or [low | high]
    norms_ptr,  # (n,) float64
    column_sums_ptr,  # (programs, d) float32
    num_bad_ptr,  # (programs,) int64, rows that are not finite
    first_bad_ptr,  # (programs,) int64, the first of them, or n
    n,
    d,
    stride_row,
    stride_column,
    stride_out,
    width,
    back,
    scale,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """A program takes ROWS rows in steps of COLS columns. Statistics are those of the stored values."""
    program = tl.program_id(0).to(tl.int64)
    i = program * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, COLS)
    plane = width - back
    squares = tl.zeros((ROWS,), dtype=tl.float64)
    out_ptrs = out_ptr + i[:, None] * stride_out + k[None, :]
    for first in range(0, plane, COLS):
        column = first + k
        inside = (i < n)[:, None] & (column < d)[None, :]
        raw = tl.load(
            rows_ptr + i[:, None] * stride_row + column.to(tl.int64)[None, :] * stride_column, mask=inside, other=0.0
        )
        shift = tl.load(shift_ptr + column, mask=column < d, other=0.0)
        value = (raw.to(shift_ptr.dtype.element_ty) - shift[None, :]).to(tl.float32)
        value = tl.where(inside, value * scale, 0.0)
        high = value.to(out_ptr.dtype.element_ty)
        stored = high.to(tl.float32)
        in_plane = (i < n)[:, None] & (column < plane)[None, :]
        tl.store(out_ptrs + back + first, high, mask=in_plane)
        if back > 0:
            low = (value - stored).to(out_ptr.dtype.element_ty)
            tl.store(out_ptrs + first, low, mask=in_plane)
            stored += low.to(tl.float32)
        wide = stored.to(tl.float64)
        squares += tl.sum(wide * wide, axis=1)
        tl.store(column_sums_ptr + program * d + column, tl.sum(stored, axis=0), mask=column < d)
    tl.store(norms_ptr + i, squares, mask=i < n)
    is_bad = ((squares < float("inf")) == 0) & (i < n)  # NaN is not less either
    tl.store(num_bad_ptr + program, tl.sum(is_bad.to(tl.int64), axis=0))
    tl.store(first_bad_ptr + program, tl.min(tl.where(is_bad, i, n), axis=0))
