"""Products of two sets of rows on their way into short lists of the best scores of both, a block at a time.

A score here is an approximation with a known error: |approximate - exact| <= slack. With t the k-th best approximate
score of a row, an element below t - 2 slack has k better ones, whatever the errors were. A list therefore keeps all
that is above, and is complete when it never had to drop one of these; otherwise it is given up.

Shape letters: B rows of left, M rows of right, D features, L lists, C capacity of a list.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from xbridge.ops.dispatch import op


@dataclass(frozen=True)
class Lists:
    """Candidates so far, written in place by `scan_products`. `new_lists` makes an empty one."""

    scores: Tensor  # float32; the first `counts` of a row are valid
    indices: Tensor  # int32
    counts: Tensor  # int32; -1: given up
    thresholds: Tensor  # float32; scores up to it cannot be among the k best
    slack: Tensor  # float64, infinite: given up from the start

    def part(self, lists: slice) -> "Lists":
        """A view of some lists."""
        return Lists(*(x[lists] for x in self._tensors()))

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.scores, self.indices, self.counts, self.thresholds, self.slack

    def pairs(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Lists, indices and scores of all candidates, by list and then by index: (p,) int64, int64, float32."""
        capacity = self.scores.shape[1]
        valid_LC = torch.arange(capacity, device=self.counts.device) < self.counts[:, None]
        scores_LC = torch.where(valid_LC, self.scores, -torch.inf)
        threshold_L = just_below(scores_LC.topk(k).values[:, -1].double() - 2 * self.slack)
        lists, slots = ((scores_LC > threshold_L[:, None]) & valid_LC).nonzero(as_tuple=True)
        indices = self.indices[lists, slots].long()
        order = torch.argsort((lists << 32) | indices)
        return lists[order], indices[order], scores_LC[lists, slots][order]


@dataclass(frozen=True)
class Terms:
    """What makes scores of the products of B rows with M: added to them, then dividing them where there is any."""

    add_rows: Tensor  # (B,)
    add_columns: Tensor  # (M,), of one type all
    divide_rows: Tensor | None = None
    divide_columns: Tensor | None = None

    def scores(self, product_BM: Tensor) -> Tensor:
        """(B, M), in the parts' precision: (product + add_columns + add_rows) / (divide_columns + divide_rows)."""
        scores_BM = product_BM + self.add_columns + self.add_rows[:, None]
        if self.divide_rows is not None and self.divide_columns is not None:
            scores_BM /= self.divide_columns + self.divide_rows[:, None]
        return scores_BM


def new_lists(slack_L: Tensor, k: int, capacity: int) -> Lists:
    """Empty lists for the k best scores whose errors are at most slack_L: (l,) float64."""
    num_lists, device = len(slack_L), slack_L.device
    given_up_L = slack_L.isinf()
    return Lists(
        scores=torch.full((num_lists, capacity), -torch.inf, device=device),
        indices=torch.zeros(num_lists, capacity, dtype=torch.int32, device=device),
        counts=-given_up_L.int(),
        thresholds=torch.where(given_up_L, torch.inf, -torch.inf).float(),
        slack=slack_L.contiguous(),
    )


@op
def scan_products(
    left: Tensor,
    right: Tensor,
    terms: Terms,
    forward: Lists,
    backward: Lists | None,
    k: tuple[int, int],
    first: tuple[int, int],
    exclude_self: bool,
) -> None:
    """Enter the scores of every row of `left` with every row of `right` into the lists of both; changes these in place.

    left: (B, D), right: (M, D) float32, and so are the terms; forward: the lists of left's rows; backward: those of
    right's, or None; k: how many are wanted in either, fewer than a list holds; first: the numbers, among all, of the
    first row of left and of right, which fit 32 bits. `exclude_self` leaves out the pairs of equal numbers. Scores of
    minus infinity are never entered. Cost: B M D multiply-adds.
    """
    product_BM = torch.mm(left, right.T)
    if exclude_self:
        _drop_self(product_BM, first)
    scores_BM = terms.scores(product_BM)
    _enter(scores_BM, forward, k[0], first[1])
    if backward is not None:
        _enter(scores_BM.T, backward, k[1], first[0])


def _enter(scores_LM: Tensor, lists: Lists, k: int, first: int) -> None:
    """Enter each row of scores into its list; `first`: the number, among all, of the first column."""
    capacity = lists.scores.shape[1]
    numbers_M = torch.arange(first, first + scores_LM.shape[1], dtype=torch.int32, device=scores_LM.device)
    all_scores = torch.cat([lists.scores, scores_LM], dim=1)
    all_indices = torch.cat([lists.indices, numbers_M.expand(len(scores_LM), -1)], dim=1)
    best = all_scores.topk(min(capacity + 1, all_scores.shape[1]))
    threshold_L = just_below(best.values[:, k - 1].double() - 2 * lists.slack)
    given_up_L = (lists.counts < 0) | (best.values[:, capacity:] > threshold_L[:, None]).any(dim=1)
    lists.scores.copy_(best.values[:, :capacity])
    lists.indices.copy_(all_indices.gather(1, best.indices[:, :capacity]))
    lists.counts.copy_(torch.where(given_up_L, -1, (lists.scores > -torch.inf).sum(dim=1)))
    lists.thresholds.copy_(torch.where(given_up_L, torch.inf, threshold_L))


def _drop_self(product_BM: Tensor, first: tuple[int, int]) -> None:
    own = max(first)
    end = min(first[0] + product_BM.shape[0], first[1] + product_BM.shape[1])
    if own < end:
        numbers = torch.arange(own, end, device=product_BM.device)
        product_BM[numbers - first[0], numbers - first[1]] = -torch.inf


def just_below(x: Tensor) -> Tensor:
    """The largest float32 below each float64, so that "score > threshold" keeps every score that is x or more."""
    rounded = x.float()
    return torch.where(rounded.double() < x, rounded, rounded.nextafter(torch.full_like(rounded, -torch.inf)))
