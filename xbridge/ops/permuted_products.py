"""Inner products of kernel matrices under permutations of one side's examples, for permutation tests of HSIC.

Only the sum of products changes with a permutation; row sums move with their examples, and totals stay.

Shape letters: A, B layers on the left and right; R rows of a block; N examples.
"""

import torch
from torch import Tensor

from xbridge.ops.dispatch import op

BLOCK_BYTES = 64 << 20


@op
def permuted_products(k: Tensor, l: Tensor, orders: Tensor) -> Tensor:  # noqa: E741
    """sum_{i != j} k^a_ij l^b_o(i)o(j) for every permutation o and every pair of layers: (P, S_a, S_b) float64.

    k: (S_a, n, n), l: (S_b, n, n), symmetric, float32 or float64; their diagonals do not count. orders: (P, n) int64,
    every row a permutation of 0 .. n - 1 (ValueError otherwise). Cost: P n^2 S_a S_b multiply-adds; a backend may use
    symmetry and halve it.
    """
    num_orders, n = orders.shape
    if not torch.equal(orders.sort(dim=1).values, torch.arange(n, device=orders.device).expand_as(orders)):
        raise ValueError("permuted_products: a row of orders is not a permutation of 0 .. n - 1")
    products = torch.zeros(num_orders, len(k), len(l), dtype=torch.float64, device=k.device)
    block_rows = max(1, BLOCK_BYTES // (8 * max(1, n) * (len(k) + len(l))))
    for rows in torch.split(torch.arange(n, device=k.device), block_rows):
        k_ARN = k[:, rows].double()
        k_ARN[:, torch.arange(len(rows)), rows] = 0
        flat = k_ARN.flatten(1)
        for index, order in enumerate(orders):
            products[index] += flat @ l[:, order[rows]][:, :, order].double().flatten(1).T
    return products
