"""The k best scores of every row over all rows of another set: exact, in blocks, no n x m matrix.

`dense` is the definition: float64 throughout. `screened` gives the same answer for less: blocks of float32 products,
each scanned for both directions at once (`scan_products`), short lists of all that the error bound cannot exclude,
and exact scores of those few. Rows whose lists overflow (clusters of near-equal rows, ranges that float32 does not
hold) go to `dense`. The bound is checked on every candidate too: products in less than float32 (TF32, bfloat16), which
a user can switch on behind our back, send everything to `dense`.

On a GPU the lists would have to live in registers; there the maxima of tiles take their place. A list's threshold
costs a CPU one comparison per score and no second product of matrices.

Shape letters: N rows of x, M rows of y, K neighbours, B rows of a block, P pairs.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from xbridge.ops.dispatch import checked
from xbridge.ops.pair_scores import PairScores
from xbridge.ops.scan_products import Lists, new_lists, scan_products

DENSE_ELEMENTS = 1 << 22  # float64 scores held at once: 32 MB
TILE_ROWS, TILE_COLUMNS = 4096, 4096  # float32 factors held at once, twice d times so many
SQUARE_TILE = 2048


class Nearest(NamedTuple):
    """For every row the best others, best first; equal scores by lowest index."""

    scores: Tensor  # (n, k) float64
    indices: Tensor  # (n, k) int64


def search(scores: PairScores, k: int, *, both_ways: bool = False, exclude_self: bool = False) -> tuple[Nearest, ...]:
    """The k best columns of every row of x; with `both_ways` also the k best rows of every row of y.

    k is cut to the number of others there are. `exclude_self` leaves out pair (i, i).
    Cost: n m d multiply-adds for one or both directions, half of it where x and y are one set.
    """
    n, m = len(scores.x.weight), len(scores.y.weight)
    num_left_out = 1 if exclude_self else 0
    k_x, k_y = min(k, m - num_left_out), min(k, n - num_left_out)
    small = min(n, m) <= 2 * _capacity(k)  # lists would hold most of it
    if checked(scores.backend) == "reference" or (scores.backend == "auto" and small) or min(k_x, k_y) < 1:
        every_x, every_y = torch.arange(n, device=_device(scores)), torch.arange(m, device=_device(scores))
        forward = dense(scores, every_x, k_x, exclude_self)
        return (forward, dense(scores.flipped(), every_y, k_y, exclude_self)) if both_ways else (forward,)
    return screened(scores, k_x, k_y if both_ways else 0, exclude_self)


def dense(scores: PairScores, rows_R: Tensor, k: int, exclude_self: bool) -> Nearest:
    """`search` in one direction for some rows, (r,) int64, by float64 products and no lists."""
    num_columns = len(scores.y.weight)
    slack_N = scores.slack(torch.float64)
    found = Nearest(
        torch.empty(len(rows_R), k, dtype=torch.float64, device=rows_R.device),
        torch.empty(len(rows_R), k, dtype=torch.int64, device=rows_R.device),
    )
    if k == 0:
        return found
    for start in range(0, len(rows_R), max(1, DENSE_ELEMENTS // num_columns)):
        rows_B = rows_R[start : start + max(1, DENSE_ELEMENTS // num_columns)]
        approximate_BM = _approximate(scores, rows_B)
        own_B = torch.arange(len(rows_B), device=rows_B.device)
        in_range_B = rows_B < num_columns
        if exclude_self:
            approximate_BM[own_B[in_range_B], rows_B[in_range_B]] = -torch.inf
        kth_B = approximate_BM.topk(k).values[:, -1]
        threshold_B = torch.where(slack_N[rows_B].isinf(), -torch.inf, kth_B - 2 * slack_N[rows_B])
        lists, columns = (~(approximate_BM < threshold_B[:, None])).nonzero(as_tuple=True)
        if exclude_self:
            lists, columns = _without_self(lists, columns, rows_B)
        some = slice(start, start + len(rows_B))
        found.scores[some], found.indices[some] = _select(lists, columns, scores.exact(rows_B[lists], columns), k)
    return found


def screened(scores: PairScores, k_x: int, k_y: int, exclude_self: bool) -> tuple[Nearest, ...]:
    """`search` by way of lists. k_y 0: one direction."""
    same = scores.x is scores.y
    forward = new_lists(scores.slack(torch.float32), k_x, _capacity(k_x))
    backward: Lists | None = forward if same else None
    if k_y and not same:
        backward = new_lists(scores.flipped().slack(torch.float32), k_y, _capacity(k_y))
    _scan_all(scores, forward, backward, k_x, k_y, exclude_self)
    found = _settle(scores, forward, k_x, exclude_self)
    if not k_y:
        return (found,)
    if same or backward is None:
        return found, found
    return found, _settle(scores.flipped(), backward, k_y, exclude_self)


def _scan_all(
    scores: PairScores, forward: Lists, backward: Lists | None, k_x: int, k_y: int, exclude_self: bool
) -> None:
    """Every block once. Where x and y are one set, blocks above the diagonal stand for those below."""
    x, y, same = scores.x, scores.y, scores.x is scores.y
    n, m = len(x.weight), len(y.weight)
    tile_rows, tile_columns = (SQUARE_TILE, SQUARE_TILE) if same else (TILE_ROWS, TILE_COLUMNS)
    for left in range(0, m, tile_columns):
        columns = slice(left, min(m, left + tile_columns))
        y_MD = y.factor(columns, torch.float32)
        for top in range(0, columns.stop if same else n, tile_rows):
            rows = slice(top, min(n, top + tile_rows))
            x_BD = y_MD if same and top == left else x.factor(rows, torch.float32)
            other = None if backward is None or (same and top == left) else backward.part(columns)
            scan_products.on(
                scores.backend, x_BD, y_MD, scores.terms(rows, columns, torch.float32), forward.part(rows), other,
                (k_x, k_x if same else k_y), (top, left), exclude_self,
            )  # fmt: skip


def _settle(scores: PairScores, lists: Lists, k: int, exclude_self: bool) -> Nearest:
    """From candidates to the k best: exact scores of all candidates, and `dense` for the rows that were given up."""
    rows, columns, approximate_P = lists.pairs(k)
    exact_P = scores.exact(rows, columns)
    error_P = (approximate_P.double() - scores.pictured(exact_P, rows, columns)).abs()
    every = torch.arange(len(lists.counts), device=rows.device)
    if bool((error_P > lists.slack[rows]).any()):
        return dense(scores, every, k, exclude_self)
    complete_L = lists.counts >= 0
    found = Nearest(
        torch.empty(len(every), k, dtype=torch.float64, device=rows.device),
        torch.empty(len(every), k, dtype=torch.int64, device=rows.device),
    )
    place_L = complete_L.cumsum(0) - 1
    found.scores[complete_L], found.indices[complete_L] = _select(place_L[rows], columns, exact_P, k)
    rest = every[~complete_L]
    if len(rest) > 0:
        found.scores[rest], found.indices[rest] = dense(scores, rest, k, exclude_self)
    return found


def _select(lists_P: Tensor, columns_P: Tensor, score_P: Tensor, k: int) -> Nearest:
    """The k best of each list. Pairs come by list, then by column; every list has at least k."""
    by_score = torch.argsort(score_P, descending=True, stable=True)
    order = by_score[torch.argsort(lists_P[by_score], stable=True)]
    sizes = torch.bincount(lists_P)
    first = sizes.cumsum(0) - sizes
    chosen = order[first[:, None] + torch.arange(k, device=order.device)]
    return Nearest(score_P[chosen], columns_P[chosen])


def _approximate(scores: PairScores, rows_B: Tensor) -> Tensor:
    """Approximate scores of some rows with all columns, (b, m) float64."""
    x_BD = scores.x.factor(rows_B, torch.float64)
    parts = []
    for left in range(0, len(scores.y.weight), TILE_COLUMNS):
        columns = slice(left, min(len(scores.y.weight), left + TILE_COLUMNS))
        product_BM = x_BD @ scores.y.factor(columns, torch.float64).T
        parts.append(scores.terms(rows_B, columns, product_BM.dtype).scores(product_BM))
    return torch.cat(parts, dim=1)


def _without_self(lists: Tensor, columns: Tensor, rows_B: Tensor) -> tuple[Tensor, Tensor]:
    other = rows_B[lists] != columns
    return lists[other], columns[other]


def _capacity(k: int) -> int:
    return 2 * k + 24


def _device(scores: PairScores) -> torch.device:
    return scores.x.rows.device
