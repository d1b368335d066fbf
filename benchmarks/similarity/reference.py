"""What the numbers should be: slow, short definitions, independent of xbridge.

Rows are centred and scaled in long double, so that offsets and scales cost nothing; what follows is float64 on centred
data, where no term is much larger than the result.

    biased    |X'Y|_F^2 / (|X'X|_F |Y'Y|_F)                              Kornblith et al. (2019), equation 4
    unbiased  <U(K), U(L)> / sqrt(<U(K), U(K)> <U(L), U(L)>)             Song et al. (2012); Szekely and Rizzo (2014)
    minibatch the same inner products, each summed over the batches      Nguyen et al. (2021), equation 3

U(K) is K with a zero diagonal, centred so that every row sums to zero: with r the row sums and t the total,
u_ij = k_ij - (r_i + r_j) / (n-2) + t / ((n-1)(n-2)) off the diagonal.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Matrix = NDArray[np.float64]


def centred(x: Tensor) -> Matrix:
    """x: (n, d), any float type -> float64 rows with zero mean and unit mean squared length."""
    rows = x.double().numpy().astype(np.longdouble)
    rows = rows / np.abs(rows).max()
    rows = rows - rows.mean(axis=0)
    scaled: Matrix = (rows / np.sqrt(np.mean((rows**2).sum(axis=1)))).astype(np.float64)
    return scaled


def linear_cka(x: Tensor, y: Tensor, estimator: str = "unbiased") -> float:
    """Linear CKA of x: (n, d1) and y: (n, d2); estimator "unbiased" or "biased"."""
    a, b = centred(x), centred(y)
    return cka_of_kernels(a @ a.T, b @ b.T, estimator)


def minibatch_cka(x: Tensor, y: Tensor, batch_size: int) -> float:
    """Linear CKA from unbiased HSIC summed over consecutive batches; n is a multiple of batch_size."""
    a, b = centred(x), centred(y)
    sums = np.zeros(3)
    for start in range(0, len(a), batch_size):
        rows = slice(start, start + batch_size)
        k, l = u_centred(a[rows] @ a[rows].T), u_centred(b[rows] @ b[rows].T)  # noqa: E741
        sums += (k * l).sum(), (k * k).sum(), (l * l).sum()
    return float(sums[0] / np.sqrt(sums[1] * sums[2]))


def rbf_cka(x: Tensor, y: Tensor, widths: tuple[float, float], estimator: str = "unbiased") -> float:
    """CKA with k = exp(-|x_i - x_j|^2 / (2 width^2)); widths in the units of x and of y."""
    k, l = (np.exp(-squared_distances(z) / (2 * width**2)) for z, width in zip((x, y), widths, strict=True))  # noqa: E741
    return cka_of_kernels(k, l, estimator)


def median_width(x: Tensor) -> float:
    """Root of the lower median of all n^2 squared distances, the n zeros included."""
    return float(torch.from_numpy(squared_distances(x)).median().sqrt())


def squared_distances(x: Tensor) -> Matrix:
    """(n, n), in the units of x squared, never negative, zero on the diagonal."""
    rows = centred(x)
    wide = x.double().numpy().astype(np.longdouble)
    scale = float(np.mean(((wide - wide.mean(axis=0)) ** 2).sum(axis=1)))
    lengths = (rows**2).sum(axis=1)
    distances = np.maximum(lengths[:, None] + lengths[None, :] - 2 * rows @ rows.T, 0.0)
    np.fill_diagonal(distances, 0.0)
    squared: Matrix = distances * scale
    return squared


def cka_of_kernels(k: Matrix, l: Matrix, estimator: str) -> float:  # noqa: E741
    """CKA of two (n, n) kernel matrices."""
    centre = u_centred if estimator == "unbiased" else doubly_centred
    k, l = centre(k), centre(l)  # noqa: E741
    return float((k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum()))


def u_centred(k: Matrix) -> Matrix:
    """Zero diagonal, and rows off it that sum to zero. (n, n), n >= 4."""
    n = len(k)
    k = k - np.diag(np.diag(k))
    rows = k.sum(axis=1) / (n - 2)
    u: Matrix = k - rows[:, None] - rows[None, :] + rows.sum() / (n - 1)
    np.fill_diagonal(u, 0.0)
    return u


def doubly_centred(k: Matrix) -> Matrix:
    """H K H."""
    centred_once: Matrix = k - k.mean(axis=0) - k.mean(axis=1)[:, None] + k.mean()
    return centred_once
