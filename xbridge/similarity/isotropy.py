"""How evenly a set of vectors uses its space."""

import torch

from xbridge.similarity.rows import Rows, as_rows, standardise


def mean_cosine(x: Rows) -> float:
    """Mean cosine over all ordered pairs of different rows, in [-1/(n-1), 1] (Ethayarajh, 2019, "average cosine").

    x: (n, d), not centred. (|sum of unit rows|^2 - n) / (n (n - 1)); cost n d. Invariant to scale and rotation.
    """
    rows = as_rows(x, "x")
    if len(rows) < 2:
        raise ValueError(f"x: {len(rows)} rows; a pair needs two")
    length = rows.norm(dim=1, keepdim=True)
    if (length == 0).any():
        raise ValueError(f"x: row {int((length[:, 0] == 0).nonzero()[0])} is zero; its cosine is undefined")
    n = len(rows)
    return float(((rows / length).sum(dim=0).square().sum() - n) / (n * (n - 1)))


def isoscore(x: Rows) -> float:
    """IsoScore (Rudman et al., 2022, algorithm 1): 1 when all principal variances are equal, 0 for a line.

    x: (n, d), d >= 2. With v the principal variances, scaled to |v| = sqrt(d), delta = |v - 1| / sqrt(2 (d - sqrt d))
    and phi = (d - delta^2 (d - sqrt d))^2 / d^2, the score is (d phi - 1) / (d - 1). Invariant to shift, scale and
    rotation.
    """
    rows, _ = standardise(as_rows(x, "x"), "x")
    d = rows.shape[1]
    if d < 2:
        raise ValueError(f"x: {d} feature; isotropy needs at least two")
    variances = torch.zeros(d, dtype=torch.float64)
    singular = torch.linalg.svdvals(rows)
    variances[: len(singular)] = singular.square()
    scaled = variances * (float(d) ** 0.5 / variances.norm())
    root = float(d) ** 0.5
    delta = float((scaled - 1).norm()) / float(2 * (d - root)) ** 0.5
    phi = float(d - delta**2 * (d - root)) ** 2 / d**2
    return (d * phi - 1) / (d - 1)
