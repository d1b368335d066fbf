"""How many dimensions a set of vectors fills: from its principal variances, or from its nearest neighbours."""

import torch
from torch import Tensor

from xbridge.ops.margin_topk import nearest
from xbridge.similarity.rows import Rows, as_rows, standardise


def spectrum(x: Rows) -> Tensor:
    """Principal variances of x: (n, d), divided by n, falling: (min(n, d),) float64, in squared units of x."""
    rows, scale = standardise(as_rows(x, "x"), "x")
    variances: Tensor = torch.linalg.svdvals(rows).square() * (scale**2 / len(rows))
    return variances


def participation_ratio(x: Rows) -> float:
    """(sum_i v_i)^2 / sum_i v_i^2 of the principal variances v of x: (n, d), from 1 (a line) to min(n - 1, d).

    With fewer rows than a few times its value it is biased downwards: n Gaussian rows of d equal variances give about
    1 / (1 / d + 1 / n). Invariant to shift, scale and rotation.
    """
    variances = spectrum(x)
    shares = variances / variances.sum()
    return float(1 / shares.square().sum())


def effective_rank(x: Rows) -> float:
    """exp(entropy of s_i / sum_j s_j) of the singular values s of centred x: (n, d) (Roy and Vetterli, 2007).

    From 1 (a line) to min(n - 1, d), natural logarithm. Note that it weighs standard deviations, `participation_ratio`
    variances. Invariant to shift, scale and rotation.
    """
    singular = spectrum(x).sqrt()
    return float(torch.special.entr(singular / singular.sum()).sum().exp())


def two_nn(x: Rows) -> float:
    """Intrinsic dimension from the ratio of the distances to the two nearest neighbours (Facco et al., 2017).

    x: (n, d). The ratios r_2 / r_1 follow a Pareto law whose exponent is the dimension, where density hardly changes
    over two neighbours; the estimate is (n - 1) / sum_i ln(r_2 / r_1), unbiased under that law with independent ratios.
    Its relative standard error is about 1 / sqrt(n). Edges pull it down: 3,000 rows that fill a cube of 5 dimensions
    evenly give about 4.5.
    Distances are rounded to float32. ValueError for n < 3, and where a row has a duplicate, r_1 = 0.
    """
    rows, _ = standardise(as_rows(x, "x"), "x")
    if len(rows) < 3:
        raise ValueError(f"x: {len(rows)} rows; two neighbours need at least 3")
    distance = nearest(rows, rows, 2, metric="euclidean", exclude_self=True)[0].double()
    first, second = distance[:, 0], distance[:, 1]
    if (first == 0).any():
        raise ValueError(f"x: row {int((first == 0).nonzero()[0])} has a duplicate; remove duplicates first")
    total = (second / first).log().sum()
    if total == 0:
        raise ValueError("x: every row is equally far from its two nearest neighbours; the dimension is undefined")
    return float((len(rows) - 1) / total)
