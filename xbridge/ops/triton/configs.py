"""Block sizes of the kernels, in one place: the launchers and the check that compiles without a GPU both read them.

Each kernel has its choices in order of preference; a device gets the first whose operand tiles fit its shared memory.
"""

from dataclasses import dataclass

import torch

OPERAND_BYTES = 2


@dataclass(frozen=True)
class Blocks:
    """A tile of `rows` x `cols` outputs; operands pass in steps of `depth` through `num_stages` buffers."""

    rows: int
    cols: int
    depth: int
    num_warps: int
    num_stages: int

    @property
    def shared_bytes(self) -> int:
        """Shared memory of the pipelined operand tiles."""
        return self.num_stages * self.depth * (self.rows + self.cols) * OPERAND_BYTES


GRAM_PAIR = (Blocks(128, 128, 64, 8, 3), Blocks(128, 128, 32, 8, 3))
GRAM_PANEL = (Blocks(128, 128, 64, 8, 4), Blocks(128, 128, 32, 8, 3))
GRAM_DIAGONAL = (Blocks(128, 128, 64, 8, 3), Blocks(128, 128, 32, 8, 3))
PANEL_SYRK = (Blocks(64, 64, 128, 4, 4), Blocks(64, 64, 64, 4, 3))
PANEL_SYRK_SPLIT = (Blocks(64, 64, 64, 4, 4), Blocks(64, 64, 32, 4, 3))
TILE_MAX = (Blocks(128, 256, 64, 8, 3), Blocks(128, 256, 32, 8, 2))
RESCORE = {  # by the width of the tiles that are computed again: column tiles, row tiles
    256: (Blocks(64, 256, 64, 8, 3), Blocks(64, 256, 32, 8, 2)),
    128: (Blocks(128, 128, 64, 8, 3), Blocks(128, 128, 32, 8, 3)),
}
INGEST = Blocks(64, 64, 0, 8, 1)

PLANE_MULTIPLE = 64  # columns of one plane of split rows: no step of any kernel crosses two planes
TILE_MAX_GROUP = 8  # row tiles that pass over the columns together
PANEL_TILES = 16  # tiles along either side of a panel: its operand rows stay in the second-level cache
SPLIT_VALUES_BELOW = 16384  # rows; from there on the rounding of float16 entries averages out, below 1e-7 in CKA
SYRK_ENTRIES = 8192  # kernel entries per partial product of panel_syrk


def fitting(choices: tuple[Blocks, ...], device: torch.device, planes: int = 1) -> Blocks:
    """The first of `choices` that fits the device; the first of all on the CPU, where only the interpreter runs.

    `planes`: how many tiles of each operand a step holds.
    """
    if device.type == "cpu":
        return choices[0]
    properties = torch.cuda.get_device_properties(device)
    limit = getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block)  # absent on ROCm
    return next((blocks for blocks in choices if planes * blocks.shared_bytes <= limit), choices[-1])
