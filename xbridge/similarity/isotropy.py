"""How evenly a set of vectors uses its space."""

import torch
from torch import Tensor

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
    return _isoscore(variances)


def isoscore_star(x: Rows, shrinkage_covariance: Tensor, *, zeta: float) -> float:
    """IsoScore* (Rudman and Eickhoff, 2024, algorithm 1): IsoScore of a covariance shrunk towards that of more data.

    x: (n, d), few rows, a batch say; shrinkage_covariance: (d, d), of a larger sample, in squared units of x and
    divided by its n; zeta in [0, 1]: the score is that of the eigenvalues of (1 - zeta) C_x + zeta C. With n near d or
    less, `isoscore` of the rows alone is too low.
    """
    rows, scale = standardise(as_rows(x, "x"), "x")
    d = rows.shape[1]
    if d < 2:
        raise ValueError(f"x: {d} feature; isotropy needs at least two")
    if shrinkage_covariance.shape != (d, d):
        raise ValueError(f"shrinkage_covariance: expected {(d, d)}, got {tuple(shrinkage_covariance.shape)}")
    if not 0 <= zeta <= 1:
        raise ValueError(f"zeta must be in [0, 1], got {zeta}")
    own = rows.T @ rows / len(rows)
    return _isoscore(torch.linalg.eigvalsh((1 - zeta) * own + zeta * shrinkage_covariance.double() / scale**2))


def partition_isotropy(x: Rows) -> float:
    """min_c Z(c) / max_c Z(c), Z(c) = sum_i exp(c . x_i): 1 is isotropic, near 0 is not, in (0, 1].

    Mu and Viswanath (2018), equation 5, after Arora et al. (2016), c over the unit eigenvectors of X'X. Eigenvectors
    have no sign, so both of each are taken. x: (n, d), not centred. It is in the units of x: rescaling changes it, so
    compare layers only after giving rows the same length. Invariant to rotation, not to shift or scale; sums of
    exponentials are taken by their logarithms, so large activations do not overflow.
    """
    rows = as_rows(x, "x")
    if len(rows) == 0:
        raise ValueError("x: no rows")
    if not rows.any():
        raise ValueError(f"x: all {len(rows)} rows are zero; no direction is defined")
    largest = rows.abs().max()
    _, _, directions = torch.linalg.svd(rows / largest, full_matrices=rows.shape[1] > len(rows))
    projected = rows @ directions.T
    log_partition = torch.cat([projected.logsumexp(dim=0), (-projected).logsumexp(dim=0)])
    return float((log_partition.min() - log_partition.max()).exp())


def _isoscore(variances: Tensor) -> float:
    """The score of d principal variances, in any order and unit."""
    d = len(variances)
    root = float(d) ** 0.5
    scaled = variances * (root / variances.norm())
    delta = float((scaled - 1).norm()) / float(2 * (d - root)) ** 0.5
    phi = float(d - delta**2 * (d - root)) ** 2 / d**2
    return (d * phi - 1) / (d - 1)
