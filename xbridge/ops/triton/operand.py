"""Rows in the form that the dot products of the kernels read: 16 bit, row length a multiple of 16 bytes.

Two float16 planes (`prepare`, split) keep 22 bits of each entry, at three passes of the 16-bit rate, where one TF32
pass would keep 11 bits at half that rate. One float16 plane keeps 11 bits, in one pass. Rows are scaled by a power of
two that brings the largest entry near 2^14: the small plane stays normal. 16-bit rows can be taken as they are: their
products are exact.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from xbridge.ops.triton import configs
from xbridge.ops.triton.device import NARROW, on_device
from xbridge.ops.triton.prepare import prepare

LARGEST_EXPONENT = 14  # float16 overflows at 2^16; the sum of two planes must not
UNIT_ROUNDING = 2.0**-23


@dataclass(frozen=True)
class Operand:
    """`rows` hold x * 2^exponent; `back`: the columns of a plane where there are two, else 0."""

    rows: Tensor
    """(n, width) float16 or bfloat16, contiguous"""
    back: int
    exponent: int

    @property
    def width8(self) -> int:
        """Columns of the stored rows / 8."""
        return self.rows.shape[1] // 8

    @property
    def back8(self) -> int:
        """Columns of a plane / 8 where there are two, else 0."""
        return self.back // 8

    @property
    def dot_rounding(self) -> float:
        """Bound of |computed - exact| / (|x| |y|) of a dot product: tensor cores add 8 terms at a time, truncating."""
        plane = self.rows.shape[1] - self.back
        return ((plane + 2 * self.back) / 8 + 8) * UNIT_ROUNDING


def as_is(x: Tensor) -> Operand:
    """x: (n, d) float16 or bfloat16, taken as it is."""
    assert x.dtype in NARROW
    return Operand(pad(x.detach(), (0, -x.shape[1] % 8)).contiguous(), back=0, exponent=0)


def operand(x: Tensor, shift: Tensor, scale: float, *, split: bool) -> Operand:
    """(x - shift) * scale of x (n, d), any float type, d >= 1, shift (d,), in one float16 plane or in two.

    A row that is not finite stays so, and its norm shows it: see `squared_norms`.
    """
    exponent = _common_exponent(x, shift, scale)
    rows = prepare(x, shift, scale * 2.0**exponent, torch.float16, split=split).rows
    return Operand(rows, back=rows.shape[1] // 2 if split else 0, exponent=exponent)


def _common_exponent(x: Tensor, shift: Tensor, scale: float) -> int:
    """The power of two that brings the largest entry just below 2^14; within what float32 can scale by."""
    low, high = x.detach().aminmax(dim=0)
    largest = scale * float(torch.maximum((low.double() - shift).abs(), (high.double() - shift).abs()).max())
    if largest == 0 or not math.isfinite(largest):
        return 0
    return max(-100, min(100, LARGEST_EXPONENT - math.frexp(largest)[1]))


def squared_norms(held: Operand, name: str) -> Tensor:
    """|operand row|^2, (n,) float32, by the products that the tile kernels use: equal rows are at distance 0 exactly.

    Raises ValueError for a row with NaN or infinity, or too long for float32; `name` says whose row it is.
    """
    from xbridge.ops.triton.kernels.gram import gram_diagonal_kernel

    n = len(held.rows)
    blocks = configs.fitting(configs.GRAM_DIAGONAL, held.rows.device)
    norms = torch.empty(n, dtype=torch.float32, device=held.rows.device)
    with on_device(norms):
        gram_diagonal_kernel[(-(-n // blocks.rows),)](
            held.rows, norms, n, held.width8, held.back8, ROWS=blocks.rows, DEPTH=blocks.depth,
            num_warps=blocks.num_warps, num_stages=blocks.num_stages,
        )  # fmt: skip
    finite = torch.isfinite(norms)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        whole = bool(torch.isfinite(held.rows[row]).all())
        raise ValueError(
            f"{name}: row {row} " + ("is too long for float32: scale it" if whole else "holds NaN or infinity")
        )
    return norms
