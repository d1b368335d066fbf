"""Products of two sets of rows on their way into the lists of both, a block at a time."""

from dataclasses import replace

import torch
from torch import Tensor

from xbridge.ops.dispatch import op
from xbridge.ops.scan_scores import Block, Lists, scan_scores


@op
def scan_products(
    left: Tensor,
    right: Tensor,
    terms: Block,
    forward: Lists,
    backward: Lists | None,
    k: tuple[int, int],
    first: tuple[int, int],
    exclude_self: bool,
) -> None:
    """Enter the scores of every row of `left` with every row of `right` into the lists of both; changes these in place.

    left: (B, d), right: (M, d) float32; terms: what is added to their product and divides it, its `values` unused;
    forward: the lists of left's rows; backward: those of right's, or None; k: how many are wanted in either; first: the
    numbers, among all, of the first row of left and of right. `exclude_self` leaves out the pairs of equal numbers.
    Cost: B M d multiply-adds.
    """
    product_BM = torch.mm(left, right.T)
    if exclude_self:
        _drop_self(product_BM, first)
    block = replace(terms, values=product_BM)
    scan_scores(block, forward, k[0], first[1], False)
    if backward is not None:
        scan_scores(block, backward, k[1], first[0], True)


def _drop_self(product_BM: Tensor, first: tuple[int, int]) -> None:
    own = max(first)
    end = min(first[0] + product_BM.shape[0], first[1] + product_BM.shape[1])
    if own < end:
        numbers = torch.arange(own, end, device=product_BM.device)
        product_BM[numbers - first[0], numbers - first[1]] = -torch.inf
