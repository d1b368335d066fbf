"""Exact best partners both ways from one product of all pairs, without sorting in a kernel (tile-max lemma).

A row's k best partners lie in the k tiles with the largest maxima: a tile whose maximum exceeds a partner's score holds
a better one, so at most k - 1 such tiles exist. Pass 1 keeps the maximum of each row and column in each tile; pass 2
computes a row's few best tiles again, keeps a few candidates, and scores these in float64.

Scores of passes 1 and 2 have a rounding error of at most epsilon. A row is settled where its k-th exact score exceeds
everything left out by more than that; the others, rows with more near ties than candidates, are scored in float64 with
all keys. So the answer is that of float64, rounded once to float32, ties to the lowest index.

Shape letters: Q queries, C queries of a chunk, K neighbours, D features.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from xbridge.ops.triton import configs
from xbridge.ops.triton.device import NARROW, on_device
from xbridge.ops.triton.operand import Operand, as_is, operand, squared_norms

Score = Literal["dot", "ratio", "distance"]
EXTRA_TILES = 2
EXTRA_CANDIDATES = 8
MAXIMA_BYTES = 1 << 30
CHUNK_BYTES = 256 << 20
ROUNDING = 2.0**-24
_LOW = 0xFFFFFFFF
_WORST = torch.iinfo(torch.int64).min


@dataclass(frozen=True)
class Side:
    """One of the two sets of vectors."""

    rows: Tensor
    """(n, d) as given"""
    operand: Operand
    lengths: Tensor
    """(n,) float64"""
    near: Tensor
    """(n,) float64 mean similarity to the neighbours, for margins; zeros otherwise"""
    near_narrow: Tensor
    """(n,) float32, what the kernels read"""

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, first: int, last: int) -> "Side":
        """Rows first to last, as views."""
        rows = slice(first, last)
        held = Operand(self.operand.rows[rows], self.operand.back, self.operand.exponent)
        return Side(self.rows[rows], held, self.lengths[rows], self.near[rows], self.near_narrow[rows])


def sides(x: Tensor, y: Tensor, near_x: Tensor | None = None, near_y: Tensor | None = None) -> tuple[Side, Side]:
    """Both sets, prepared. Raises ValueError for a row that is not finite."""
    split = not (x.dtype == y.dtype and x.dtype in NARROW)
    return _side(x.detach(), near_x, split, "x"), _side(y.detach(), near_y, split, "y")


def _side(x: Tensor, near: Tensor | None, split: bool, name: str) -> Side:
    none = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    held = operand(x, none, 1.0, split=True) if split else as_is(x)
    lengths = squared_norms(held, name).double().sqrt() * 2.0**-held.exponent * (1 + held.dot_rounding)
    near = torch.zeros(len(x), dtype=torch.float64, device=x.device) if near is None else near.double()
    return Side(x, held, lengths, near, near.float().contiguous())


def best_both_ways(x: Side, y: Side, k: int, score: Score) -> tuple[Tensor, Tensor]:
    """The k best partners of every row of x among y and of every row of y among x, best first, packed: see `unpack`.

    Returns (n, min(k, m)) and (m, min(k, n)) int64.
    """
    n, m = len(x), len(y)
    blocks = configs.fitting(configs.TILE_MAX, x.rows.device)
    forward = torch.empty(n, min(k, m), dtype=torch.int64, device=x.rows.device)
    backward = torch.empty(m, 0, dtype=torch.int64, device=x.rows.device)
    bytes_per_row = 4 * m * (1 / blocks.rows + 1 / blocks.cols)
    panel = max(1, int(MAXIMA_BYTES / bytes_per_row) // blocks.rows) * blocks.rows
    with on_device(x.rows):
        for first in range(0, n, panel):
            part = x.part(first, min(n, first + panel))
            row_max, col_max = _tile_maxima(part, y, score, blocks)
            forward[first : first + panel] = _best(part, y, row_max, blocks.cols, k, score)
            found = _best(y, part, col_max, blocks.rows, k, score)
            backward = torch.cat([backward, shifted(found, first)], dim=1)
            backward = backward.topk(min(k, backward.shape[1]), dim=1).values
    return forward, backward


def _tile_maxima(x: Side, y: Side, score: Score, blocks: configs.Blocks) -> tuple[Tensor, Tensor]:
    """Largest score of each row of x in each tile of y, (tiles, n), and of y in x, (tiles, m)."""
    from xbridge.ops.triton.kernels.neighbours import tile_max_kernel

    n, m = len(x), len(y)
    num_i, num_j = -(-n // blocks.rows), -(-m // blocks.cols)
    row_max = torch.empty(num_j, n, dtype=torch.float32, device=x.rows.device)
    col_max = torch.empty(num_i, m, dtype=torch.float32, device=x.rows.device)
    tile_max_kernel[(num_i * num_j,)](
        x.operand.rows, y.operand.rows, row_max, col_max, x.near_narrow, y.near_narrow, n, m, num_i, num_j,
        x.operand.width8, x.operand.back8, 2.0 ** -(x.operand.exponent + y.operand.exponent),
        SCORE=score, ROWS=blocks.rows, COLS=blocks.cols, DEPTH=blocks.depth, GROUP=configs.TILE_MAX_GROUP,
        num_warps=blocks.num_warps, num_stages=blocks.num_stages,
    )  # fmt: skip
    return row_max, col_max


def _best(queries: Side, keys: Side, tile_max: Tensor, tile_width: int, k: int, score: Score) -> Tensor:
    """The k best keys of every query, packed (Q, min(k, keys)), from the maxima (tiles, Q) of tiles of keys."""
    k = min(k, len(keys))
    num_tiles = len(tile_max)
    take = min(num_tiles, k + EXTRA_TILES)
    keep = min(take * tile_width, k + EXTRA_CANDIDATES)
    epsilon_Q = _epsilon(queries, keys, score)
    packed = torch.empty(len(queries), k, dtype=torch.int64, device=tile_max.device)
    for rows in _chunks(len(queries), bytes_each=max(4 * take * tile_width, 16 * keep * keys.rows.shape[1])):
        top = tile_max[:, rows].topk(min(num_tiles, take + 1), dim=0)
        tiles_CT = top.indices[:take].T.contiguous()
        scores = _rescore(queries, keys, rows.start, tiles_CT, tile_width, score)
        kept = scores.topk(keep, dim=1)
        candidates = tiles_CT.gather(1, kept.indices // tile_width) * tile_width + kept.indices % tile_width
        exact = _exact_scores(queries.part(rows.start, rows.stop), keys, candidates, score)
        found = pack(exact, candidates).masked_fill(kept.values == -torch.inf, _WORST).topk(k, dim=1).values
        left_out = kept.values[:, -1] if keep < take * tile_width else torch.full_like(kept.values[:, 0], -torch.inf)
        if take < num_tiles:
            left_out = torch.maximum(left_out, top.values[take])
        unsettled = ~(unpack(found)[0][:, -1].double() > left_out.double() + epsilon_Q[rows])
        unsettled &= left_out > -torch.inf
        packed[rows] = found
        if bool(unsettled.any()):
            again = unsettled.nonzero()[:, 0]
            packed[again + rows.start] = _against_all(queries, keys, again + rows.start, k, score)
    return packed


def _rescore(queries: Side, keys: Side, first: int, tiles_CT: Tensor, tile_width: int, score: Score) -> Tensor:
    """Scores of queries from `first` on with the keys of their chosen tiles: (C, T tile_width), -inf past the end."""
    from xbridge.ops.triton.kernels.neighbours import rescore_kernel

    blocks = configs.fitting(configs.RESCORE[tile_width], tiles_CT.device)
    sorted_tiles, order = tiles_CT.flatten().sort(stable=True)
    count = torch.bincount(sorted_tiles)
    programs = (count + blocks.rows - 1) // blocks.rows
    num_programs = int(programs.sum())
    tile = torch.repeat_interleave(torch.arange(len(count), device=count.device), programs, output_size=num_programs)
    rank = torch.arange(num_programs, device=count.device) - (programs.cumsum(0) - programs)[tile]
    start = (count.cumsum(0) - count)[tile]
    scores = torch.empty(len(tiles_CT), tiles_CT.shape[1] * tile_width, dtype=torch.float32, device=count.device)
    rescore_kernel[(num_programs,)](
        queries.operand.rows, keys.operand.rows, queries.near_narrow, keys.near_narrow,
        (order // tiles_CT.shape[1] + first).int(), order.int(),
        tile.int(), (start + rank * blocks.rows).int(), (start + count[tile]).int(), scores,
        len(keys), queries.operand.width8, queries.operand.back8,
        2.0 ** -(queries.operand.exponent + keys.operand.exponent),
        SCORE=score, ROWS=blocks.rows, COLS=tile_width, DEPTH=blocks.depth,
        num_warps=blocks.num_warps, num_stages=blocks.num_stages,
    )  # fmt: skip
    return scores


def _epsilon(queries: Side, keys: Side, score: Score) -> Tensor:
    """(Q,) float64: no score of a query that a kernel computes is further than this from the exact one, as float32."""
    longest = float(keys.lengths.max())
    size_Q = queries.lengths * longest
    epsilon_Q = (queries.operand.dot_rounding + 8 * ROUNDING) * size_Q
    if queries.operand.back:  # entries far below the largest are stored in steps of 2^-24 of the operand's unit
        step_q, step_k = (ROUNDING * 2.0**-side.operand.exponent for side in (queries, keys))
        epsilon_Q = epsilon_Q + queries.rows.shape[1] ** 0.5 * (step_q * longest + step_k * queries.lengths)
    if score == "dot":
        return epsilon_Q
    largest_near = queries.near.abs() + float(keys.near.abs().max())
    if score == "distance":
        return epsilon_Q + 8 * ROUNDING * largest_near
    base_Q = (queries.near + float(keys.near.min())) / 2
    relative = 8 * ROUNDING * (1 + largest_near / base_Q)
    return torch.where(base_Q > 0, (epsilon_Q + relative * size_Q) / base_Q, torch.inf)


def _exact_scores(queries: Side, keys: Side, candidates: Tensor, score: Score) -> Tensor:
    """Scores of each query with its candidates, (C, K) float32, from float64; an index past the end may be given."""
    candidates = candidates.clamp_max(len(keys) - 1)
    dots = torch.bmm(keys.rows[candidates].double(), queries.rows.double()[:, :, None])[:, :, 0]
    return _margin(dots, queries.near[:, None], keys.near[candidates], score)


def _against_all(queries: Side, keys: Side, rows: Tensor, k: int, score: Score) -> Tensor:
    """The k best of all keys for some queries, packed, in float64."""
    keys_at_once = max(1, CHUNK_BYTES // (16 * keys.rows.shape[1]))
    packed = []
    for some in torch.split(rows, max(1, CHUNK_BYTES // (32 * min(keys_at_once, len(keys))))):
        best = torch.empty(len(some), 0, dtype=torch.int64, device=rows.device)
        query_rows = queries.rows[some].double()
        for first in range(0, len(keys), keys_at_once):
            part = keys.part(first, min(len(keys), first + keys_at_once))
            scores = _margin(query_rows @ part.rows.double().T, queries.near[some, None], part.near[None, :], score)
            found = pack(scores, torch.arange(first, first + len(part), device=rows.device))
            best = torch.cat([best, found], dim=1)
            best = best.topk(min(k, best.shape[1]), dim=1).values
        packed.append(best)
    return torch.cat(packed)


def _margin(dots: Tensor, near_q: Tensor, near_k: Tensor, score: Score) -> Tensor:
    if score == "dot":
        return dots.float()
    base = (near_q + near_k) / 2
    return (dots / base if score == "ratio" else dots - base).float()


def pack(scores: Tensor, indices: Tensor) -> Tensor:
    """Score (high word) and index (low word, falling) in one int64 that sorts by score, then by lowest index."""
    bits = (scores + 0.0).view(torch.int32)  # + 0.0: minus zero equals zero
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    return (ordered << 32) | (_LOW - indices)


def unpack(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Scores float32 and indices int64 of packed pairs."""
    ordered = (packed >> 32).int()
    bits = ordered ^ ((ordered >> 31) & 0x7FFFFFFF)
    return bits.view(torch.float32), _LOW - (packed & _LOW)


def shifted(packed: Tensor, by: int) -> Tensor:
    """Packed pairs whose indices are `by` larger."""
    return packed - by


def _chunks(n: int, bytes_each: int) -> Iterator[slice]:
    rows = max(1, CHUNK_BYTES // bytes_each)
    return (slice(first, min(n, first + rows)) for first in range(0, n, rows))
