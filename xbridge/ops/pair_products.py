"""Products or squared distances of chosen pairs of rows, in float64 and in one fixed order of summation.

Terms are folded: the second half is added to the first until one is left. The order depends on d alone, so equal rows
have equal sums whatever the block, the number of threads, the backend and the device; the error is at most
gamma_(log2 d + 2) sum |x_t y_t| (Higham, 2002, Accuracy and Stability of Numerical Algorithms, section 4.2).

Shape letters: P pairs, D features.
"""

import torch
from torch import Tensor

from xbridge.ops.dispatch import op

CHUNK_ELEMENTS = 1 << 20  # terms held at once: 8 MB


@op
def pair_products(x: Tensor, y: Tensor, rows: Tensor, columns: Tensor, distances: bool = False) -> Tensor:
    """x[rows] . y[columns], or |x[rows] - y[columns]|^2 with `distances`: (p,) float64.

    x: (n, d), y: (m, d), any float type; rows, columns: (p,) int64. Each entry is converted to float64 first.
    """
    out = torch.zeros(len(rows), dtype=torch.float64, device=x.device)
    if x.shape[1] == 0:
        return out
    chunk = max(1, CHUNK_ELEMENTS // x.shape[1])
    for start in range(0, len(rows), chunk):
        some = slice(start, start + chunk)
        left_PD, right_PD = x[rows[some]].double(), y[columns[some]].double()
        out[some] = fold((left_PD - right_PD).square() if distances else left_PD * right_PD)
    return out


def fold(terms_PD: Tensor) -> Tensor:
    """Sum over the last axis, (p, d) to (p,), by adding its second half to the first until one column is left."""
    while terms_PD.shape[1] > 1:
        width = terms_PD.shape[1]
        half = (width + 1) // 2
        folded = terms_PD[:, :half].clone()
        folded[:, : width - half] += terms_PD[:, half:]
        terms_PD = folded
    return terms_PD[:, 0]
