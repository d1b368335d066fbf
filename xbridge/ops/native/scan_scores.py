"""`scan_scores` in C++ (csrc/cpu/neighbours.cpp): one comparison per score, lists pruned only when they are full."""

import torch

from xbridge.ops.native import why_unavailable
from xbridge.ops.scan_scores import Block, Lists


def why_not(block: Block, lists: Lists, k: int, first: int, by_column: bool) -> str:
    """See `xbridge.ops.scan_scores.scan_scores`."""
    if block.values_BM.device.type != "cpu":
        return f"there is no kernel for {block.values_BM.device.type} tensors"
    return why_unavailable()


def scan_scores(block: Block, lists: Lists, k: int, first: int, by_column: bool) -> None:
    """See `xbridge.ops.scan_scores.scan_scores`."""
    none = block.add_rows_B[:0]
    torch.ops.xbridge.scan_scores(
        block.values_BM,
        block.add_rows_B,
        block.add_columns_M,
        none if block.divide_rows_B is None else block.divide_rows_B,
        none if block.divide_columns_M is None else block.divide_columns_M,
        by_column,
        first,
        k,
        lists.slack_L,
        lists.scores_LC,
        lists.indices_LC,
        lists.counts_L,
        lists.thresholds_L,
    )
