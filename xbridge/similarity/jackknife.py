"""The delete-one jackknife of CKA (Efron and Stein, 1981), exact, without n recomputations.

    se^2 = (n-1)/n sum_p (CKA_(p) - mean CKA_(.))^2

Leaving out example p changes the sums of HSIC by terms of its own row. With the linear kernel these follow in feature
space, from the cross-products C and a second pass over the rows: with m_p = x_p'C y_p (sum_j K_pj L_pj, j = p
included),

    unbiased   sum_ij K~_ij L~_ij: + 2 (a_p b_p - m_p)    sum_i r_i q_i: + x_p.X'b + y_p.Y'a + m_p - 4 a_p b_p
    biased     sum_ij K_ij L_ij:   + a_p b_p - 2 m_p      sum_i r_i q_i: + m_p - a_p b_p

In Gram space (any kernel, or groups of examples) `ops.gram_sums.GramBlocks` gives the deletions.

Shape letters: B rows of a block, F features, S layers.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from xbridge.ops.hsic import Estimator, HsicSums, cka_from_sums
from xbridge.similarity.moments import SecondMoments
from xbridge.similarity.momentstate import State
from xbridge.similarity.readout import centred_row_sums, layer_sizes

BLOCK_ROWS = 1024


def jackknife(value: Tensor, deletions: Iterable[HsicSums], estimator: Estimator) -> Tensor:
    """Standard error of `value` (S_a, S_b), from the sums without each example (or group) in turn."""
    count, first, second = 0, torch.zeros_like(value), torch.zeros_like(value)
    for sums in deletions:
        change = cka_from_sums(sums, estimator) - value
        count, first, second = count + len(change), first + change.sum(0), second + change.square().sum(0)
    # a layer against itself never changes: what is left there is rounding, of either sign
    return ((count - 1) / count * (second - first.square() / count)).clamp_min(0).sqrt()


class FeatureDeletions:
    """The sums of HSIC without each example in turn, from second moments and a second pass over the same rows.

    Costs as many multiply-adds as the moments. Relative precision of a deletion's change is that of `dtype`.
    """

    def __init__(self, moments: SecondMoments, totals: HsicSums, estimator: Estimator, dtype: torch.dtype):
        state = moments.state()
        self._totals, self._unbiased, self._dtype = totals, estimator == "unbiased", dtype
        self._layout, self._n, num_layers = state.layout, state.n, len(moments.dims)
        sizes = layer_sizes(state).sqrt()
        self._mean = [moments.mean(i) for i in range(num_layers)]
        self._scale = [float(state.scale[i] / sizes[i]) for i in range(num_layers)]
        self._cross = [self._cross_products(state, i, self._layout.right, sizes) for i in self._layout.left]
        self._own = [self._cross_products(state, i, [i], sizes) for i in range(num_layers)]
        self._row_sums = {
            (i, j): centred_row_sums(state, i, j) / (sizes[i] * sizes[j].square())
            for i in range(num_layers)
            for j in range(num_layers)
            if self._layout.has_pair(i, j)
        }

    def blocks(self, chunks: Iterable[Sequence[Tensor]]) -> Iterator[HsicSums]:
        """Sums without each row, some at a time (leading axis B). `chunks`: the rows that the moments were made of."""
        for chunk in chunks:
            for start in range(0, len(chunk[0]), BLOCK_ROWS):
                yield self._without([x[start : start + BLOCK_ROWS] for x in chunk])

    def _without(self, rows: Sequence[Tensor]) -> HsicSums:
        z = [
            ((x.double() - mean) * scale).to(self._dtype)
            for x, mean, scale in zip(rows, self._mean, self._scale, strict=True)
        ]
        a_BS = torch.stack([x.double().square().sum(1) for x in z], dim=1)
        changes = [self._changes(z, a_BS, i, self._layout.right, self._cross[i]) for i in self._layout.left]
        own = [self._changes(z, a_BS, i, [i], self._own[i]) for i in range(len(z))]
        pair, pair_rows = (torch.stack([c[k] for c in changes], dim=1) for k in (0, 1))
        own_pair, own_rows = (torch.cat([c[k] for c in own], dim=1) for k in (0, 1))
        total_change = 2 if self._unbiased else 1
        left, right = list(self._layout.left), list(self._layout.right)
        t = self._totals
        return HsicSums(
            pair=t.pair + pair,
            pair_rows=t.pair_rows + pair_rows,
            left=t.left + own_pair[:, left],
            left_rows=t.left_rows + own_rows[:, left],
            left_total=t.left_total + total_change * a_BS[:, left],
            right=t.right + own_pair[:, right],
            right_rows=t.right_rows + own_rows[:, right],
            right_total=t.right_total + total_change * a_BS[:, right],
            num_examples=torch.full((len(a_BS),), self._n - 1.0, dtype=torch.float64, device=a_BS.device),
        )

    def _changes(
        self, z: Sequence[Tensor], a_BS: Tensor, i: int, others: Sequence[int] | range, cross: Tensor
    ) -> tuple[Tensor, Tensor]:
        """How the pair sums and the row products of layer i with `others` change: (B, len(others)) each."""
        mapped = torch.split(z[i] @ cross, [self._layout.dims[j] for j in others], dim=1)
        m = torch.stack([(part * z[j]).sum(1, dtype=torch.float64) for part, j in zip(mapped, others, strict=True)], 1)
        ab = a_BS[:, [i]] * a_BS[:, list(others)]
        if not self._unbiased:
            return ab - 2 * m, m - ab
        moved = torch.stack([self._moved(z, i, j) for j in others], dim=1)
        return 2 * (ab - m), moved + m - 4 * ab

    def _moved(self, z: Sequence[Tensor], i: int, j: int) -> Tensor:
        """x_p . X'b + y_p . Y'a"""
        return z[i].double() @ self._row_sums[i, j] + z[j].double() @ self._row_sums[j, i]

    def _cross_products(self, state: State, i: int, others: Sequence[int] | range, sizes: Tensor) -> Tensor:
        products = [state.cross_products(i, j) / (sizes[i] * sizes[j]) for j in others]
        return torch.cat(products, dim=1).to(self._dtype)
