"""`scan_products` in C++ (csrc/cpu/neighbours.cpp): a tile of products is scanned while it is in the cache."""

import torch
from torch import Tensor

from xbridge.ops.native import why_unavailable
from xbridge.ops.scan_products import Lists, Terms


def why_not(
    left: Tensor,
    right: Tensor,
    terms: Terms,
    forward: Lists,
    backward: Lists | None,
    k: tuple[int, int],
    first: tuple[int, int],
    exclude_self: bool,
) -> str:
    """See `xbridge.ops.scan_products.scan_products`."""
    if left.device.type != "cpu":
        return f"there is no kernel for {left.device.type} tensors"
    return why_unavailable()


def scan_products(
    left: Tensor,
    right: Tensor,
    terms: Terms,
    forward: Lists,
    backward: Lists | None,
    k: tuple[int, int],
    first: tuple[int, int],
    exclude_self: bool,
) -> None:
    """See `xbridge.ops.scan_products.scan_products`."""
    none = terms.add_rows[:0]
    divide_rows, divide_columns = (none if x is None else x for x in (terms.divide_rows, terms.divide_columns))
    torch.ops.xbridge.scan_products(
        left,
        right,
        [terms.add_rows, terms.add_columns, divide_rows, divide_columns],
        _tensors(forward),
        [] if backward is None else _tensors(backward),
        list(k),
        list(first),
        exclude_self,
    )


def _tensors(lists: Lists) -> list[Tensor]:
    return [lists.slack, lists.scores, lists.indices, lists.counts, lists.thresholds]
