"""Measures that compare two sets through the best linear map between them: the CCA family and Procrustes.

x: (n, d1), y: (n, d2), row i the same example in both. Rows are centred first. Similarities lie in [0, 1], are 1 for x
against a shifted, rescaled rotation of x, and do not correct for chance: with d near n, the CCA family is near 1 for
independent inputs. Invariances: `xbridge.similarity.properties`. From second moments: `xbridge.similarity.covariance`.

`<measure>_matrix(a, b)` is the measure between all layers of `a` and of `b` (default: of `a`), (S_a, S_b) float64: one
decomposition per layer and one product per pair.
"""

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from xbridge.similarity.allpairs import pair_matrix
from xbridge.similarity.rows import Layers, Rows, as_pair, standardise


def canonical_correlations(x: Rows, y: Rows) -> Tensor:
    """All canonical correlations (Hotelling, 1936), falling: (min(rank x, rank y),) float64."""
    x_centred, y_centred = as_pair(x, y)
    return _correlations(_basis(x_centred), _basis(y_centred))


def principal_angles(x: Rows, y: Rows) -> Tensor:
    """Angles in radians between the spaces that the centred features of x and of y span, rising: (min rank,) float64.

    Small angles come from their sines (Björck and Golub, 1973): arccos(1 - 1e-16) alone would be off by 1e-8.
    """
    x_centred, y_centred = as_pair(x, y)
    basis_x, basis_y = _basis(x_centred), _basis(y_centred)
    if basis_x.shape[1] > basis_y.shape[1]:
        basis_x, basis_y = basis_y, basis_x
    left, cosines, _ = torch.linalg.svd(basis_x.T @ basis_y, full_matrices=False)
    directions = basis_x @ left
    sines = (directions - basis_y @ (basis_y.T @ directions)).norm(dim=0)
    return torch.atan2(sines, cosines)


def cca(x: Rows, y: Rows) -> float:
    """Mean canonical correlation over the smaller rank: mean_i rho_i (Raghu et al., 2017, as a summary of CCA)."""
    return float(cca_matrix({"x": x}, {"y": y})[0, 0])


def cca_matrix(a: Layers, b: Layers | None = None) -> np.ndarray:
    """`cca` between all pairs of layers."""
    return svcca_matrix(a, b, variance=1.0)


def svcca(x: Rows, y: Rows, *, variance: float = 0.99) -> float:
    """Mean canonical correlation after each side keeps the fewest principal components with that share of its variance.

    Raghu et al. (2017), section 2. The share is of squared singular values.
    """
    return float(svcca_matrix({"x": x}, {"y": y}, variance=variance)[0, 0])


def svcca_matrix(a: Layers, b: Layers | None = None, *, variance: float = 0.99) -> np.ndarray:
    """`svcca` between all pairs of layers."""
    if not 0 < variance <= 1:
        raise ValueError(f"variance must be in (0, 1], got {variance}")

    def prepare(x: Tensor, name: str) -> Tensor:
        return _basis(standardise(x, name)[0], variance)

    return pair_matrix(a, b, prepare, prepare, lambda x, y: float(_correlations(x, y).mean()), symmetric=True)


def pwcca(x: Rows, y: Rows, *, weights: Literal["x", "y"] = "x") -> float:
    """Canonical correlations weighted by how much of one side each of its canonical directions accounts for.

    Morcos et al. (2018), equation 2: sum_i alpha_i rho_i / sum_i alpha_i, alpha_i = sum_j |<h_i, z_j>|, with z_j the
    centred features of the side that `weights` names and h_i its canonical variables. Not symmetric, and it changes
    when that side is rotated or mapped linearly; the other side may be mapped freely.
    """
    return float(pwcca_matrix({"x": x}, {"y": y}, weights=weights)[0, 0])


def pwcca_matrix(a: Layers, b: Layers | None = None, *, weights: Literal["x", "y"] = "x") -> np.ndarray:
    """`pwcca` between all pairs of layers, x from `a` and y from `b`."""
    if weights not in ("x", "y"):
        raise ValueError(f"weights must be 'x' or 'y', not {weights!r}")

    def prepare(x: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """The basis, and the features in it."""
        centred, _ = standardise(x, name)
        basis = _basis(centred)
        return basis, basis.T @ centred

    def pair(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> float:
        (basis, features), (other, _) = (x, y) if weights == "x" else (y, x)
        left, correlations, _ = torch.linalg.svd(basis.T @ other, full_matrices=False)
        alpha = (left.T @ features).abs().sum(dim=1)
        return float((alpha * correlations).sum() / alpha.sum())

    return pair_matrix(a, b, prepare, prepare, pair, symmetric=False)


def procrustes(x: Rows, y: Rows) -> float:
    """Normalised orthogonal Procrustes similarity: |X'Y|_* / (|X|_F |Y|_F), with |.|_* the nuclear norm.

    One minus half the squared `procrustes_distance`. With d1 != d2 the narrower one is padded with zeros.
    """
    return float(procrustes_matrix({"x": x}, {"y": y})[0, 0])


def procrustes_matrix(a: Layers, b: Layers | None = None) -> np.ndarray:
    """`procrustes` between all pairs of layers."""
    return pair_matrix(a, b, _unit, _unit, lambda x, y: float(torch.linalg.svdvals(x.T @ y).sum()), symmetric=True)


def normalised_bures(x: Rows, y: Rows) -> float:
    """Normalised Bures similarity of the Gram matrices: tr (K^1/2 L K^1/2)^1/2 / sqrt(tr K tr L) (Tang et al., 2020).

    K = XX' and L = YY' of centred rows. The fidelity of two Gram matrices is the nuclear norm of X'Y, so this is
    `procrustes` (Harvey et al., 2024, "Duality of Bures and shape distances"), here under its other name.
    """
    return procrustes(x, y)


def procrustes_distance(x: Rows, y: Rows) -> float:
    """min |X Q - Y|_F over maps Q with orthonormal rows or columns, X and Y at unit norm, in [0, sqrt 2].

    Williams et al. (2021), equation 4 with the orthogonal group; Ding et al. (2021). A metric between sets up to
    shift, scale and rotation. It is computed from the residual itself, so equal sets are 1e-15 apart, where
    sqrt(2 - 2 `procrustes`) would say 1e-8.
    """
    x_centred, y_centred = (_unit(z, name) for z, name in zip(as_pair(x, y), ("x", "y"), strict=True))
    if x_centred.shape[1] > y_centred.shape[1]:
        x_centred, y_centred = y_centred, x_centred
    left, _, right = torch.linalg.svd(x_centred.T @ y_centred, full_matrices=False)
    return float((x_centred @ (left @ right) - y_centred).norm())


def procrustes_angle(x: Rows, y: Rows) -> float:
    """arccos of `procrustes`, in [0, pi/2] radians: the geodesic distance (Williams et al., 2021, equation 5).

    A metric. 2 arcsin(`procrustes_distance` / 2), which keeps small angles exact.
    """
    return 2 * math.asin(procrustes_distance(x, y) / 2)


def _unit(x: Tensor, name: str) -> Tensor:
    """Centred, of unit Frobenius norm, with at most n columns."""
    narrow = _narrow(standardise(x, name)[0])
    unit: Tensor = narrow / narrow.norm()
    return unit


def _narrow(x: Tensor) -> Tensor:
    """The rows in a basis of at most n dimensions: the same inner products, fewer columns."""
    return x if x.shape[1] <= len(x) else torch.linalg.qr(x.T, mode="r").R.T


def _basis(x: Tensor, variance: float = 1.0) -> Tensor:
    """Orthonormal basis (n, rank) of the columns of centred x, largest variance first, cut at a share of variance."""
    u, singular, _ = torch.linalg.svd(_narrow(x), full_matrices=False)
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
