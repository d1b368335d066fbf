"""Accumulate this rank's share of rows, add up over ranks, and write what rank 0 reads. Run by torchrun."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from cka_layers import states

from xbridge.similarity import GramSums, MinibatchSums, SecondMoments

DIMS = [64, 96, 40]


def layers() -> list[torch.Tensor]:
    return [states(5000, d, r, seed=d).float() for d, r in zip(DIMS, (0.5, 20, 400), strict=True)]


def main(path: str) -> None:
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    # shares of unequal size, cut anywhere; the last of four ranks has no rows
    cuts = {1: [0, 5000], 2: [0, 1777, 5000], 4: [0, 1777, 2048, 5000, 5000]}[world]
    found = {}
    for name, sums, rows in (
        ("moments", SecondMoments(DIMS), slice(cuts[rank], cuts[rank + 1])),
        ("split", SecondMoments(DIMS, split=1), slice(cuts[rank], cuts[rank + 1])),
        ("gram", GramSums(DIMS, kernel="rbf", bandwidth=50.0), slice(cuts[rank] // 10, cuts[rank + 1] // 10)),
        ("minibatch", MinibatchSums(DIMS, batch_size=125), slice(rank * 5000 // world, (rank + 1) * 5000 // world)),
    ):
        sums.update([x[rows] for x in layers()])
        sums.all_reduce()
        found[name] = {"n": sums.num_examples, "cka": sums.cka().tolist()}
    if rank == world - 1:
        Path(path).write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
