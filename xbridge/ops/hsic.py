"""The Hilbert-Schmidt independence criterion of two kernel matrices, and the sums that determine it.

With K, L the (n, n) kernel matrices of two sets of n examples, H = I - 11'/n, and K~, L~ the same with a zero diagonal:

    biased    HSIC_0 = tr(K H L H) / (n - 1)^2                                  Gretton et al. (2005), equation 9
    unbiased  HSIC_1 = [tr(K~ L~) + (1'K~1)(1'L~1) / ((n-1)(n-2)) - 2/(n-2) 1'K~L~1] / (n (n-3))
                                                                               Song et al. (2012), equation 5
    CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))                             Kornblith et al. (2019), equation 4

Both need three sums over the entries: sum_ij K_ij L_ij, the inner product of the row sums, and the totals. `gram_sums`
and `feature_sums` compute them for many pairs at once, for the whole sample and with examples left out.
"""

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

Estimator: TypeAlias = Literal["unbiased", "biased"]
ROUNDING = 1e-13  # relative error of float64 sums over up to millions of examples


class HsicSums(NamedTuple):
    """What HSIC of `left` x `right`, left x left and right x right needs. Any leading axes: one entry per deletion.

    The diagonal of every kernel matrix is zero for the unbiased estimator, and kept for the biased one.
    """

    pair: Tensor  # (..., S_a, S_b) sum_ij K_ij L_ij
    pair_rows: Tensor  # (..., S_a, S_b) sum_i (sum_j K_ij) (sum_j L_ij)
    left: Tensor  # (..., S_a) sum_ij K_ij^2
    left_rows: Tensor  # (..., S_a)
    left_total: Tensor  # (..., S_a) sum_ij K_ij
    right: Tensor  # (..., S_b)
    right_rows: Tensor  # (..., S_b)
    right_total: Tensor  # (..., S_b)
    num_examples: Tensor  # (...)


def hsic_of_grams(gram_x: Tensor, gram_y: Tensor, estimator: Estimator = "unbiased") -> Tensor:
    """The definition: HSIC of two kernel matrices, each (n, n). float64 scalar. Cost n^2; needs n >= 4 (biased: 2)."""
    K, L = gram_x.double(), gram_y.double()
    if estimator == "unbiased":
        K, L = K - torch.diag(K.diagonal()), L - torch.diag(L.diagonal())
    r, q = K.sum(dim=1), L.sum(dim=1)
    return hsic_from_sums((K * L).sum(), r @ q, r.sum(), q.sum(), torch.tensor(len(K), dtype=torch.float64), estimator)


def hsic_from_sums(
    products: Tensor, row_products: Tensor, total_x: Tensor, total_y: Tensor, num_examples: Tensor, estimator: Estimator
) -> Tensor:
    """HSIC from its three sums; all arguments broadcast. See the module's docstring for the formulas."""
    n = num_examples
    if estimator == "unbiased":
        cross = total_x * total_y / ((n - 1) * (n - 2)) - 2 / (n - 2) * row_products
        return (products + cross) / (n * (n - 3))
    return (products - 2 / n * row_products + total_x * total_y / n**2) / (n - 1) ** 2


def hsics(sums: HsicSums, estimator: Estimator) -> tuple[Tensor, Tensor, Tensor]:
    """HSIC of all pairs (..., S_a, S_b), of left with itself (..., S_a), of right with itself (..., S_b)."""
    n = sums.num_examples
    left, right = sums.left_total, sums.right_total
    return (
        hsic_from_sums(
            sums.pair, sums.pair_rows, left[..., :, None], right[..., None, :], n[..., None, None], estimator
        ),
        hsic_from_sums(sums.left, sums.left_rows, left, left, n[..., None], estimator),
        hsic_from_sums(sums.right, sums.right_rows, right, right, n[..., None], estimator),
    )


def cka_from_sums(sums: HsicSums, estimator: Estimator) -> Tensor:
    """CKA of all pairs: (..., S_a, S_b). NaN where a layer's HSIC with itself is zero; nothing is clamped or added.

    HSIC_1 of a kernel with itself is zero when its entries off the diagonal are f_i + f_j, for instance when all rows
    are equally far apart. Zero means: below the rounding of the terms it is the sum of.
    """
    pair, left, right = hsics(sums, estimator)
    n = sums.num_examples[..., None]
    left = _zero_to_nan(left, sums.left, sums.left_rows, n)
    right = _zero_to_nan(right, sums.right, sums.right_rows, n)
    return pair / (left.sqrt()[..., :, None] * right.sqrt()[..., None, :])


def _zero_to_nan(own: Tensor, products: Tensor, row_products: Tensor, n: Tensor) -> Tensor:
    terms = (products.abs() + 2 / n * row_products.abs()) / n**2
    return torch.where(own > ROUNDING * terms, own, torch.nan)
