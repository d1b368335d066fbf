"""What a score between two rows is, and an approximation of it that one matrix product gives, with a proved bound.

The exact score of rows x_i, y_j is computed in float64, in a fixed order (`pair_products`):

    cosine x.y / sqrt(|x|^2 |y|^2)    dot x.y    euclidean -|x - y|    and margins of cosines (see `Margin`)

The approximation ("picture") is a product of matrices in any order of summation, plus a term for each row:

    cosine:     u = x/|x|, v = y/|y|:       u.v      =   (u - b).(v - c) + [(u - b).c + b.c/2] + [b.(v - c) + b.c/2]
    dot:        scaled by powers of two     x.y      =   x.y
    euclidean:  p = x - c, q = y - c:    -|x - y|^2/2 =   p.q  - |p|^2/2  - |q|^2/2

b and c are near the mean rows: representations often lie in a narrow cone, and what all rows share then costs no
precision. With p, q the factors, L their lengths, a, e the two terms and u the unit roundoff, the picture's error is

    at most  gamma_(d+8) L_p L_q  +  8 u (|a| + |e|)  +  errors of float64  +  underflow,     gamma_n = n u / (1 - n u)

(Higham, 2002, sections 3.1 and 3.5: rounding both factors and d products and sums in any order, fused or not, is
within gamma_(d+2); rounding the terms and adding them is within 4 u of each magnitude, and within 2 u of p.q).

Shape letters: N rows of x, M rows of y, D features, B rows of a block, P pairs.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from xbridge.ops.dispatch import Backend
from xbridge.ops.factor_rows import Factors, factor_rows
from xbridge.ops.pair_products import pair_products
from xbridge.ops.scan_products import Terms

Metric: TypeAlias = Literal["cosine", "dot", "euclidean"]
Margin: TypeAlias = Literal["ratio", "distance", "absolute"]
BLOCK_ROWS = 1024
PILOT_ROWS = 1024


@dataclass(frozen=True)
class Side:
    """One of the two sets. The factor of row i is rows_i weight_i - shift; everything but rows is float64."""

    rows: Tensor
    weight: Tensor
    shift: Tensor
    square: Tensor  # |x|^2
    size: Tensor  # |x| weight, at least
    length: Tensor  # of the factor, at least
    add: Tensor
    near: Tensor | None = None  # mean cosine to the nearest rows of the other set, for margins

    def factors(self, rows: slice | Tensor, other_D: Tensor, dtype: torch.dtype) -> Factors:
        """Factors of some rows, (b, d), with their squared lengths and products with `other`."""
        return factor_rows(self.rows[rows], self.weight[rows], self.shift, other_D, dtype)

    def factor(self, rows: slice | Tensor, dtype: torch.dtype) -> Tensor:
        """Factors of some rows, (b, d)."""
        return self.factors(rows, self.shift, dtype).rows


@dataclass(frozen=True)
class PairScores:
    """Scores between all rows of x and of y: exact ones of single pairs, approximate ones of blocks, and the bound."""

    x: Side
    y: Side
    metric: Metric
    margin: Margin = "absolute"
    backend: Backend = "auto"

    def flipped(self) -> "PairScores":
        """The same scores, with the rows of y first."""
        return replace(self, x=self.y, y=self.x)

    def with_margin(self, margin: Margin, near_x_N: Tensor, near_y_M: Tensor) -> "PairScores":
        """Margins of these cosines, given each row's mean cosine to its nearest rows of the other set."""
        x, y = replace(self.x, near=near_x_N), replace(self.y, near=near_y_M)
        if margin == "distance":
            x, y = replace(x, add=x.add - near_x_N / 2), replace(y, add=y.add - near_y_M / 2)
        return replace(self, x=x, y=y, margin=margin)

    def exact(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Scores of the pairs (rows, columns): (p,) float64, larger is nearer."""
        x, y = self.x, self.y
        product_P = pair_products.on(self.backend, x.rows, y.rows, rows, columns, self.metric == "euclidean")
        if self.metric == "euclidean":
            return -product_P.sqrt()
        if self.metric == "dot":
            return product_P
        cosine_P = product_P / (x.square[rows] * y.square[columns]).sqrt()
        if self.margin == "absolute":
            return cosine_P
        assert x.near is not None
        assert y.near is not None
        base_P = (x.near[rows] + y.near[columns]) / 2
        if self.margin == "distance":
            return cosine_P - base_P
        ratio_P = cosine_P / base_P
        if bool(ratio_P.isnan().any()):
            at = int(ratio_P.isnan().nonzero()[0])
            raise ValueError(
                f"the ratio margin of rows {int(rows[at])} and {int(columns[at])} is 0 / 0, as is their mean cosine to "
                'their nearest neighbours; use margin "distance"'
            )
        return ratio_P

    def pictured(self, score_P: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Exact scores of pairs in the units of the picture."""
        if self.metric == "cosine":
            return score_P
        scaled_P = score_P * self.x.weight[rows]
        return -(scaled_P**2) / 2 if self.metric == "euclidean" else scaled_P * self.y.weight[columns]

    def terms(self, rows: slice | Tensor, columns: slice, dtype: torch.dtype) -> Terms:
        """What makes approximate scores of the products of these factors, which are of type `dtype`."""
        x, y = self.x, self.y
        add_B, add_M = x.add[rows].to(dtype), y.add[columns].to(dtype)
        if self.margin != "ratio" or x.near is None or y.near is None:
            return Terms(add_B, add_M)
        return Terms(add_B, add_M, (x.near[rows] / 2).to(dtype), (y.near[columns] / 2).to(dtype))

    def slack(self, dtype: torch.dtype) -> Tensor:
        """A bound on |approximate - exact| over each row of x: (n,) float64, infinite where there is none.

        dtype: of factors, product and terms, float32 or float64.
        """
        x, y, d = self.x, self.y, self.x.rows.shape[1]
        unit, tiny = torch.finfo(dtype).eps / 2, torch.finfo(dtype).tiny
        gamma = (d + 8) * unit / (1 - (d + 8) * unit) if (d + 8) * unit < 0.5 else math.inf
        # sums of d terms in float64 (lengths, terms) and folds of them (norms, exact scores), with their constants
        in_float64 = (4 * d + 4 * d.bit_length() + 32) * 2.0**-53
        terms_N = x.add.abs() + y.add.abs().max()
        slack_N = (
            gamma * x.length * y.length.max()
            + 8 * unit * terms_N
            + in_float64 * (x.size * y.size.max() + 4 * terms_N)
            + 4 * d * tiny  # what the picture loses to underflow, and what exact scores do
            + d * 2.0**-1074 * x.weight * y.weight.max()
        )
        return self._slack_of_ratio(slack_N, unit) if self.margin == "ratio" else slack_N

    def _slack_of_ratio(self, slack_N: Tensor, unit: float) -> Tensor:
        """Of s / h with h = (r_i + r_j) / 2, given that of s, |s| <= 1. It holds for h well above its own rounding.

        |s'/h' - s/h| <= |s' - s| / h' + |s| |h - h'| / (h h') + roundings of s/h, where
        |h - h'| <= 6 u (|r_i| + |r_j|) / 2
        """
        assert self.x.near is not None
        assert self.y.near is not None
        least_N = (self.x.near + self.y.near.min()) / 2
        error_N = 3 * unit * (self.x.near.abs() + self.y.near.abs().max())
        bound_N = 1.1 / least_N * (slack_N + 1.01 * error_N / least_N + 4 * unit)
        return torch.where(least_N > 16 * error_N, bound_N, torch.inf)


def pair_scores(
    x_ND: Tensor, y_MD: Tensor, metric: Metric, names: tuple[str, str], backend: Backend = "auto"
) -> PairScores:
    """The scores between two sets of finite rows, any float type. ValueError names the set and the row that is not.

    The same tensor twice gives the same `Side` twice.
    """
    if metric not in ("cosine", "dot", "euclidean"):
        raise ValueError(f"metric must be cosine, dot or euclidean, not {metric!r}")
    same = is_same(x_ND, y_MD)
    x_ND, square_N = _checked(x_ND, metric, names[0], backend)
    y_MD, square_M = (x_ND, square_N) if same else _checked(y_MD, metric, names[1], backend)
    weight_N, weight_M = _weights(square_N, square_M, metric)
    shift_x_D, shift_y_D = _pilot_mean(x_ND, weight_N), _pilot_mean(y_MD, weight_M)
    if metric == "euclidean":
        shift_x_D = shift_y_D
    if metric == "dot":  # a row much shorter than the mean row would lose by the shift
        shift_x_D, shift_y_D = torch.zeros_like(shift_x_D), torch.zeros_like(shift_y_D)
    x = _side(x_ND, weight_N, shift_x_D, square_N, metric, shift_y_D)
    y = x if same else _side(y_MD, weight_M, shift_y_D, square_M, metric, shift_x_D)
    return PairScores(x, y, metric, backend=backend)


def is_same(x: Tensor, y: Tensor) -> bool:
    """True where two tensors are one matrix in memory."""
    return x is y or (
        x.data_ptr() == y.data_ptr()
        and x.dtype == y.dtype
        and x.shape == y.shape
        and x.stride() == y.stride()
        and x.device == y.device
    )


def _checked(x_ND: Tensor, metric: Metric, name: str, backend: Backend) -> tuple[Tensor, Tensor]:
    """Rows whose squares float64 holds, and these squares |x|^2: (n,) float64."""
    x_ND = x_ND.detach() if x_ND.is_floating_point() else x_ND.detach().double()
    if metric == "cosine" and x_ND.dtype == torch.float64:
        x_ND = _near_one(x_ND)
    own_N = torch.arange(len(x_ND), device=x_ND.device)
    square_N = pair_products.on(backend, x_ND, x_ND, own_N, own_N)
    bad_N = ~torch.isfinite(square_N)
    if bad_N.any():
        row = int(bad_N.nonzero()[0])
        if torch.isfinite(x_ND[row]).all():
            raise ValueError(f"{name}: row {row} is too long: its square is beyond float64; scale the rows")
        raise ValueError(f"{name}: row {row} holds NaN or infinity")
    if metric == "cosine" and (square_N == 0).any():
        raise ValueError(f"{name}: row {int((square_N == 0).nonzero()[0])} is zero; its cosine is undefined")
    return x_ND, square_N


def _near_one(x_ND: Tensor) -> Tensor:
    """float64 rows times powers of two, which change no cosine, where squares might leave the range."""
    low_N, high_N = x_ND.aminmax(dim=1)
    largest_N = torch.maximum(low_N.abs(), high_N.abs())
    regular_N = (largest_N == 0) | ~torch.isfinite(largest_N) | ((largest_N < 2.0**100) & (largest_N > 2.0**-100))
    if regular_N.all():
        return x_ND
    exponent_N = torch.where(regular_N, 0, -torch.frexp(largest_N).exponent)
    half_N = exponent_N // 2  # two steps: 2^1074 itself is beyond float64
    return torch.ldexp(torch.ldexp(x_ND, half_N[:, None]), (exponent_N - half_N)[:, None])


def _weights(square_N: Tensor, square_M: Tensor, metric: Metric) -> tuple[Tensor, Tensor]:
    """Weights of the rows of x and y: 1 / |x|, or one power of two that makes the longest row about 1."""
    if metric == "cosine":
        return square_N.rsqrt(), square_M.rsqrt()
    longest_x, longest_y = math.sqrt(square_N.max()), math.sqrt(square_M.max())
    if metric == "euclidean":
        longest_x = longest_y = max(longest_x, longest_y)
    power_x, power_y = (2.0 ** -math.frexp(longest)[1] for longest in (longest_x, longest_y))
    return torch.full_like(square_N, power_x), torch.full_like(square_M, power_y)


def _pilot_mean(x_ND: Tensor, weight_N: Tensor) -> Tensor:
    """Mean weighted row of an evenly spread sample: (d,). Any vector would be right; this one makes factors short."""
    every = max(1, len(x_ND) // PILOT_ROWS)
    mean_D: Tensor = (x_ND[::every].double() * weight_N[::every, None]).mean(dim=0)
    return mean_D


def _side(
    x_ND: Tensor, weight_N: Tensor, shift_D: Tensor, square_N: Tensor, metric: Metric, other_shift_D: Tensor
) -> Side:
    d = x_ND.shape[1]
    safe = math.sqrt(d) * 2.0**-511  # squares below 2^-1022 vanish
    size_N = (square_N.sqrt() + safe) * weight_N * (1 + 2.0**-30)
    side = Side(x_ND, weight_N, shift_D, square_N, size_N, length=size_N, add=torch.zeros_like(weight_N))
    if metric == "dot":
        return side
    length_N, add_N = torch.empty_like(weight_N), torch.empty_like(weight_N)
    for start in range(0, len(x_ND), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        _, square_B, product_B = side.factors(rows, other_shift_D, torch.float32)
        length_N[rows], add_N[rows] = square_B.sqrt(), product_B
    add_N = -length_N.square() / 2 if metric == "euclidean" else add_N + shift_D @ other_shift_D / 2
    length_N = (length_N + safe) * (1 + 2.0**-30)
    return replace(side, size=torch.ones_like(size_N) if metric == "cosine" else length_N, length=length_N, add=add_N)
