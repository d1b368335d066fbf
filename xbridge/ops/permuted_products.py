"""Inner products of kernel matrices under permutations of one side's examples, for permutation tests of HSIC."""

import torch
from torch import Tensor

from xbridge.ops.dispatch import op


@op
def permuted_products(k: Tensor, l: Tensor, orders: Tensor) -> Tensor:  # noqa: E741
    """sum_{i != j} k_ij l_{o(i) o(j)} for every permutation o: (P, S_a, S_b) float64.

    k: (S_a, n, n), l: (S_b, n, n), symmetric with zero diagonals; orders: (P, n) int64. Cost: n^2 S_a S_b each.
    """
    flat = k.flatten(1)
    products = torch.empty(len(orders), len(k), len(l), dtype=torch.float64)
    for index, order in enumerate(orders):
        products[index] = flat @ l[:, order][:, :, order].flatten(1).T
    return products
