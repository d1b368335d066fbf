"""G. Is the engine that xbridge chooses the fastest? Twenty points (n, layers, d), each with all engines in a process.

Each case reports, as its answer, the CPU seconds of "auto", "moments" and "gram" (the least of three, taking turns) and
the first over the lower one of the other two, which is 1 when the choice is right and free.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.similarity.data import warm_up
from benchmarks.similarity.measure import Answer, Case, Sizes, Task, cpu_seconds
from xbridge.similarity import cka_matrix

ROWS = (256, 1024, 4096, 10_240)
LAYERS = ((1, 768), (4, 256), (13, 64), (13, 384), (25, 128))
ENGINES = ("auto", "moments", "gram")


def cases(sizes: Sizes, _folder: Path) -> list[Case]:
    """Every number of rows (times `percent`) with every number of layers and width."""
    points = [(max(32, n * sizes["percent"] // 100), layers, d) for n in ROWS for layers, d in LAYERS]
    return [
        Case(
            f"n = {n:,}, {layers} layers, d = {d}",
            lambda n=n, layers=layers, d=d: _engines(n, layers, d, sizes["turns"]),  # type: ignore[misc]
            note="CPU s",
            answers=(*ENGINES, "auto over the better"),
            repeats=1,
        )
        for n, layers, d in points
    ]


def truths(_sizes: Sizes, _folder: Path) -> dict[str, Answer]:
    """None: the answers are times."""
    return {}


def _engines(n: int, layers: int, d: int, turns: int) -> Callable[[], Any]:
    generator = torch.Generator().manual_seed(6)
    code = torch.randn(n, d, generator=generator)
    a = [code + torch.randn(n, d, generator=generator) for _ in range(layers)]
    b = [code + torch.randn(n, d, generator=generator) for _ in range(layers)]
    warm_up()

    def call() -> Answer:
        least = dict.fromkeys(ENGINES, float("inf"))
        for _ in range(turns):
            for engine in ENGINES:
                start = cpu_seconds()
                cka_matrix(a, b, engine=engine)  # type: ignore[call-overload]
                least[engine] = min(least[engine], cpu_seconds() - start)
        return [*least.values(), least["auto"] / min(least["moments"], least["gram"])]

    return call


TASK = Task(
    letter="G",
    title="The choice of engine, linear CKA of two sets of layers",
    full={"percent": 100, "turns": 3},
    quick={"percent": 10, "turns": 1},
    cases=cases,
    truths=truths,
    compares=False,
)
