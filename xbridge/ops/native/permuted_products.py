"""`permuted_products` in C++ (csrc/cpu/permuted_products.cpp): one look-up by a permutation serves all pairs."""

import torch
from torch import Tensor

from xbridge.ops.native import why_unavailable


def why_not(k: Tensor, l: Tensor, orders: Tensor) -> str:  # noqa: E741
    """See `xbridge.ops.permuted_products.permuted_products`."""
    if k.device.type != "cpu":
        return f"there is no kernel for {k.device.type} tensors"
    if k.dtype != torch.float32 or l.dtype != torch.float32:
        return f"it takes float32 matrices, not {k.dtype} and {l.dtype}"
    return why_unavailable()


def permuted_products(k: Tensor, l: Tensor, orders: Tensor) -> Tensor:  # noqa: E741
    """See `xbridge.ops.permuted_products.permuted_products`."""
    found: Tensor = torch.ops.xbridge.permuted_products(k.contiguous(), l.contiguous(), orders.contiguous())
    return found


def _shape(k: Tensor, l: Tensor, orders: Tensor) -> Tensor:  # noqa: E741
    return k.new_empty(orders.shape[0], k.shape[0], l.shape[0], dtype=torch.float64)


if not why_unavailable():
    torch.library.register_fake("xbridge::permuted_products", _shape)
