"""`gram_sums` in Triton: all kernel matrices as tiles that never leave the chip, or leave it in 16 bit for one panel.

Two layers: one launch, both tiles in registers, three products (`gram_pair`). Any other number: panels of up to
2048 x 2048 entries, each layer's tile once, float16 entries in a workspace V (S, entries), then M += V V^T by tensor
cores (`gram_panel`, `panel_syrk`), so that S layers cost S Gram matrices and not S^2.

Entries are held as v = (k - kappa) 2^p: kappa is near the mean of k where that is large, so that float16 keeps k's
variation, and p lets the largest reach 2^14. Both are undone here, in float64, from products and row sums of one v:

    sum_{i != j} k l = sum v w / 2^(p+q) + kappa' sum w / 2^q + kappa sum v / 2^p + kappa kappa' n (n - 1)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from xbridge.ops.gram_sums import GramTotals, TileKernel
from xbridge.ops.triton import configs
from xbridge.ops.triton.device import NARROW, on_device, why_not_here
from xbridge.ops.triton.operand import Operand, operand, squared_norms

VALUE_BOUND_EXPONENT = 14
# 16-bit rows this many or more keep 11 bits of the shifted entry: with features of 100 sigma that moved linear CKA by
# up to 9e-7 at 16384 rows, and the rounding averages out with the root of their number.
ONE_PLANE_FROM = 65536
PILOT_ROWS = 256
SMALL_MEAN = 0.05  # below it, subtracting a mean known to a few per cent costs more digits than it saves
WORKSPACE_BYTES = 512 << 20
MAX_TILES = 1 << 20  # per launch of gram_pair: 12 MB of partial sums


@dataclass(frozen=True)
class Layer:
    """One layer on its way through the kernels."""

    operand: Operand
    norms: Tensor
    """(n,) float32, of the operand's rows: scaled by 2^(2 exponent)"""
    gamma_log2e: float
    """of the operand's rows"""
    kappa: float
    """subtracted from every kernel value; of the operand's rows for a linear kernel"""
    scale: float
    """power of two that multiplies what is left"""
    unit: float
    """kernel value that one unit of v stands for"""


def why_not(
    layers: Sequence[Tensor],
    shifts: Sequence[Tensor],
    scales: Sequence[float],
    kernel: TileKernel,
    gammas: Sequence[float],
) -> str:
    """See `xbridge.ops.gram_sums.gram_sums`."""
    for x in layers:
        if x.dtype not in (torch.float32, *NARROW):
            return f"it takes float32, float16 or bfloat16 rows, not {x.dtype}"
    if kernel not in ("linear", "rbf", "laplacian"):
        return f"there is no {kernel} kernel"
    if not layers or min(layers[0].shape) == 0:
        return "there are no rows"
    return why_not_here(layers)


def gram_sums(
    layers: Sequence[Tensor],
    shifts: Sequence[Tensor],
    scales: Sequence[float],
    kernel: TileKernel,
    gammas: Sequence[float],
) -> GramTotals:
    """See `xbridge.ops.gram_sums.gram_sums`. Bitwise repeatable. Raises ValueError for a row that is not finite."""
    given = zip(layers, shifts, scales, gammas, strict=True)
    held = [_layer(x, shift, scale, kernel, gamma, f"layer {i}") for i, (x, shift, scale, gamma) in enumerate(given)]
    device, n = layers[0].device, len(layers[0])
    fixed_point = 62 - VALUE_BOUND_EXPONENT - max(1, n - 1).bit_length()
    row_sums = torch.zeros(len(held), n, dtype=torch.int64, device=device)
    run = _pair if len(held) == 2 else _panels
    with on_device(layers[0]):
        products = run(held, kernel, row_sums, 2.0**fixed_point)
    return GramTotals(*_undo(held, 2 * products, row_sums.double() / 2.0**fixed_point))


def _undo(held: Sequence[Layer], products: Tensor, row_sums: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of k from sums of v over i != j: (S, S), (S, n) float64, both ways."""
    _, n = row_sums.shape
    unit = torch.tensor([layer.unit for layer in held], dtype=torch.float64, device=products.device)
    kappa = torch.tensor([layer.kappa for layer in held], dtype=torch.float64, device=products.device)
    products, row_sums = products * unit[:, None] * unit[None, :], row_sums * unit[:, None]
    totals = row_sums.sum(1)
    cross = kappa[:, None] * totals[None, :]
    return products + cross + cross.T + torch.outer(kappa, kappa) * (n * (n - 1)), row_sums + kappa[:, None] * (n - 1)


def _layer(x: Tensor, shift: Tensor, scale: float, kernel: TileKernel, gamma: float, name: str) -> Layer:
    shift = shift.to(x.device)
    held = operand(x, shift, scale, split=x.dtype not in NARROW or len(x) < ONE_PLANE_FROM)
    norms = squared_norms(held, name)
    if kernel == "linear":  # |k_ij| <= max_i |x_i|^2
        down = math.frexp(float(norms.max()))[1]
        up = 2.0 ** max(-120, min(120, VALUE_BOUND_EXPONENT - down))
        return Layer(held, norms, 0.0, 0.0, up, unit=2.0 ** (-2 * held.exponent) / up)
    gamma_log2e = gamma * math.log2(math.e) * 2.0 ** (-held.exponent * (2 if kernel == "rbf" else 1))
    mean = _pilot_mean(x, shift, scale, kernel, gamma)
    kappa = mean if mean >= SMALL_MEAN else 0.0
    kappa = float(torch.tensor(kappa, dtype=torch.float32))  # what the kernel subtracts, to the last bit
    up = 2.0**VALUE_BOUND_EXPONENT
    return Layer(held, norms, gamma_log2e, kappa, up, unit=1 / up)


def _pilot_mean(x: Tensor, shift: Tensor, scale: float, kernel: TileKernel, gamma: float) -> float:
    """Mean of k over the pairs of a few rows at even steps, from the first to the last."""
    n = len(x)
    if n < 2:
        return 0.0
    rows = torch.linspace(0, n - 1, min(n, PILOT_ROWS), dtype=torch.float64).round().long()
    pilot = (x.detach()[rows.to(x.device)].double() - shift) * scale
    distance = torch.cdist(pilot, pilot)
    values = torch.exp(-gamma * (distance.square() if kernel == "rbf" else distance))
    return float((values.sum() - len(rows)) / (len(rows) * (len(rows) - 1)))


def _pair(held: Sequence[Layer], kernel: TileKernel, row_sums: Tensor, to_fixed: float) -> Tensor:
    """Sums of v w over i < j, (2, 2) float64; adds to row_sums (2, n)."""
    from xbridge.ops.triton.kernels.gram import gram_pair_kernel

    x, y = held
    n = row_sums.shape[1]
    blocks = configs.fitting(configs.GRAM_PAIR, row_sums.device)
    num_blocks = -(-n // blocks.rows)
    panel = min(configs.PANEL_TILES, num_blocks)
    panels = _triangle(-(-num_blocks // panel))
    per_launch = max(1, MAX_TILES // panel**2)
    total = torch.zeros(3, dtype=torch.float64, device=row_sums.device)
    for first in range(0, panels, per_launch):
        tiles = min(per_launch, panels - first) * panel**2
        sums = torch.empty(tiles, 3, dtype=torch.float32, device=row_sums.device)
        gram_pair_kernel[(tiles,)](
            x.operand.rows, y.operand.rows, x.norms, y.norms, sums, row_sums[0], row_sums[1],
            n, first, num_blocks, x.operand.width8, x.operand.back8, y.operand.width8, y.operand.back8,
            x.gamma_log2e, x.kappa, x.scale, y.gamma_log2e, y.kappa, y.scale, to_fixed,
            KERNEL=kernel, BLOCK=blocks.rows, DEPTH=blocks.depth, PANEL=panel,
            num_warps=blocks.num_warps, num_stages=blocks.num_stages,
        )  # fmt: skip
        total += sums.sum(0, dtype=torch.float64)
    return total[[0, 1, 1, 2]].view(2, 2)


def _panels(held: Sequence[Layer], kernel: TileKernel, row_sums: Tensor, to_fixed: float) -> Tensor:
    """Sums of v w over i < j of all pairs, (S, S) float64; adds to row_sums (S, n)."""
    from xbridge.ops.triton.kernels.gram import gram_panel_kernel, panel_syrk_kernel

    S, n = row_sums.shape
    blocks = configs.fitting(configs.GRAM_PANEL, row_sums.device)
    num_blocks, tile = -(-n // blocks.rows), blocks.rows * blocks.cols
    side = min(num_blocks, configs.PANEL_TILES, max(1, math.isqrt(WORKSPACE_BYTES // (2 * S * tile))))
    table = _table(held, row_sums.device)
    low = n < configs.SPLIT_VALUES_BELOW
    planes = 2 if low else 1
    syrk = configs.fitting(configs.PANEL_SYRK_SPLIT if low else configs.PANEL_SYRK, row_sums.device, planes)
    capacity = side * side * tile
    values = torch.empty(planes, S, capacity, dtype=torch.float16, device=row_sums.device)
    slots = torch.zeros(capacity // configs.SYRK_ENTRIES, S, S, dtype=torch.float64, device=row_sums.device)
    for first_i, first_j, num_i, num_j in _panel_list(num_blocks, side):
        on_diagonal = first_i == first_j
        tiles = _triangle(num_j) if on_diagonal else num_i * num_j
        gram_panel_kernel[(tiles, S)](
            *table, values, row_sums,
            n, first_i, first_j, num_j, int(on_diagonal), capacity, S * capacity, to_fixed,
            LOW=low, KERNEL=kernel, BLOCK=blocks.rows, DEPTH=blocks.depth,
            num_warps=blocks.num_warps, num_stages=blocks.num_stages,
        )  # fmt: skip
        grid = (tiles * tile // configs.SYRK_ENTRIES, _triangle(-(-S // syrk.rows)))
        panel_syrk_kernel[grid](
            values, slots, S, capacity, S * capacity,
            ENTRIES=configs.SYRK_ENTRIES, LOW=low, BLOCK=syrk.rows, DEPTH=syrk.depth,
            num_warps=syrk.num_warps, num_stages=syrk.num_stages,
        )  # fmt: skip
    products = slots.sum(0)
    return products.triu() + products.triu(1).T


class _Table(NamedTuple):
    """What gram_panel reads about each of S layers."""

    addresses: Tensor  # (S,) int64
    widths: Tensor  # (S, 2) int32
    params: Tensor  # (S, 3) float32
    norms: Tensor  # (S, n) float32


def _table(held: Sequence[Layer], device: torch.device) -> _Table:
    return _Table(
        torch.tensor([layer.operand.rows.data_ptr() for layer in held], device=device),
        torch.tensor([(layer.operand.width8, layer.operand.back8) for layer in held], dtype=torch.int32, device=device),
        torch.tensor(
            [(layer.gamma_log2e, layer.kappa, layer.scale) for layer in held], dtype=torch.float32, device=device
        ),
        torch.stack([layer.norms for layer in held]),
    )


def _panel_list(num_blocks: int, side: int) -> list[tuple[int, int, int, int]]:
    """First tile down and across, and tiles down and across, of every panel on or above the diagonal."""
    firsts = range(0, num_blocks, side)
    return [(i, j, min(side, num_blocks - i), min(side, num_blocks - j)) for j in firsts for i in firsts if i <= j]


def _triangle(n: int) -> int:
    return n * (n + 1) // 2
