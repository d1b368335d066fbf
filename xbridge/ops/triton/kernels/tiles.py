"""What the kernels share: products of tiles of rows, and kernel functions of them.

Rows are float16 or bfloat16, or two float16 planes, x = high + low to 22 bits, side by side in the order [low | high].
A product then is low.high + high.low + high.high, smallest first, so that the accumulator's rounding stays relative to
small sums. One plane (`back` = 0) takes one pass, two (`back` = columns of a plane) take three.
"""

import triton
import triton.language as tl

# The interpreter multiplies the bit patterns of bfloat16; there, and only there, operands are widened first.
INTERPRETED: tl.constexpr = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def dot_tile(
    x_ptr,  # (n, width)
    y_ptr,  # (m, width)
    x_rows,  # (ROWS,) int32, within x
    y_rows,  # (COLS,) int32, within y
    width8,  # columns of both / 8: a compiler sees from the product below that rows start at multiples of 16 bytes
    back8,  # columns of a plane / 8 where there are two, else 0
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """x[x_rows] @ y[y_rows].T in float32, (ROWS, COLS)."""
    width = width8 * 8
    back = back8 * 8
    plane = width - back
    k = tl.arange(0, DEPTH)
    x_ptrs = x_ptr + x_rows.to(tl.int64)[:, None] * width + k[None, :]
    y_ptrs = y_ptr + y_rows.to(tl.int64)[None, :] * width + k[:, None]
    acc = tl.zeros((ROWS, COLS), dtype=tl.float32)
    for step in range(0, plane + 2 * back, DEPTH):
        x_at = tl.where(step < plane + back, step, step - back)
        y_at = tl.where(step < plane, step + back, step - back)
        x = tl.load(x_ptrs + x_at, mask=(x_at + k)[None, :] < width, other=0.0)
        y = tl.load(y_ptrs + y_at, mask=(y_at + k)[:, None] < width, other=0.0)
        if INTERPRETED:
            x = x.to(tl.float32)
            y = y.to(tl.float32)
        acc = tl.dot(x, y, acc, input_precision="ieee")
    return acc


@triton.jit
def kernel_value(dot, norm_i, norm_j, gamma_log2e, KERNEL: tl.constexpr):
    """k(x_i, x_j) from the dot products (I, J) and the squared norms (I,), (J,); linear kernels need only the former.

    A distance of rounding's size below zero is zero. The norms come from the same products: equal rows give exactly 0.
    """
    if KERNEL == "linear":
        return dot
    distance = tl.maximum(norm_i[:, None] + norm_j[None, :] - 2 * dot, 0.0)
    if KERNEL == "laplacian":
        distance = tl.sqrt(distance)
    return tl.exp2(-gamma_log2e * distance)


@triton.jit
def triangle(index):
    """(i, j), i <= j, of a position in the upper triangle counted by columns: 0, then 0 1, then 0 1 2. Up to 2^23."""
    j = ((tl.sqrt(8.0 * index.to(tl.float32) + 1.0) - 1.0) * 0.5).to(tl.int32)
    j = tl.where(j * (j + 1) // 2 > index, j - 1, j)
    j = tl.where((j + 1) * (j + 2) // 2 <= index, j + 1, j)
    return index - j * (j + 1) // 2, j


@triton.jit
def add_row_sums(sums_ptr, rows, n, tile_sums, to_fixed):
    """Add float32 sums to the int64 sums of `rows` in fixed point, where no order of addition changes the result."""
    fixed = (tile_sums * to_fixed).to(tl.int64)
    tl.atomic_add(sums_ptr + rows, fixed, mask=rows < n, sem="relaxed")
