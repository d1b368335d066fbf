"""Nearest neighbours without a score matrix: the best score of every row in every tile, and chosen tiles once more."""

import triton
import triton.language as tl

from xbridge.ops.triton.kernels.tiles import dot_tile


@triton.jit
def score_of(dot, near_x_ptr, near_y_ptr, rows, cols, unit, SCORE: tl.constexpr):
    """Dot products (ROWS, COLS) of operand rows as scores: times `unit`, against the mean of both neighbourhoods."""
    score = dot * unit
    if SCORE != "dot":
        base = (tl.load(near_x_ptr + rows)[:, None] + tl.load(near_y_ptr + cols)[None, :]) * 0.5
        score = score / base if SCORE == "ratio" else score - base
    return score


@triton.jit
def tile_max_kernel(
    x_ptr,  # (n, width)
    y_ptr,  # (m, width)
    row_max_ptr,  # (column tiles, n) float32
    col_max_ptr,  # (row tiles, m) float32
    near_x_ptr,  # (n,) float32, read where SCORE is a margin
    near_y_ptr,  # (m,) float32
    n,
    m,
    num_i,  # row tiles
    num_j,  # column tiles
    width8,
    back8,
    unit,
    SCORE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,  # row tiles that pass together over the columns: their rows stay in the cache
):
    """Both directions from one product: the maximum of each row and of each column of a tile."""
    pid = tl.program_id(0)
    first = pid // (GROUP * num_j) * GROUP
    height = tl.minimum(num_i - first, GROUP)
    block_i = first + pid % (GROUP * num_j) % height
    block_j = pid % (GROUP * num_j) // height
    i = block_i * ROWS + tl.arange(0, ROWS)
    j = block_j * COLS + tl.arange(0, COLS)
    rows = tl.minimum(i, n - 1)
    cols = tl.minimum(j, m - 1)
    dot = dot_tile(x_ptr, y_ptr, rows, cols, width8, back8, ROWS, COLS, DEPTH)
    score = score_of(dot, near_x_ptr, near_y_ptr, rows, cols, unit, SCORE)
    # Rows and columns past the end repeat the last one: no maximum changes, so no mask is needed.
    tl.store(row_max_ptr + block_j.to(tl.int64) * n + i, tl.max(score, axis=1), mask=i < n)
    tl.store(col_max_ptr + block_i.to(tl.int64) * m + j, tl.max(score, axis=0), mask=j < m)


@triton.jit
def rescore_kernel(
    x_ptr,  # (n, width)
    y_ptr,  # (m, width)
    near_x_ptr,  # (n,) float32, read where SCORE is a margin
    near_y_ptr,  # (m,) float32
    pair_row_ptr,  # (pairs,) int32: row of x of each (row, tile) pair, sorted by tile
    pair_out_ptr,  # (pairs,) int32: where its scores go
    block_tile_ptr,  # (programs,) int32: tile of y
    block_first_ptr,  # (programs,) int32: the program's pairs, all of that tile
    block_last_ptr,  # (programs,) int32
    scores_ptr,  # (pairs, COLS) float32
    m,
    width8,
    back8,
    unit,
    SCORE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Scores of up to ROWS chosen rows of x with one tile of y; -inf past its last column."""
    program = tl.program_id(0)
    pair = tl.load(block_first_ptr + program) + tl.arange(0, ROWS)
    last = tl.load(block_last_ptr + program)
    j = tl.load(block_tile_ptr + program) * COLS + tl.arange(0, COLS)
    rows = tl.load(pair_row_ptr + pair, mask=pair < last, other=0)
    cols = tl.minimum(j, m - 1)
    dot = dot_tile(x_ptr, y_ptr, rows, cols, width8, back8, ROWS, COLS, DEPTH)
    score = score_of(dot, near_x_ptr, near_y_ptr, rows, cols, unit, SCORE)
    score = tl.where(j[None, :] < m, score, float("-inf"))
    out = tl.load(pair_out_ptr + pair, mask=pair < last, other=0).to(tl.int64)[:, None] * COLS
    tl.store(scores_ptr + out + tl.arange(0, COLS)[None, :], score, mask=(pair < last)[:, None])
