"""HSIC sums in Gram space: kernel matrices are computed in blocks of rows, all layers together, and never stored.

    cost: n^2 (F + S_a S_b) multiply-adds, F = sum of feature counts; memory: one block of rows of all layers

Deleting a group g of examples (one example, or all translations of one sentence) changes the sums exactly so, with
w_pj = 1 where j is in g and 2 elsewhere:

    sum_ij K_ij L_ij  ->  minus sum_{p in g} sum_j w_pj K_pj L_pj
    sum_ij K_ij       ->  minus sum_{p in g} sum_j w_pj K_pj
    sum_i r_i q_i     ->  sum_{i not in g} (r_i - sum_{p in g} K_ip) (q_i - sum_{p in g} L_ip)

Shape letters: N examples, S layers, B rows of a block, G groups of a block.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from xbridge.ops.dispatch import op
from xbridge.ops.hsic import HsicSums

Tile = Callable[[Tensor, Tensor], Tensor]  # (b, d), (n, d) -> (b, n) kernel values
TileKernel: TypeAlias = Literal["linear", "rbf", "laplacian"]
BLOCK_BYTES = 16 << 20


class GramTotals(NamedTuple):
    """Sums over the entries off the diagonal of S kernel matrices, float64."""

    products: Tensor  # (S, S) sum_{i != j} k^l_ij k^m_ij
    row_sums: Tensor  # (S, n) sum_{j != i} k^l_ij


@op
def gram_sums(
    layers: Sequence[Tensor],
    shifts: Sequence[Tensor],
    scales: Sequence[float],
    kernel: TileKernel,
    gammas: Sequence[float],
) -> GramTotals:
    """The sums that HSIC of all pairs of S layers needs, kernel matrices in blocks, never whole.

    layers: (n, d_l) each, any float type; the kernel is taken of (x - shift) scale, with shifts (d_l,) float64.
    kernel: linear x . y; rbf exp(-gamma |x - y|^2); laplacian exp(-gamma |x - y|). gammas: one per layer,
    whatever the kernel.
    Cost: n^2 (F + S^2) multiply-adds, F = sum of d_l; a backend may use symmetry and halve it.
    """
    rows = [(x.double() - shift.to(x.device)) * scale for x, shift, scale in zip(layers, shifts, scales, strict=True)]
    num_layers, n = len(rows), len(rows[0])
    products = torch.zeros(num_layers, num_layers, dtype=torch.float64, device=rows[0].device)
    row_sums = torch.zeros(num_layers, n, dtype=torch.float64, device=rows[0].device)
    for block in torch.split(torch.arange(n), max(1, BLOCK_BYTES // (8 * num_layers * n))):
        k_SBN = torch.stack([_kernel_of(kernel, gamma)(x[block], x) for x, gamma in zip(rows, gammas, strict=True)])
        k_SBN[:, torch.arange(len(block)), block] = 0
        row_sums[:, block] = k_SBN.sum(2)
        flat = k_SBN.flatten(1)
        products += flat @ flat.T
    return GramTotals(products, row_sums)


def _kernel_of(kernel: TileKernel, gamma: float) -> Tile:
    if kernel == "linear":
        return linear_tile
    return rbf_tile((2 * gamma) ** -0.5) if kernel == "rbf" else laplacian_tile(1 / gamma)


def linear_tile(x: Tensor, y: Tensor) -> Tensor:
    """k(x, y) = x . y"""
    return x @ y.T


def rbf_tile(bandwidth: float) -> Tile:
    """k(x, y) = exp(-|x - y|^2 / (2 bandwidth^2))"""
    return lambda x, y: torch.exp(squared_distances(x, y) / (-2 * bandwidth**2))


def laplacian_tile(bandwidth: float) -> Tile:
    """k(x, y) = exp(-|x - y|_2 / bandwidth)"""
    return lambda x, y: torch.exp(squared_distances(x, y).sqrt() / -bandwidth)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2: (b, d), (n, d) -> (b, n). Meant for centred float64 rows, where nothing cancels."""
    return (x.square().sum(1)[:, None] + y.square().sum(1)[None, :] - 2 * (x @ y.T)).clamp_min(0)


class GramBlocks:
    """The sums of HSIC over `left` x `right`. Each layer is (n, d_l) float64 with a kernel `tile` of its own.

    `right` None stands for `left` itself. `keep_diagonal`: False for the unbiased estimator, True for the biased one.
    """

    def __init__(
        self,
        left: Sequence[tuple[Tensor, Tile]],
        right: Sequence[tuple[Tensor, Tile]] | None,
        *,
        keep_diagonal: bool,
    ):
        self._left, self._right, self._keep_diagonal = left, right, keep_diagonal
        self._n = len(left[0][0])
        self._rows_left = self._row_sums(left)
        self._rows_right = self._rows_left if right is None else self._row_sums(right)

    def totals(self) -> HsicSums:
        """The sums over all examples."""
        r_SN, q_SN = self._rows_left, self._rows_right
        pair = torch.zeros(len(r_SN), len(q_SN), dtype=torch.float64)
        own_left, own_right = torch.zeros_like(pair[:, 0]), torch.zeros_like(pair[0])
        for rows in self._blocks():
            k_BSN, l_BSN = self._block_pair(rows)
            pair += k_BSN.transpose(0, 1).flatten(1) @ l_BSN.transpose(0, 1).flatten(1).T
            if self._right is not None:
                own_left += k_BSN.square().sum((0, 2))
                own_right += l_BSN.square().sum((0, 2))
        return HsicSums(
            pair=pair,
            pair_rows=r_SN @ q_SN.T,
            left=pair.diagonal() if self._right is None else own_left,
            left_rows=r_SN.square().sum(1),
            left_total=r_SN.sum(1),
            right=pair.diagonal() if self._right is None else own_right,
            right_rows=q_SN.square().sum(1),
            right_total=q_SN.sum(1),
            num_examples=torch.tensor(float(self._n), dtype=torch.float64),
        )

    def deletions(self, totals: HsicSums, groups: Tensor | None = None) -> Iterator[HsicSums]:
        """The sums without each group of examples in turn, some groups at a time (leading axis G).

        groups: (n,) int64, the group of each example, 0 .. num_groups - 1; None: every example is its own.
        """
        group_N = torch.arange(self._n) if groups is None else groups
        order = torch.argsort(group_N, stable=True)
        sizes = torch.bincount(group_N)
        starts = torch.cumsum(sizes, 0) - sizes
        per_block = max(1, self._block_rows() // int(sizes.max()))
        for first in range(0, len(sizes), per_block):
            last = min(len(sizes), first + per_block)
            rows = order[int(starts[first]) : int(starts[last - 1] + sizes[last - 1])]
            yield self._without(totals, rows, group_N, first, last)

    def _without(self, totals: HsicSums, rows: Tensor, group_N: Tensor, first: int, last: int) -> HsicSums:
        num_groups, group_B = last - first, group_N[rows] - first
        same_BN = (group_N[None, :] == group_N[rows, None]).double()
        other_GN = (group_N[None, :] != torch.arange(first, last)[:, None]).double()

        def by_group(x: Tensor) -> Tensor:
            return torch.zeros(num_groups, *x.shape[1:], dtype=x.dtype).index_add_(0, group_B, x)

        def remaining(k_BSN: Tensor, r_SN: Tensor) -> Tensor:
            return (r_SN - by_group(k_BSN)) * other_GN[:, None, :]

        k_BSN, l_BSN = self._block_pair(rows)
        kw_BSN = k_BSN * (2 - same_BN)[:, None, :]
        lw_BSN = kw_BSN if self._right is None else l_BSN * (2 - same_BN)[:, None, :]
        r_GSN = remaining(k_BSN, self._rows_left)
        q_GSN = r_GSN if self._right is None else remaining(l_BSN, self._rows_right)
        return HsicSums(
            pair=totals.pair - by_group(kw_BSN @ l_BSN.transpose(1, 2)),
            pair_rows=r_GSN @ q_GSN.transpose(1, 2),
            left=totals.left - by_group((kw_BSN * k_BSN).sum(2)),
            left_rows=r_GSN.square().sum(2),
            left_total=totals.left_total - by_group(kw_BSN.sum(2)),
            right=totals.right - by_group((lw_BSN * l_BSN).sum(2)),
            right_rows=q_GSN.square().sum(2),
            right_total=totals.right_total - by_group(lw_BSN.sum(2)),
            num_examples=(self._n - torch.bincount(group_B, minlength=num_groups)).double(),
        )

    def _row_sums(self, layers: Sequence[tuple[Tensor, Tile]]) -> Tensor:
        return torch.stack([self._row_sums_of(x_ND, tile) for x_ND, tile in layers])

    def _row_sums_of(self, x_ND: Tensor, tile: Tile) -> Tensor:
        if tile is linear_tile:  # sum_j x_i . x_j needs no kernel matrix
            sums_N = x_ND @ x_ND.sum(0)
            return sums_N if self._keep_diagonal else sums_N - x_ND.square().sum(1)
        return torch.cat([self._block([(x_ND, tile)], rows).sum((1, 2)) for rows in self._blocks()])

    def _block_pair(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        k_BSN = self._block(self._left, rows)
        return k_BSN, k_BSN if self._right is None else self._block(self._right, rows)

    def _block(self, layers: Sequence[tuple[Tensor, Tile]], rows: Tensor) -> Tensor:
        """Rows of all kernel matrices, (B, S, N), a view of memory in the order (S, B, N)."""
        k_SBN = torch.empty(len(layers), len(rows), self._n, dtype=torch.float64)
        for index, (x_ND, tile) in enumerate(layers):
            k_SBN[index] = tile(x_ND[rows], x_ND)
        if not self._keep_diagonal:
            k_SBN[:, torch.arange(len(rows)), rows] = 0
        return k_SBN.transpose(0, 1)

    def _blocks(self) -> Iterator[Tensor]:
        return iter(torch.split(torch.arange(self._n), self._block_rows()))

    def _block_rows(self) -> int:
        num_layers = len(self._left) + len(self._right or ())
        return max(1, BLOCK_BYTES // (8 * num_layers * self._n))
