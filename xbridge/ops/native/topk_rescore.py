"""`topk_rescore` in CUDA (csrc/cuda/topk_rescore.cu): float32 finds a few more than k, float64 ranks them.

Rounding in float32 can hide a key only if its score comes within the rounding error of the worst score that was kept.
Rows where that could be, because of long runs of equal or nearly equal keys, are done again by the reference, so the
result is that of the definition.
"""

import torch
from torch import Tensor

from xbridge.ops.native import why_no_cuda
from xbridge.ops.topk_rescore import check, row_lengths
from xbridge.ops.topk_rescore import topk_rescore as op

SPARE = 6  # kept beyond k: room for keys that float32 cannot tell apart
SHORT_LIST, LONG_LIST = 32, 128  # words in a warp's list
PANEL_WORDS = 1 << 25  # of the lists of a panel of rows: 256 MB
UNIT = 2.0**-24  # half the distance of 1 to the next float32
SMALLEST = 2.0**-149  # the smallest positive float32
MOST_FEATURES = 1 << 20


def why_not(queries: Tensor, keys: Tensor, tiles: Tensor, tile_width: int, k: int) -> str:
    """See `xbridge.ops.topk_rescore.topk_rescore`."""
    if queries.device.type != "cuda":
        return f"there is no kernel for {queries.device.type} tensors"
    if queries.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"it reads float32, float16 and bfloat16, not {queries.dtype}"
    if k + SPARE > LONG_LIST:
        return f"it finds at most {LONG_LIST - SPARE} keys, not {k}"
    if queries.shape[1] > MOST_FEATURES or len(keys) >= (1 << 32) - 1:
        return f"it takes at most {MOST_FEATURES} features and 2^32 - 2 keys"
    return why_no_cuda()


def topk_rescore(queries: Tensor, keys: Tensor, tiles: Tensor, tile_width: int, k: int) -> tuple[Tensor, Tensor]:
    """See `xbridge.ops.topk_rescore.topk_rescore`."""
    check(queries, keys, tiles, tile_width, k)
    error = _largest_error(row_lengths(queries, "queries"), row_lengths(keys, "keys"), queries.shape[1])
    scores, indices, floors = best_of_tiles(queries, keys, tiles, tile_width, k)
    doubtful = ~_is_certain(scores[:, -1].double(), floors.double(), error)
    if bool(doubtful.any()):
        scores[doubtful], indices[doubtful] = op.reference(queries[doubtful], keys, tiles[doubtful], tile_width, k)
    return scores, indices


def best_of_tiles(
    queries: Tensor, keys: Tensor, tiles: Tensor, tile_width: int, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`topk_rescore` as far as float32 can tell, unchecked: the k best of the k + SPARE best of float32 sums.

    Returns scores (n, k) float32, from float64 sums; indices (n, k) int64; floors (n,) float32: no key that was left
    out has a float32 sum above it, -inf where none was.
    """
    queries, keys = _aligned(queries.detach()), _aligned(keys.detach())
    n, num_slots = tiles.shape
    scores = torch.empty(n, k, device=queries.device)
    indices = torch.empty(n, k, dtype=torch.int64, device=queries.device)
    floors = torch.empty(n, device=queries.device)
    num_kept = k + SPARE if k + SPARE <= SHORT_LIST else LONG_LIST
    size = max(1, PANEL_WORDS // max(1, num_slots * num_kept))
    for begin in range(0, n, size):
        rows = slice(begin, begin + size)
        by_tile = tiles[rows].flatten().sort(stable=True)
        best = torch.empty(len(tiles[rows]), num_slots, num_kept, dtype=torch.int64, device=queries.device)
        pair = (queries[rows], keys)
        torch.ops.xbridge.rescore_tiles(*pair, by_tile.values, by_tile.indices, tile_width, best)
        torch.ops.xbridge.rescore_rows(*pair, best, scores[rows], indices[rows], floors[rows])
    return scores, indices, floors


def _aligned(x: Tensor) -> Tensor:
    """x, or a copy with columns of zeros, so that rows start at a multiple of 4 elements and have such a length."""
    n, d = x.shape
    if d % 4 == 0 and x.stride(1) == 1 and x.stride(0) % 4 == 0 and x.data_ptr() % (4 * x.element_size()) == 0:
        return x
    padded = x.new_zeros(n, d + -d % 4)
    padded[:, :d] = x
    return padded


def _largest_error(query_lengths: Tensor, key_lengths: Tensor, d: int) -> Tensor:
    """A bound on |float32 sum - exact sum| over all keys, (n,) float64; infinite where float32 could overflow.

    Higham (2002), "Accuracy and Stability of Numerical Algorithms", equation 3.5: d u / (1 - d u) |q| |k|, and
    the smallest number for each operation that underflows.
    """
    products = query_lengths * key_lengths.max() if len(key_lengths) else query_lengths
    error = d * UNIT / (1 - d * UNIT) * products + d * SMALLEST
    return error.masked_fill(products >= 2.0**126, torch.inf)


def _is_certain(worst: Tensor, floors: Tensor, error: Tensor) -> Tensor:
    """True where no dropped key can reach the k-th score, nor tie with it after rounding: (n,) bool."""
    nothing_dropped = (floors == -torch.inf) & torch.isfinite(error)
    return nothing_dropped | (worst - 2 * UNIT * worst.abs() - SMALLEST > floors + error)
