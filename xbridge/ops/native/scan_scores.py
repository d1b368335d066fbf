"""`scan_scores` in C++ (csrc/cpu/neighbours.cpp): one comparison per score, lists pruned only when they are full."""

import torch

from xbridge.ops.native import why_unavailable
from xbridge.ops.scan_scores import Block, Lists


def why_not(block: Block, lists: Lists, k: int, first: int, by_column: bool) -> str:
    """See `xbridge.ops.scan_scores.scan_scores`."""
    if block.values.device.type != "cpu":
        return f"there is no kernel for {block.values.device.type} tensors"
    return why_unavailable()


def scan_scores(block: Block, lists: Lists, k: int, first: int, by_column: bool) -> None:
    """See `xbridge.ops.scan_scores.scan_scores`."""
    none = block.add_rows[:0]
    torch.ops.xbridge.scan_scores(
        block.values,
        block.add_rows,
        block.add_columns,
        none if block.divide_rows is None else block.divide_rows,
        none if block.divide_columns is None else block.divide_columns,
        by_column,
        first,
        k,
        lists.slack,
        lists.scores,
        lists.indices,
        lists.counts,
        lists.thresholds,
    )
