"""Products of kernel matrices under permutations of the examples of one of them: the null distribution of HSIC.

Only the sum of products changes with a permutation; row sums move with their examples, and totals stay.

Shape letters: A, B layers on the left and right; P permutations; N examples.
"""

import torch
from torch import Tensor

from xbridge.ops.dispatch import op


@op
def permuted_products(k: Tensor, l: Tensor, orders: Tensor) -> Tensor:  # noqa: E741
    """sum_{i != j} k^a_ij l^b_o(i)o(j) for every pair of layers and every permutation o: (P, S_a, S_b) float64.

    k: (S_a, n, n), l: (S_b, n, n) float32 or float64, symmetric; their diagonals do not count. orders: (P, n) int64, a
    permutation of 0 .. n - 1 in each row, or ValueError. Cost: P n^2 S_a S_b multiply-adds; a backend may use symmetry
    and halve it. The result does not depend on the number of threads.
    """
    n = orders.shape[1]
    if not torch.equal(orders.sort(dim=1).values, torch.arange(n, device=orders.device).expand_as(orders)):
        raise ValueError("permuted_products: a row of orders is not a permutation of 0 .. n - 1")
    hollow = 1 - torch.eye(n, dtype=torch.float64, device=k.device)
    k_AM = (k * hollow).flatten(1)
    products = [k_AM @ l[:, order][:, :, order].double().flatten(1).T for order in orders]
    return torch.stack(products) if products else k_AM.new_zeros(0, len(k), len(l))
