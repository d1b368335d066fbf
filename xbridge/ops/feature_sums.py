"""HSIC sums of linear kernels in feature space: from the centred cross-products X'Y, no (n, n) matrix at all.

    cost: n F_a F_b multiply-adds; memory: the F_a x F_b cross-products

HSIC does not change when the rows of X are shifted, so X and Y are centred first; with a_i = |x_i|^2, b_i = |y_i|^2 the
sums of K = XX', L = YY' (K~, L~: zero diagonal) are

    biased:    sum_ij K_ij L_ij = |X'Y|_F^2                    row sums: 0
    unbiased:  sum_ij K~_ij L~_ij = |X'Y|_F^2 - sum_i a_i b_i   row sums: r_i = -a_i, q_i = -b_i

and without example p, with m_p = sum_j K_pj L_pj = x_p'(X'Y) y_p (unbiased: minus a_p b_p) and K_pp = L_pp = 0 there:

    sum_ij K_ij L_ij -> minus 2 m_p, plus K_pp L_pp      sum_ij K_ij -> minus 2 r_p, plus K_pp
    sum_i r_i q_i    -> minus r_p q_p, minus (L r)_p, minus (K q)_p, plus m_p, minus K_pp L_pp

Shape letters: N examples, D features of a layer, S layers, B rows of a block.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from xbridge.ops.hsic import HsicSums

BLOCK_ROWS = 4096


class FeatureSums:
    """The sums of HSIC over `left` x `right`, linear kernel. Each layer: (n, d_l) float64, columns of mean 0.

    `right` None stands for `left` itself. `keep_diagonal`: False for the unbiased estimator, True for the biased one.
    """

    def __init__(self, left: Sequence[Tensor], right: Sequence[Tensor] | None, *, keep_diagonal: bool):
        self._keep_diagonal = keep_diagonal
        self._n = len(left[0])
        self._left, self._right = left, left if right is None else right
        lengths_left = [x.square().sum(1) for x in self._left]
        lengths_right = lengths_left if right is None else [y.square().sum(1) for y in self._right]
        in_left, in_right = (
            list(zip(self._left, lengths_left, strict=True)),
            list(zip(self._right, lengths_right, strict=True)),
        )
        self._pairs = [[_Pair(x, y, a, b) for y, b in in_right] for x, a in in_left]
        self._own_left = [_Pair(x, x, a, a) for x, a in in_left]
        self._own_right = self._own_left if right is None else [_Pair(y, y, b, b) for y, b in in_right]

    def totals(self) -> HsicSums:
        """The sums over all examples."""
        diagonal = 0.0 if self._keep_diagonal else 1.0
        pair, pair_rows = _stack([_stack([p.totals(diagonal) for p in row]) for row in self._pairs])
        left, left_rows = _stack([p.totals(diagonal) for p in self._own_left])
        right, right_rows = _stack([p.totals(diagonal) for p in self._own_right])
        return HsicSums(
            pair=pair,
            pair_rows=pair_rows,
            left=left,
            left_rows=left_rows,
            left_total=-diagonal * torch.stack([p.a.sum() for p in self._own_left]),
            right=right,
            right_rows=right_rows,
            right_total=-diagonal * torch.stack([p.a.sum() for p in self._own_right]),
            num_examples=torch.tensor(float(self._n), dtype=torch.float64),
        )

    def deletions(self, totals: HsicSums) -> Iterator[HsicSums]:
        """The sums without each example in turn, some at a time (leading axis B)."""
        total_change = 1 if self._keep_diagonal else 2  # minus 2 r_p, plus K_pp: r is 0 (biased) or -a, K_pp a or 0
        for start in range(0, self._n, BLOCK_ROWS):
            rows = slice(start, min(self._n, start + BLOCK_ROWS))
            pair, pair_rows = _stack([_stack([self._change(p, rows) for p in row]) for row in self._pairs])
            left, left_rows = _stack([self._change(p, rows) for p in self._own_left])
            right, right_rows = _stack([self._change(p, rows) for p in self._own_right])
            yield HsicSums(
                pair=totals.pair + pair.movedim(-1, 0),
                pair_rows=totals.pair_rows + pair_rows.movedim(-1, 0),
                left=totals.left + left.T,
                left_rows=totals.left_rows + left_rows.T,
                left_total=totals.left_total + total_change * torch.stack([p.a[rows] for p in self._own_left], dim=1),
                right=totals.right + right.T,
                right_rows=totals.right_rows + right_rows.T,
                right_total=totals.right_total
                + total_change * torch.stack([p.a[rows] for p in self._own_right], dim=1),
                num_examples=torch.full((rows.stop - rows.start,), self._n - 1.0, dtype=torch.float64),
            )

    def _change(self, pair: "_Pair", rows: slice) -> tuple[Tensor, Tensor]:
        """How the pair sum and the row product change when each of `rows` is left out: (B,) and (B,)."""
        m, ab = pair.row_products(rows), pair.a[rows] * pair.b[rows]
        if self._keep_diagonal:
            return ab - 2 * m, m - ab
        return 2 * (ab - m), pair.moved(rows) + m - 4 * ab


class _Pair:
    """Two centred layers x: (n, d), y: (n, e), their squared lengths a, b: (n,), and their cross-products."""

    def __init__(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor):
        self.x, self.y, self.a, self.b = x, y, a, b
        self.cross, self.xb, self.ya = x.T @ y, x.T @ b, y.T @ a

    def totals(self, diagonal: float) -> tuple[Tensor, Tensor]:
        rows = diagonal * (self.a @ self.b)
        return self.cross.square().sum() - rows, rows

    def row_products(self, rows: slice) -> Tensor:
        """sum_j (x_p . x_j) (y_p . y_j), j = p included."""
        return (self.x[rows] @ self.cross * self.y[rows]).sum(1)

    def moved(self, rows: slice) -> Tensor:
        """x_p . X'b + y_p . Y'a, which is minus (K~ q)_p minus (L~ r)_p, plus 2 a_p b_p."""
        return self.x[rows] @ self.xb + self.y[rows] @ self.ya


def _stack(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs])
