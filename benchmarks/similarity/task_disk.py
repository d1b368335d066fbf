"""E. Linear CKA between all layers of a set of files that need not fit in memory.

The files are dropped from the page cache before every call (Linux), so that they are read from the disk. "Extra memory"
is what the process allocates; it must not grow with the rows. The limit is the slower one of reading the files and of
the needed products.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.similarity.data import corner, warm_up
from benchmarks.similarity.measure import Answer, Case, Sizes, Task
from xbridge.similarity import cka_matrix

WRITE_ROWS = 50_000


def set_up(sizes: Sizes, folder: Path) -> None:
    """One .npy file per layer: (n, d) float32, sharing a code."""
    shape = (sizes["n"], sizes["d"])
    files = [np.lib.format.open_memmap(path, "w+", np.float32, shape) for path in _paths(sizes, folder)]
    random = np.random.default_rng(5)
    for start in range(0, sizes["n"], WRITE_ROWS):
        rows = slice(start, min(sizes["n"], start + WRITE_ROWS))
        block = (rows.stop - start, sizes["d"])
        code = random.standard_normal(block, dtype=np.float32)
        for file in files:
            file[rows] = code + random.standard_normal(block, dtype=np.float32) + 3
    for file in files:
        file.flush()


def cases(sizes: Sizes, folder: Path) -> list[Case]:
    """All rows, a quarter of them, and the two limits."""
    bytes_read = sizes["layers"] * sizes["n"] * sizes["d"] * 4
    flops = sizes["layers"] * (sizes["layers"] + 1) * sizes["n"] * sizes["d"] ** 2
    return [
        Case("xbridge cka_matrix from memory maps", lambda: _ours(sizes, folder, sizes["n"]), truth="itself"),
        Case("xbridge, the first quarter of the rows", lambda: _ours(sizes, folder, sizes["n"] // 4),
             note="a quarter, for its memory"),
        Case("reading the files, 8 MB at a time", lambda: _read(sizes, folder), note=f"{bytes_read / 1e9:.1f} GB"),
        Case("the needed products alone (torch.mm)", lambda: _products(sizes), note=f"{flops / 1e12:.2f} TFLOP"),
    ]  # fmt: skip


def truths(sizes: Sizes, folder: Path) -> dict[str, Answer]:
    """A layer's CKA with itself is 1; what it is with others is checked where the rows fit in memory (A)."""
    del sizes, folder
    return {"itself": [1.0]}


def _paths(sizes: Sizes, folder: Path) -> list[Path]:
    return [folder / f"layer{index:02d}.npy" for index in range(sizes["layers"])]


def _drop_from_cache(paths: list[Path]) -> None:
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def _ours(sizes: Sizes, folder: Path, n: int) -> Callable[[], Any]:
    warm_up()
    paths = _paths(sizes, folder)
    maps = [np.load(path, mmap_mode="r")[:n] for path in paths]
    _drop_from_cache(paths)
    return lambda: corner(cka_matrix(maps))


def _read(sizes: Sizes, folder: Path) -> Callable[[], Any]:
    paths = _paths(sizes, folder)
    buffer = bytearray(8 << 20)
    _drop_from_cache(paths)

    def call() -> float:
        for path in paths:
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
        return 0.0

    return call


def _products(sizes: Sizes) -> Callable[[], Any]:
    """The upper triangle of blocks, over rows in memory, as many times as there are rows."""
    layers, d = sizes["layers"], sizes["d"]
    rows = min(sizes["n"], 8192)
    x = torch.randn(rows, layers * d)
    sums = torch.zeros(layers * d, layers * d)

    def call() -> float:
        for _ in range(sizes["n"] // rows):
            for i in range(layers):
                left = x[:, i * d : (i + 1) * d]
                sums[i * d : (i + 1) * d, i * d :].addmm_(left.T, x[:, i * d :])
        return 0.0

    return call


TASK = Task(
    letter="E",
    title="Linear CKA of all layers, from files",
    full={"n": 200_000, "d": 256, "layers": 12},
    quick={"n": 20_000, "d": 64, "layers": 4},
    cases=cases,
    truths=truths,
    set_up=set_up,
)
