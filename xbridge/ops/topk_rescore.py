"""The k best keys of every query among tiles of keys that were chosen for it: the second pass of an exact search.

The first pass finds the largest score in every tile of neighbouring keys. The k best keys of a query lie in the k tiles
with the largest maxima: a tile that is beaten by k others holds at most a (k + 1)-th best key. Only those tiles are
scored again, here, and no score is ever stored for all pairs.

Shape letters: N queries, M keys, D features, T tiles per query, B queries of a block, C candidates of a query.
"""

import torch
from torch import Tensor

from xbridge.ops.dispatch import op

BLOCK_ELEMENTS = 1 << 22  # of the gathered keys, in float64: 32 MB
NOTHING = -1


@op
def topk_rescore(queries: Tensor, keys: Tensor, tiles: Tensor, tile_width: int, k: int) -> tuple[Tensor, Tensor]:
    """The k largest dot products of every query with the keys of its tiles, largest first; ties by lowest index.

    queries: (n, d), keys: (m, d), of one float type, finite. tiles: (n, T) int64, different ones in each row; tile t
    holds keys t tile_width .. (t + 1) tile_width - 1, and -1 stands for no tile. Scores are float64 sums, rounded once
    to float32. Cost: n T tile_width d multiply-adds.

    Returns scores (n, k) float32 and indices (n, k) int64; -inf and -1 where a row's tiles hold fewer than k keys.
    Raises ValueError for shapes that do not fit, a tile that is not there or listed twice, a row that is not finite,
    or k < 1.
    """
    check(queries, keys, tiles, tile_width, k)
    for name, x_ND in (("queries", queries), ("keys", keys)):
        row_lengths(x_ND, name)
    n, num_slots = tiles.shape
    scores_NK = torch.full((n, k), -torch.inf, device=queries.device)
    indices_NK = torch.full((n, k), NOTHING, dtype=torch.int64, device=queries.device)
    if n == 0 or num_slots == 0 or len(keys) == 0:
        return scores_NK, indices_NK
    size = max(1, BLOCK_ELEMENTS // max(1, num_slots * tile_width * queries.shape[1]))
    for begin in range(0, n, size):
        rows = slice(begin, begin + size)
        scores_BC, indices_BC = _candidates(queries[rows], keys, tiles[rows], tile_width)
        best = scores_BC.sort(dim=1, descending=True, stable=True)
        taken = min(k, scores_BC.shape[1])
        scores_NK[rows, :taken] = best.values[:, :taken]
        indices_NK[rows, :taken] = indices_BC.gather(1, best.indices[:, :taken])
    return scores_NK, indices_NK.masked_fill_(indices_NK == len(keys), NOTHING)


def _candidates(q_BD: Tensor, k_MD: Tensor, tiles_BT: Tensor, tile_width: int) -> tuple[Tensor, Tensor]:
    """Scores and indices of the keys of all tiles, by rising index; past the last key: -inf and m."""
    m = len(k_MD)
    indices_BTW = tiles_BT[:, :, None] * tile_width + torch.arange(tile_width, device=tiles_BT.device)
    there = (tiles_BT[:, :, None] >= 0) & (indices_BTW < m)
    indices_BC = torch.where(there, indices_BTW, m).flatten(1).sort(dim=1).values
    keys_BCD = k_MD[indices_BC.clamp(max=m - 1)].double()
    scores_BC = torch.einsum("bd,bcd->bc", q_BD.double(), keys_BCD).float()
    return scores_BC.masked_fill(indices_BC == m, -torch.inf), indices_BC


def check(queries: Tensor, keys: Tensor, tiles: Tensor, tile_width: int, k: int) -> None:
    """Raise ValueError for what `topk_rescore` does not take."""
    if queries.ndim != 2 or keys.ndim != 2 or queries.shape[1] != keys.shape[1] or queries.dtype != keys.dtype:
        raise ValueError(
            f"expected queries (n, d) and keys (m, d) of one type, got {queries.dtype} {tuple(queries.shape)} and "
            f"{keys.dtype} {tuple(keys.shape)}"
        )
    if tiles.ndim != 2 or len(tiles) != len(queries) or tiles.dtype != torch.int64:
        raise ValueError(f"expected tiles ({len(queries)}, T) int64, got {tiles.dtype} {tuple(tiles.shape)}")
    if k < 1 or tile_width < 1:
        raise ValueError(f"k and tile_width must be at least 1, got {k} and {tile_width}")
    num_tiles = -(-len(keys) // tile_width)
    sorted_tiles = tiles.sort(dim=1).values
    wrong = ((tiles < NOTHING) | (tiles >= num_tiles)).any(1)
    wrong |= ((sorted_tiles.diff(dim=1) == 0) & (sorted_tiles[:, 1:] >= 0)).any(1)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(f"tiles: row {row} must hold different numbers from -1 to {num_tiles - 1}")


def row_lengths(x: Tensor, name: str) -> Tensor:
    """|x_i|, (n,) float64. ValueError where a row of the (n, d) matrix is not finite."""
    lengths: Tensor = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)
    bad = ~torch.isfinite(lengths)
    if bool(bad.any()):
        raise ValueError(f"{name}: row {int(bad.nonzero()[0])} holds NaN or infinity")
    return lengths
