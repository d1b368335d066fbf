"""Doubly centred kernel matrices, whose inner products are HSIC: for batches, and for permutations."""

import torch
from torch import Tensor


def u_centre(gram: Tensor) -> Tensor:
    """U-centred (n, n), n >= 4, zero diagonal: inner products are n (n - 3) HSIC_1.

    Szekely and Rizzo (2014), definition 2. Row sums are float64 whatever the type.
    """
    n = len(gram)
    gram = gram.clone().fill_diagonal_(0)
    sums = gram.sum(1, dtype=torch.float64)
    rows = (sums / (n - 2)).to(gram.dtype)
    gram -= rows[:, None]
    gram -= rows[None, :]
    gram += (sums.sum() / ((n - 1) * (n - 2))).to(gram.dtype)
    return gram.fill_diagonal_(0)


def centre(gram: Tensor) -> Tensor:
    """H gram H (n, n), H = I - 11'/n: inner products are (n - 1)^2 HSIC_0."""
    means = gram.mean(1, dtype=torch.float64)
    return gram - means[:, None].to(gram.dtype) - (means - means.mean())[None, :].to(gram.dtype)
