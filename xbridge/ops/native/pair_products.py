"""`pair_products` in C++ (csrc/cpu/pair_products.cpp): the same bits as the definition."""

import torch
from torch import Tensor

from xbridge.ops.native import why_unavailable

CHUNK_ELEMENTS = 1 << 20  # entries of 16-bit rows that are converted at once


def why_not(x: Tensor, y: Tensor, rows: Tensor, columns: Tensor, distances: bool = False) -> str:
    """See `xbridge.ops.pair_products.pair_products`."""
    if x.device.type != "cpu":
        return f"there is no kernel for {x.device.type} tensors"
    if x.shape[1] == 0:
        return "rows without features have no products"
    return why_unavailable()


def pair_products(x: Tensor, y: Tensor, rows: Tensor, columns: Tensor, distances: bool = False) -> Tensor:
    """See `xbridge.ops.pair_products.pair_products`."""
    out = torch.empty(len(rows), dtype=torch.float64)
    rows, columns = rows.contiguous(), columns.contiguous()
    if x.dtype == y.dtype and x.dtype in (torch.float32, torch.float64):
        torch.ops.xbridge.pair_products(_row_major(x), _row_major(y), rows, columns, distances, out)
        return out
    wide = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    chunk = max(1, CHUNK_ELEMENTS // x.shape[1])
    for start in range(0, len(rows), chunk):
        some = slice(start, start + chunk)
        left, right = x[rows[some]].to(wide), y[columns[some]].to(wide)
        own = torch.arange(len(left))
        torch.ops.xbridge.pair_products(left, right, own, own, distances, out[some])
    return out


def _row_major(x: Tensor) -> Tensor:
    return x if x.shape[1] == 1 or x.stride(1) == 1 else x.contiguous()
