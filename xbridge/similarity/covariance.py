"""Linear measures from second moments alone, so that one pass over any number of rows is enough.

A `Covariance` holds the centred second moments of two layers: `Covariance.of` computes them from rows, and
`Covariance.between` takes them from `SecondMoments`. Every measure here equals the one of the same name on rows, and
`<measure>_matrix(moments)` is the measure between all layers of a `SecondMoments`, one decomposition per layer.

    moments = SecondMoments([768] * 13)
    for chunk in chunks:
        moments.update(chunk)
    covariance.cca_matrix(moments)                           # (13, 13)
    covariance.linear_r2(Covariance.between(moments, 0, 12))

Precision. A covariance squares the data: what a direction keeps of its correlations is eps (s_1 / s)^2, with s its
standard deviation, s_1 the largest one and eps = 2.2e-16. Values agree with those on rows to 1e-9 where all s exceed
s_1 / 1,000. Directions below s_1 sqrt(d eps) (4e-7 of the largest at d = 768) cannot be told from rounding and are left
out of the rank; on rows that limit is max(n, d) eps. Only the measures that divide by small variances feel this: the
CCA family and `linear_r2` without a penalty.

Shape letters: D features of x, E features of y, P rank of x, Q rank of y.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from xbridge.similarity.rows import Rows, as_pair

Prepared = TypeVar("Prepared")
Weighting: TypeAlias = Literal["x", "y"]


class Moments(Protocol):
    """What is asked of `SecondMoments`."""

    dims: Any  # features of each layer

    def covariance(self, first: int, second: int) -> Tensor:
        """Covariance of two layers, divided by n: (d_first, d_second) float64."""


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
        _check_variance(self.xx, "x")
        _check_variance(self.yy, "y")

    @classmethod
    def of(cls, x: Rows, y: Rows) -> "Covariance":
        """Of x: (n, d1) and y: (n, d2), each scaled to unit total variance."""
        x_centred, y_centred = as_pair(x, y)
        n = len(x_centred)
        return cls(x_centred.T @ x_centred / n, y_centred.T @ y_centred / n, x_centred.T @ y_centred / n)

    @classmethod
    def between(cls, moments: Moments, first: int, second: int) -> "Covariance":
        """Of two layers of a `SecondMoments`, x the first."""
        return cls(
            moments.covariance(first, first), moments.covariance(second, second), moments.covariance(first, second)
        )


def cka(c: Covariance) -> float:
    """Biased linear CKA, |C_xy|_F^2 / (|C_xx|_F |C_yy|_F). The unbiased one needs row lengths: `SecondMoments.cka`."""
    return float((c.xy / c.xx.norm()).square().sum() / (c.yy / c.xx.norm()).norm())


def canonical_correlations(c: Covariance, *, variance: float = 1.0) -> Tensor:
    """Cosines of the principal angles between the two feature spaces, falling: (min(rank x, rank y),) float64.

    The singular values of C_xx^-1/2 C_xy C_yy^-1/2 (Hotelling, 1936). `variance` < 1 keeps the fewest principal
    components of either side with that share of its variance (SVCCA).
    """
    return _correlations(_whitening(c.xx, variance), _whitening(c.yy, variance), c.xy)


def cca(c: Covariance) -> float:
    """Mean canonical correlation over the smaller rank."""
    return float(canonical_correlations(c).mean())


def cca_matrix(moments: Moments, first: Sequence[int] | None = None, second: Sequence[int] | None = None) -> np.ndarray:
    """`cca` between layers: (len(first), len(second)) float64; by default all of them."""
    return svcca_matrix(moments, first, second, variance=1.0)


def svcca(c: Covariance, *, variance: float = 0.99) -> float:
    """Mean canonical correlation of the principal components with that share of the variance."""
    return float(canonical_correlations(c, variance=variance).mean())


def svcca_matrix(
    moments: Moments,
    first: Sequence[int] | None = None,
    second: Sequence[int] | None = None,
    *,
    variance: float = 0.99,
) -> np.ndarray:
    """`svcca` between layers: (len(first), len(second)) float64; by default all of them."""

    def pair(white_x_DP: Tensor, white_y_EQ: Tensor, xy_DE: Tensor) -> float:
        return float(_correlations(white_x_DP, white_y_EQ, xy_DE).mean())

    return _matrix(moments, first, second, lambda xx: _whitening(xx, variance), pair)


def pwcca(c: Covariance, *, weights: Weighting = "x") -> float:
    """Canonical correlations weighted by sum_j |<h_i, x_j>|, which is the i-th row of (W U)' C_xx summed.

    `weights` names the side whose features x_j weigh the directions.
    """
    return _weighted(_white_and_own(c.xx), _white_and_own(c.yy), c.xy, weights)


def pwcca_matrix(
    moments: Moments,
    first: Sequence[int] | None = None,
    second: Sequence[int] | None = None,
    *,
    weights: Weighting = "x",
) -> np.ndarray:
    """`pwcca` between layers, x of `first`: (len(first), len(second)) float64; by default all of them."""
    return _matrix(moments, first, second, _white_and_own, lambda x, y, xy: _weighted(x, y, xy, weights))


def procrustes(c: Covariance) -> float:
    """|C_xy|_* / sqrt(tr C_xx tr C_yy): also the normalised Bures similarity of the two Gram matrices."""
    return _nuclear(c.xx.trace(), c.yy.trace(), c.xy)


def procrustes_matrix(
    moments: Moments, first: Sequence[int] | None = None, second: Sequence[int] | None = None
) -> np.ndarray:
    """`procrustes` between layers: (len(first), len(second)) float64; by default all of them."""
    return _matrix(moments, first, second, torch.trace, _nuclear)


def linear_r2(c: Covariance, *, ridge: float = 0.0) -> float:
    """Share of y's variance that a ridge regression on x explains in sample; `ridge` as a share of x's variance."""
    return _explained(_principal(c.xx), c.yy.trace(), c.xy, ridge)


def linear_r2_matrix(
    moments: Moments,
    first: Sequence[int] | None = None,
    second: Sequence[int] | None = None,
    *,
    ridge: float = 0.0,
) -> np.ndarray:
    """`linear_r2` of layers `second` on layers `first`: (len(first), len(second)) float64; by default all of them."""

    def prepare(xx: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        return _principal(xx), xx.trace()

    return _matrix(moments, first, second, prepare, lambda x, y, xy: _explained(x[0], y[1], xy, ridge))


def spectrum(covariance: Tensor) -> Tensor:
    """Principal variances of a layer, falling: (d,) float64. Those below rounding may be slightly negative."""
    variances: Tensor = torch.linalg.eigvalsh(covariance).flip(0)
    return variances


def participation_ratio(covariance: Tensor) -> float:
    """(tr C)^2 / tr C^2, from 1 (a line) to d (all variances equal); no eigenvalues are needed."""
    scaled = covariance / covariance.trace()
    return float(1 / scaled.square().sum())


def _matrix(
    moments: Moments,
    first: Sequence[int] | None,
    second: Sequence[int] | None,
    prepare: Callable[[Tensor], Prepared],
    pair: Callable[[Prepared, Prepared, Tensor], float],
) -> np.ndarray:
    """pair(prepare(C_ii), prepare(C_jj), C_ij) for i in first, j in second; each layer is prepared once."""
    first = range(len(moments.dims)) if first is None else first
    second = range(len(moments.dims)) if second is None else second
    prepared = {}
    for index in sorted({*first, *second}):
        own = moments.covariance(index, index)
        _check_variance(own, f"layer {index}")
        prepared[index] = prepare(own)
    return np.array([[pair(prepared[i], prepared[j], moments.covariance(i, j)) for j in second] for i in first])


def _check_variance(covariance: Tensor, name: str) -> None:
    if not covariance.trace() > 0:
        raise ValueError(f"{name}: no variance; similarity to it is undefined")


def _principal(covariance_DD: Tensor, variance: float = 1.0) -> tuple[Tensor, Tensor]:
    """Principal variances (p,), largest first, and directions (d, p), cut at the rank and at a share of variance."""
    if not 0 < variance <= 1:
        raise ValueError(f"variance must be in (0, 1], got {variance}")
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


def _white_and_own(covariance_DD: Tensor) -> tuple[Tensor, Tensor]:
    """The whitening W (d, p), and W'C, the features in the whitened basis."""
    white_DP = _whitening(covariance_DD)
    return white_DP, white_DP.T @ covariance_DD


def _correlations(white_x_DP: Tensor, white_y_EQ: Tensor, xy_DE: Tensor) -> Tensor:
    correlations: Tensor = torch.linalg.svdvals(white_x_DP.T @ xy_DE @ white_y_EQ)
    return correlations


def _weighted(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor], xy_DE: Tensor, weights: Weighting) -> float:
    if weights not in ("x", "y"):
        raise ValueError(f"weights must be 'x' or 'y', not {weights!r}")
    (white_x_DP, own_x_PD), (white_y_EQ, own_y_QE) = x, y
    left, correlations, right = torch.linalg.svd(white_x_DP.T @ xy_DE @ white_y_EQ, full_matrices=False)
    own = left.T @ own_x_PD if weights == "x" else right @ own_y_QE
    weight = own.abs().sum(dim=1)
    return float((weight * correlations).sum() / weight.sum())


def _nuclear(trace_x: Tensor, trace_y: Tensor, xy_DE: Tensor) -> float:
    return float(torch.linalg.svdvals(xy_DE).sum() / (trace_x * trace_y).sqrt())


def _explained(x: tuple[Tensor, Tensor], trace_y: Tensor, xy_DE: Tensor, ridge: float) -> float:
    """sum over x's principal directions of f (2 - f) |v'C_xy|^2 / variance, f what the penalty leaves of each."""
    if ridge < 0:
        raise ValueError(f"ridge must not be negative, got {ridge}")
    variances_P, vectors_DP = x
    shrink_P = variances_P / (variances_P + ridge * variances_P.sum())
    explained_P = (vectors_DP.T @ xy_DE).square().sum(dim=1) / variances_P
    return float(((2 - shrink_P) * shrink_P * explained_P).sum() / trace_y)
