"""Sums over n x n kernel matrices of which only tiles exist: gram_diagonal, gram_pair, gram_panel, panel_syrk.

Only entries i < j are computed, once; each counts for (i, j) and (j, i). Every entry is v = (k - kappa) * scale, where
kappa is about the mean of k: sums of v keep the digits that sums of k would lose. Tile sums are float32 in a fixed
order, row sums int64 in fixed point, totals float64 in slots of their own: no launch order changes a bit.
"""

import triton
import triton.language as tl

from xbridge.ops.triton.kernels.tiles import INTERPRETED, add_row_sums, dot_tile, kernel_value, triangle


@triton.jit
def gram_diagonal_kernel(
    x_ptr,  # (n, width)
    norms_ptr,  # (n,) float32
    n,
    width8,
    back8,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Squared norms by the very products that the Gram tiles use: then equal rows are at distance 0 exactly."""
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    rows = tl.minimum(i, n - 1)
    dot = dot_tile(x_ptr, x_ptr, rows, rows, width8, back8, ROWS, ROWS, DEPTH)
    on_diagonal = tl.arange(0, ROWS)[:, None] == tl.arange(0, ROWS)[None, :]
    tl.store(norms_ptr + i, tl.sum(tl.where(on_diagonal, dot, 0.0), axis=1), mask=i < n)


@triton.jit
def shifted_tile(
    x_ptr, norms_ptr, i, j, n, width8, back8, gamma_log2e, kappa, scale,
    KERNEL: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """(k_ij - kappa) * scale for i < j < n, 0 elsewhere: (ROWS, COLS) float32."""
    rows = tl.minimum(i, n - 1)
    cols = tl.minimum(j, n - 1)
    dot = dot_tile(x_ptr, x_ptr, rows, cols, width8, back8, ROWS, COLS, DEPTH)
    value = kernel_value(dot, tl.load(norms_ptr + rows), tl.load(norms_ptr + cols), gamma_log2e, KERNEL)
    return tl.where((i[:, None] < j[None, :]) & (j[None, :] < n), (value - kappa) * scale, 0.0)


@triton.jit
def gram_pair_kernel(
    x_ptr,  # (n, x_width)
    y_ptr,  # (n, y_width)
    x_norms_ptr,  # (n,) float32
    y_norms_ptr,  # (n,) float32
    tile_sums_ptr,  # (num_tiles, 3) float32: sums of v^2, v w, w^2 of this launch's tiles
    x_row_sums_ptr,  # (n,) int64
    y_row_sums_ptr,  # (n,) int64
    n,
    first_panel,
    num_blocks,  # tiles along a side
    x_width8,
    x_back8,
    y_width8,
    y_back8,
    x_gamma_log2e,
    x_kappa,
    x_scale,
    y_gamma_log2e,
    y_kappa,
    y_scale,
    to_fixed,
    KERNEL: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPTH: tl.constexpr,
    PANEL: tl.constexpr,
):
    """Tiles in panels of PANEL x PANEL, whose rows the second-level cache holds."""
    pid = tl.program_id(0)
    panel_i, panel_j = triangle(first_panel + pid // (PANEL * PANEL))
    block_i = panel_i * PANEL + pid % (PANEL * PANEL) // PANEL
    block_j = panel_j * PANEL + pid % PANEL
    sums = tile_sums_ptr + pid.to(tl.int64) * 3
    if (block_i > block_j) | (block_j >= num_blocks):
        tl.store(sums, 0.0)
        tl.store(sums + 1, 0.0)
        tl.store(sums + 2, 0.0)
    else:
        i = block_i * BLOCK + tl.arange(0, BLOCK)
        j = block_j * BLOCK + tl.arange(0, BLOCK)
        v = shifted_tile(
            x_ptr, x_norms_ptr, i, j, n, x_width8, x_back8, x_gamma_log2e, x_kappa, x_scale, KERNEL, BLOCK, BLOCK, DEPTH
        )
        add_row_sums(x_row_sums_ptr, i, n, tl.sum(v, axis=1), to_fixed)
        add_row_sums(x_row_sums_ptr, j, n, tl.sum(v, axis=0), to_fixed)
        tl.store(sums, tl.sum(tl.sum(v * v, axis=1), axis=0))
        w = shifted_tile(
            y_ptr, y_norms_ptr, i, j, n, y_width8, y_back8, y_gamma_log2e, y_kappa, y_scale, KERNEL, BLOCK, BLOCK, DEPTH
        )
        add_row_sums(y_row_sums_ptr, i, n, tl.sum(w, axis=1), to_fixed)
        add_row_sums(y_row_sums_ptr, j, n, tl.sum(w, axis=0), to_fixed)
        tl.store(sums + 1, tl.sum(tl.sum(v * w, axis=1), axis=0))
        tl.store(sums + 2, tl.sum(tl.sum(w * w, axis=1), axis=0))


@triton.jit
def gram_panel_kernel(
    addresses_ptr,  # (S,) int64: of (n, width) float16 rows
    widths_ptr,  # (S, 2) int32: width8, back8
    params_ptr,  # (S, 3) float32: gamma log2(e), kappa, scale
    norms_ptr,  # (S, n) float32
    values_ptr,  # (planes, S, capacity) float16, one tile after another
    row_sums_ptr,  # (S, n) int64
    n,
    first_i,  # first tile of the panel, down and across
    first_j,
    num_j,  # tiles across the panel
    on_diagonal,  # 1: only the tiles of the panel's upper triangle
    capacity,
    low_plane,  # S * capacity
    to_fixed,
    LOW: tl.constexpr,  # whether what float16 cannot hold goes to a second plane
    KERNEL: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """One tile of one layer. Its entries as stored are what both the products and the row sums are sums of."""
    tile = tl.program_id(0)
    layer = tl.program_id(1).to(tl.int64)
    if on_diagonal:
        in_i, in_j = triangle(tile)
    else:
        in_i, in_j = tile // num_j, tile % num_j
    i = (first_i + in_i) * BLOCK + tl.arange(0, BLOCK)
    j = (first_j + in_j) * BLOCK + tl.arange(0, BLOCK)
    x_ptr = tl.multiple_of(tl.load(addresses_ptr + layer).to(tl.pointer_type(tl.float16)), 16)
    v = shifted_tile(
        x_ptr,
        norms_ptr + layer * n,
        i,
        j,
        n,
        tl.load(widths_ptr + 2 * layer),
        tl.load(widths_ptr + 2 * layer + 1),
        tl.load(params_ptr + 3 * layer),
        tl.load(params_ptr + 3 * layer + 1),
        tl.load(params_ptr + 3 * layer + 2),
        KERNEL,
        BLOCK,
        BLOCK,
        DEPTH,
    )
    entry = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    out = values_ptr + layer * capacity + tile.to(tl.int64) * BLOCK * BLOCK + entry
    high = v.to(tl.float16)
    rounded = high.to(tl.float32)
    tl.store(out, high)
    if LOW:
        low = (v - rounded).to(tl.float16)
        rounded += low.to(tl.float32)
        tl.store(out + low_plane, low)
    add_row_sums(row_sums_ptr + layer * n, i, n, tl.sum(rounded, axis=1), to_fixed)
    add_row_sums(row_sums_ptr + layer * n, j, n, tl.sum(rounded, axis=0), to_fixed)


@triton.jit
def plane_of(ptrs, inside):
    """A tile of float16 entries, 0 outside."""
    v = tl.load(ptrs, mask=inside, other=0.0)
    if INTERPRETED:
        v = v.to(tl.float32)
    return v


@triton.jit
def panel_syrk_kernel(
    values_ptr,  # (planes, S, capacity) float16
    products_ptr,  # (slots, S, S) float64, added to; blocks on and above the diagonal
    S,
    capacity,
    low_plane,  # S * capacity
    ENTRIES: tl.constexpr,  # of each layer, per slot
    LOW: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """products[slot] += V V^T over the slot's ENTRIES columns of V.

    Tensor cores add by truncation, so each DEPTH columns start a new accumulator, and these are added in float64.
    """
    slot = tl.program_id(0).to(tl.int64)
    block_i, block_j = triangle(tl.program_id(1))
    i = block_i * BLOCK + tl.arange(0, BLOCK)
    j = block_j * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, DEPTH)
    first_ptr = values_ptr + slot * ENTRIES
    i_ptrs = first_ptr + i.to(tl.int64)[:, None] * capacity + k[None, :]
    j_ptrs = first_ptr + j.to(tl.int64)[None, :] * capacity + k[:, None]
    i_inside = i[:, None] < S
    j_inside = j[None, :] < S
    total = tl.zeros((BLOCK, BLOCK), dtype=tl.float64)
    for step in range(0, ENTRIES, DEPTH):
        v_i = plane_of(i_ptrs + step, i_inside)
        v_j = plane_of(j_ptrs + step, j_inside)
        total += tl.dot(v_i, v_j).to(tl.float64)
        if LOW:
            small = tl.dot(plane_of(i_ptrs + low_plane + step, i_inside), v_j)
            small = tl.dot(v_i, plane_of(j_ptrs + low_plane + step, j_inside), small)
            total += small.to(tl.float64)
    out = products_ptr + slot * S * S + i[:, None] * S + j[None, :]
    inside = i_inside & j_inside
    tl.store(out, tl.load(out, mask=inside, other=0.0) + total, mask=inside)
