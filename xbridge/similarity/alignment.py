"""Measures that look at features as they are, neuron by neuron, and how well one layer predicts another.

x: (n, d1), y: (n, d2), row i the same example in both; rows are centred first. A rotation of the feature space changes
the neuron-wise measures: they ask whether the same neurons do the same work, which the CCA family cannot see.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from xbridge.similarity.allpairs import pair_matrix
from xbridge.similarity.rows import Layers, Rows, as_pair, standardise


def anc(x: Rows, y: Rows) -> float:
    """Average neuron-wise correlation, signed: mean_j corr(x_j, y_j), in [-1, 1] (Del and Fishel, 2022).

    x, y: (n, d), feature j of both the same neuron: one model on two languages, or before and after training. 0 in
    expectation for independent inputs. The authors' code holds two forms; `anc_absolute` is the other one.
    """
    return float(_neuron_correlations(x, y).mean())


def anc_absolute(x: Rows, y: Rows) -> float:
    """Average absolute neuron-wise correlation: mean_j |corr(x_j, y_j)|, in [0, 1] (Del and Fishel, 2022).

    x, y: (n, d). About sqrt(2 / (pi (n - 2))) for independent inputs, not 0: compare it only at equal n.
    """
    return float(_neuron_correlations(x, y).abs().mean())


def max_correlation(x: Rows, y: Rows) -> float:
    """Mean over x's features of the largest |correlation| with any feature of y, in [0, 1].

    Semi-matching of Li et al. (2016, section 3.2), with absolute values. Not symmetric; grows with d2 by chance alone.
    """
    x_unit, y_unit = _unit_features(x, y)
    return float((x_unit.T @ y_unit).abs().amax(dim=1).mean())


def linear_r2(x: Rows, y: Rows, *, ridge: float = 0.0, leave_one_out: bool = False) -> float:
    """Share of y's variance that a linear regression on x explains: R^2, at most 1. Not symmetric.

    ridge: the penalty on squared weights as a share of x's total variance (scikit-learn's alpha is ridge times the sum
        of squares of centred x); the intercept is not penalised. 0 is least squares (Kornblith et al., 2019, section
        3), which is in [0, 1] and 1 by necessity for n <= d1 + 1.
    leave_one_out: every row is predicted from the others (PRESS; Allen, 1974), in closed form. 0 is no better than the
        mean of the others; negative is worse. Unlike R^2 in sample it does not grow with d1 by itself.

    ValueError where a row cannot be predicted from the others: no penalty, and that row alone spans a direction of x.
    """
    return float(linear_r2_matrix({"x": x}, {"y": y}, ridge=ridge, leave_one_out=leave_one_out)[0, 0])


def linear_r2_matrix(
    a: Layers, b: Layers | None = None, *, ridge: float = 0.0, leave_one_out: bool = False
) -> np.ndarray:
    """`linear_r2` of every layer of `b` (default: of `a`) on every layer of `a`: (S_a, S_b) float64."""
    if ridge < 0:
        raise ValueError(f"ridge must not be negative, got {ridge}")

    return pair_matrix(
        a,
        b,
        lambda x, name: _regressor(x, name, ridge, leave_one_out),
        lambda y, name: standardise(y, name)[0],
        _r2,
        symmetric=False,
    )


class _Regressor(NamedTuple):
    """What predicts from x: (n, d)."""

    basis: Tensor  # (n, rank) orthonormal, of x's columns
    shrink: Tensor  # (rank,) what the penalty leaves of each direction
    free: Tensor | None  # (n,) 1 - leverage, where rows are left out


def _regressor(x: Tensor, name: str, ridge: float, leave_one_out: bool) -> _Regressor:
    x_ND, _ = standardise(x, name)
    n = len(x_ND)
    u_NR, singular_R, _ = torch.linalg.svd(x_ND, full_matrices=False)
    kept = singular_R > singular_R[0] * max(x_ND.shape) * torch.finfo(x_ND.dtype).eps
    u_NR, squares_R = u_NR[:, kept], singular_R[kept].square()
    shrink_R = squares_R / (squares_R + ridge * n)  # rows have unit total variance: their sum of squares is n
    if not leave_one_out:
        return _Regressor(u_NR, shrink_R, None)
    free_N = 1 - 1 / n - u_NR.square() @ shrink_R
    if float(free_N.min()) < n * torch.finfo(x_ND.dtype).eps:
        raise ValueError(
            f"{name}: row {int(free_N.argmin())} alone spans a direction and cannot be predicted from the others; "
            f"set ridge > 0 or give more rows than the {x_ND.shape[1]} features"
        )
    return _Regressor(u_NR, shrink_R, free_N)


def _r2(x: _Regressor, y_NE: Tensor) -> float:
    residual_NE = y_NE - x.basis @ (x.shrink[:, None] * (x.basis.T @ y_NE))
    if x.free is None:
        return float(1 - residual_NE.square().sum() / y_NE.square().sum())
    n = len(y_NE)
    return float(1 - (residual_NE / x.free[:, None]).square().sum() / (y_NE * (n / (n - 1))).square().sum())


def _neuron_correlations(x: Rows, y: Rows) -> Tensor:
    if x.shape != y.shape:
        raise ValueError(f"neurons are compared one to one: shapes differ, {tuple(x.shape)} and {tuple(y.shape)}")
    x_unit, y_unit = _unit_features(x, y)
    return (x_unit * y_unit).sum(dim=0)


def _unit_features(x: Rows, y: Rows) -> tuple[Tensor, Tensor]:
    """Both with columns of mean 0 and length 1. ValueError names a feature that does not vary."""
    x_centred, y_centred = as_pair(x, y)
    return _unit_columns(x_centred, "x"), _unit_columns(y_centred, "y")


def _unit_columns(x: Tensor, name: str) -> Tensor:
    largest = x.abs().amax(dim=0)
    if (largest == 0).any():
        raise ValueError(
            f"{name}: feature {int((largest == 0).nonzero()[0])} is constant, so has no correlation: leave it out"
        )
    x = x / largest
    unit: Tensor = x / x.norm(dim=0)
    return unit
