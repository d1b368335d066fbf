"""Doubly centred kernel matrices, whose inner products are HSIC: for batches, and for permutations. In place."""

import torch
from torch import Tensor


def u_centre_(gram: Tensor) -> Tensor:
    """U-centre (n, n), n >= 4, in place: zero diagonal, inner products are n (n - 3) HSIC_1. Returns it.

    Szekely and Rizzo (2014), definition 2. Row sums are float64 whatever the type.
    """
    n = len(gram)
    gram.fill_diagonal_(0)
    sums = gram.sum(1, dtype=torch.float64)
    shares = sums / (n - 2) - sums.sum() / (2 * (n - 1) * (n - 2))  # a row's and a column's together: the entry's
    return _take_off(gram, shares).fill_diagonal_(0)


def centre_(gram: Tensor) -> Tensor:
    """H gram H (n, n), H = I - 11'/n, in place: inner products are (n - 1)^2 HSIC_0. Returns it."""
    means = gram.mean(1, dtype=torch.float64)
    return _take_off(gram, means - means.mean() / 2)


def _take_off(gram: Tensor, shares: Tensor) -> Tensor:
    shares = shares.to(gram.dtype)
    gram -= shares[:, None]
    gram -= shares[None, :]
    return gram
