"""What second moments say of HSIC: the sums of all pairs, moved to the mean, where nothing cancels.

With d = s / n the mean of the shifted rows, a'_i = |x_i - d|^2 and Cc = C - s s' / n (kernels are linear):

    biased    sum_ij K_ij L_ij = |Cc_xy|_F^2                       row sums 0
    unbiased  sum_ij K~_ij L~_ij = |Cc_xy|_F^2 - sum a'_i b'_i      row sums -a'_i

    sum a'_i b'_i = G - 2 d_y.(Y'a) - 2 d_x.(X'b) + 4 d_x'C d_y + |d_y|^2 A + |d_x|^2 B - 3 n |d_x|^2 |d_y|^2
    A' = A - n |d_x|^2
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from xbridge.ops.hsic import Estimator, HsicSums
from xbridge.similarity.momentstate import State


def hsic_sums(state: State, estimator: Estimator, names: Sequence[str]) -> HsicSums:
    """The sums of HSIC: all pairs of layers, or those across the split. ValueError names a layer of zero variance."""
    left, right = state.layout.left, state.layout.right
    sizes = _checked_sizes(state, names)
    kept = 0.0 if estimator == "biased" else 1.0
    squared_norm = state.squared_norms()

    def pair(i: int, j: int) -> tuple[Tensor, Tensor]:
        rows = kept * _length_products(state, i, j) / (sizes[i] * sizes[j])
        return squared_norm(i, j) / (sizes[i] * sizes[j]) - rows, rows

    cells = [[pair(i, j) for j in right] for i in left]
    own = [pair(i, i) for i in range(len(sizes))]
    own_products, own_rows = torch.stack([p for p, _ in own]), torch.stack([r for _, r in own])
    own_totals = torch.full_like(sizes, -kept * state.n)
    a, b = slice(left.start, left.stop), slice(right.start, right.stop)
    return HsicSums(
        pair=torch.stack([torch.stack([p for p, _ in row]) for row in cells]),
        pair_rows=torch.stack([torch.stack([r for _, r in row]) for row in cells]),
        left=own_products[a],
        left_rows=own_rows[a],
        left_total=own_totals[a],
        right=own_products[b],
        right_rows=own_rows[b],
        right_total=own_totals[b],
        num_examples=torch.tensor(float(state.n), dtype=torch.float64, device=state.A.device),
    )


def layer_sizes(state: State) -> Tensor:
    """Mean of |z - d|^2, layer by layer: (S,). Sums of HSIC are in units of it, so that products are of order 1."""
    offsets = torch.stack([state.offset(i).square().sum() for i in range(len(state.layout.dims))])
    return state.A / state.n - offsets


def centred_row_sums(state: State, i: int, j: int) -> Tensor:
    """sum_p (z_p - d) a'_p with z of layer i and a' of layer j, both about their mean: (d_i,)."""
    d_i, d_j, n = state.offset(i), state.offset(j), state.n
    moved = state.products(i, j) @ d_j
    return state.U[state.layout.slices[i], j] - 2 * moved + n * (d_j @ d_j) * d_i - d_i * (state.A[j] - n * (d_j @ d_j))


def _checked_sizes(state: State, names: Sequence[str]) -> Tensor:
    sizes = layer_sizes(state)
    for name, size in zip(names, sizes.tolist(), strict=True):
        if not size > 0:
            raise ValueError(f"{name}: all {state.n} rows are equal (zero variance); similarity to it is undefined")
    return sizes


def _length_products(state: State, i: int, j: int) -> Tensor:
    """sum_p a'_p b'_p"""
    d_i, d_j, n = state.offset(i), state.offset(j), state.n
    d2_i, d2_j = d_i @ d_i, d_j @ d_j
    xb, ya = state.U[state.layout.slices[i], j], state.U[state.layout.slices[j], i]
    crossed = 4 * (d_i @ state.products(i, j) @ d_j) - 2 * (d_j @ ya) - 2 * (d_i @ xb)
    return state.G[i, j] + crossed + d2_j * state.A[i] + d2_i * state.A[j] - 3 * n * d2_i * d2_j


def rsa_correlations(state: State, names: Sequence[str]) -> Tensor:
    """Pearson correlation, over all ordered pairs of rows, of squared Euclidean distances: (S_a, S_b), or (S, S).

    ValueError names a layer of zero variance.

    About the means, sum_ij d2x_ij d2y_ij = 2 n sum a'b' + 2 A'B' + 4 |Cc_xy|^2 and sum_ij d2x_ij = 2 n A'.
    """
    n, sizes = state.n, _checked_sizes(state, names)
    num_pairs = n * (n - 1)
    squared_norm = state.squared_norms()

    def covariance(i: int, j: int) -> Tensor:
        lengths, cross = _length_products(state, i, j), squared_norm(i, j)
        products = 2 * n * lengths / (sizes[i] * sizes[j]) + 2 * n * n + 4 * cross / (sizes[i] * sizes[j])
        return products / num_pairs - (2 * n * n / num_pairs) ** 2

    own = [covariance(i, i).sqrt() for i in range(len(sizes))]
    return torch.stack(
        [torch.stack([covariance(i, j) / (own[i] * own[j]) for j in state.layout.right]) for i in state.layout.left]
    )
