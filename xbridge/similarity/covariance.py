"""Linear measures from second moments alone, so that one pass over any number of rows is enough.

A `Covariance` holds the centred second moments of two layers; `SecondMoments.covariance` gives them, and
`Covariance.of` computes them from rows. Every function here equals the one of the same name on rows.

Precision. A covariance squares the data: what a direction keeps of its correlations is eps (s_1 / s)^2, with s its
standard deviation, s_1 the largest one and eps = 2.2e-16. Values agree with those on rows to 1e-9 where all s exceed
s_1 / 1,000. Directions below s_1 sqrt(d eps) (4e-7 of the largest at d = 768) cannot be told from rounding and are left
out of the rank; on rows that limit is max(n, d) eps. Only the measures that divide by small variances feel this: the
CCA family and `linear_r2` without a penalty.

Shape letters: D features of x, E features of y, P rank of x, Q rank of y.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from xbridge.similarity.rows import Rows, as_pair


@dataclass(frozen=True)
class Covariance:
    """Centred second moments of two layers over the same examples, float64, each divided by n (any common factor will
    do: no measure depends on it).
    """

    xx: Tensor  # (d1, d1)
    yy: Tensor  # (d2, d2)
    xy: Tensor  # (d1, d2)

    def __post_init__(self) -> None:
        d1, d2 = self.xy.shape
        if self.xx.shape != (d1, d1) or self.yy.shape != (d2, d2):
            raise ValueError(
                f"expected (d1, d1), (d2, d2), (d1, d2), got "
                f"{tuple(self.xx.shape)}, {tuple(self.yy.shape)}, {tuple(self.xy.shape)}"
            )
        for name, matrix in (("x", self.xx), ("y", self.yy)):
            if not matrix.trace() > 0:
                raise ValueError(f"{name}: no variance; similarity to it is undefined")

    @classmethod
    def of(cls, x: Rows, y: Rows) -> "Covariance":
        """Of x: (n, d1) and y: (n, d2), each scaled to unit total variance."""
        x_centred, y_centred = as_pair(x, y)
        n = len(x_centred)
        return cls(x_centred.T @ x_centred / n, y_centred.T @ y_centred / n, x_centred.T @ y_centred / n)


def cka(c: Covariance) -> float:
    """Biased linear CKA, |C_xy|_F^2 / (|C_xx|_F |C_yy|_F). The unbiased one needs row lengths: `SecondMoments.cka`."""
    return float((c.xy / c.xx.norm()).square().sum() / (c.yy / c.xx.norm()).norm())


def canonical_correlations(c: Covariance, *, variance: float = 1.0) -> Tensor:
    """Cosines of the principal angles between the two feature spaces, falling: (min(rank x, rank y),) float64.

    The singular values of C_xx^-1/2 C_xy C_yy^-1/2 (Hotelling, 1936). `variance` < 1 keeps the fewest principal
    components of either side with that share of its variance (SVCCA).
    """
    white_x_DP, white_y_EQ = _whitening(c.xx, variance), _whitening(c.yy, variance)
    correlations: Tensor = torch.linalg.svdvals(white_x_DP.T @ c.xy @ white_y_EQ)
    return correlations


def cca(c: Covariance) -> float:
    """Mean canonical correlation over the smaller rank."""
    return float(canonical_correlations(c).mean())


def svcca(c: Covariance, *, variance: float = 0.99) -> float:
    """Mean canonical correlation of the principal components with that share of the variance."""
    return float(canonical_correlations(c, variance=variance).mean())


def pwcca(c: Covariance, *, weights: Literal["x", "y"] = "x") -> float:
    """Canonical correlations weighted by sum_j |<h_i, x_j>|, which is the i-th row of (W U)' C_xx summed.

    `weights` names the side whose features x_j weigh the directions.
    """
    white_x_DP, white_y_EQ = _whitening(c.xx), _whitening(c.yy)
    left_PR, correlations, right_RQ = torch.linalg.svd(white_x_DP.T @ c.xy @ white_y_EQ, full_matrices=False)
    own = (white_x_DP @ left_PR).T @ c.xx if weights == "x" else (white_y_EQ @ right_RQ.T).T @ c.yy
    weight = own.abs().sum(dim=1)
    return float((weight * correlations).sum() / weight.sum())


def procrustes(c: Covariance) -> float:
    """|C_xy|_* / sqrt(tr C_xx tr C_yy): also the normalised Bures similarity of the two Gram matrices."""
    return float(torch.linalg.svdvals(c.xy).sum() / (c.xx.trace() * c.yy.trace()).sqrt())


def linear_r2(c: Covariance, *, ridge: float = 0.0) -> float:
    """Share of y's variance that a ridge regression on x explains in sample; `ridge` as a share of x's variance."""
    if ridge < 0:
        raise ValueError(f"ridge must not be negative, got {ridge}")
    variances_P, vectors_DP = _principal(c.xx)
    shrink_P = variances_P / (variances_P + ridge * c.xx.trace())
    explained_P = (vectors_DP.T @ c.xy).square().sum(dim=1) / variances_P
    return float(((2 - shrink_P) * shrink_P * explained_P).sum() / c.yy.trace())


def spectrum(covariance: Tensor) -> Tensor:
    """Principal variances of a layer, falling: (d,) float64. Those below rounding may be slightly negative."""
    variances: Tensor = torch.linalg.eigvalsh(covariance).flip(0)
    return variances


def participation_ratio(covariance: Tensor) -> float:
    """(tr C)^2 / tr C^2, from 1 (a line) to d (all variances equal); no eigenvalues are needed."""
    scaled = covariance / covariance.trace()
    return float(1 / scaled.square().sum())


def _principal(covariance_DD: Tensor, variance: float = 1.0) -> tuple[Tensor, Tensor]:
    """Principal variances (p,), largest first, and directions (d, p), cut at the rank and at a share of variance."""
    values, vectors = torch.linalg.eigh(covariance_DD)
    values, vectors = values.flip(0), vectors.flip(1)
    rank = int((values > values[0] * len(values) * torch.finfo(values.dtype).eps).sum())
    if variance < 1:
        share = values.cumsum(0) / values.sum()
        rank = min(rank, int((share < variance).sum()) + 1)
    return values[:rank], vectors[:, :rank]


def _whitening(covariance_DD: Tensor, variance: float = 1.0) -> Tensor:
    """(d, p) that maps centred features to uncorrelated ones of unit variance."""
    values, vectors = _principal(covariance_DD, variance)
    return vectors / values.sqrt()
