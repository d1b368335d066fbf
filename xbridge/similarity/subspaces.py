"""Measures that compare two sets through the best linear map between them: the CCA family and Procrustes.

x: (n, d1), y: (n, d2), row i the same example in both. Rows are centred first. All are symmetric except PWCCA, lie in
[0, 1], are 1 for x against a shifted, rescaled rotation of x, and do not correct for chance: with d near n, the CCA
family is near 1 for independent inputs. All are invariant to a shift, a scale and a rotation of either side (PWCCA: of
y, and a shift and scale of x); cca also to any invertible linear map of either side, and pwcca to one of y.
"""

import torch
from torch import Tensor

from xbridge.similarity.rows import Rows, as_pair


def cca(x: Rows, y: Rows) -> float:
    """Mean canonical correlation over the smaller rank: mean_i rho_i (Raghu et al., 2017, as a summary of CCA)."""
    x_centred, y_centred = as_pair(x, y)
    return float(_correlations(_basis(x_centred), _basis(y_centred)).mean())


def svcca(x: Rows, y: Rows, *, variance: float = 0.99) -> float:
    """Mean canonical correlation after each side keeps the fewest principal components with that share of its variance.

    Raghu et al. (2017), section 2. The share is of squared singular values.
    """
    if not 0 < variance <= 1:
        raise ValueError(f"variance must be in (0, 1], got {variance}")
    x_centred, y_centred = as_pair(x, y)
    return float(_correlations(_basis(x_centred, variance), _basis(y_centred, variance)).mean())


def pwcca(x: Rows, y: Rows) -> float:
    """Canonical correlations weighted by how much of x each canonical direction of x accounts for.

    Morcos et al. (2018), equation 2: sum_i alpha_i rho_i / sum_i alpha_i, alpha_i = sum_j |<h_i, x_j>|, with h_i the
    canonical variables of x and x_j its centred features. Not symmetric, and, because of the weights, it changes when x
    is mapped linearly; y may be mapped freely.
    """
    x_centred, y_centred = as_pair(x, y)
    basis_x, basis_y = _basis(x_centred), _basis(y_centred)
    left, correlations, _ = torch.linalg.svd(basis_x.T @ basis_y, full_matrices=False)
    weights = ((basis_x @ left).T @ x_centred).abs().sum(dim=1)
    return float((weights * correlations).sum() / weights.sum())


def procrustes(x: Rows, y: Rows) -> float:
    """Normalised orthogonal Procrustes similarity: |X'Y|_* / (|X|_F |Y|_F), with |.|_* the nuclear norm.

    One minus half the squared Procrustes distance between the sets at unit norm (Williams et al., 2021, equation 4 with
    the orthogonal group; Ding et al., 2021). With d1 != d2 the narrower one is padded with zeros.
    """
    x_centred, y_centred = as_pair(x, y)
    nuclear = torch.linalg.svdvals(x_centred.T @ y_centred).sum()
    return float(nuclear / (x_centred.norm() * y_centred.norm()))


def _basis(x: Tensor, variance: float = 1.0) -> Tensor:
    """Orthonormal basis (n, rank) of the columns of centred x, largest variance first, cut at a share of variance."""
    u, singular, _ = torch.linalg.svd(x, full_matrices=False)
    rank = int((singular > singular[0] * max(x.shape) * torch.finfo(x.dtype).eps).sum())
    if variance < 1:
        share = singular.square().cumsum(0) / singular.square().sum()
        rank = min(rank, int((share < variance).sum()) + 1)
    basis: Tensor = u[:, :rank]
    return basis


def _correlations(basis_x: Tensor, basis_y: Tensor) -> Tensor:
    """Canonical correlations: cosines of the principal angles between the two column spaces."""
    correlations: Tensor = torch.linalg.svdvals(basis_x.T @ basis_y)
    return correlations
