"""One timed call in a process of its own: CPU and wall seconds, memory, and the answer.

A case is prepared (data made, libraries imported, kernels compiled and warmed up on little data), then called once. CPU
seconds are of the process, all threads, user and system: they bear other work on the machine better than wall seconds
do. Memory is what the process allocates itself (RssAnon), sampled: files mapped into it do not count.
"""

import gc
import json
import os
import resource
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.apart import Failed, measured_apart

Sizes = dict[str, int]
Answer = Sequence[float]


@dataclass(frozen=True)
class Case:
    """One row of a task.

    prepare: makes the data and returns the call to be timed; the call returns what `answer` makes numbers from.
    factor: the time of the whole problem is that of this call times `factor`; other than 1 where only a part was run.
    note: what was run, if not the whole; how it grows.
    truth: which of the task's truths the answer is compared with.
    answers: names of the numbers in the answer, where they are the result.
    repeats: at most so many, where one call takes long.
    """

    name: str
    prepare: Callable[[], Callable[[], Any]]
    factor: float = 1.0
    note: str = ""
    truth: str = ""
    answers: tuple[str, ...] = ()
    repeats: int | None = None


@dataclass(frozen=True)
class Task:
    """Cases at a size; the first is xbridge, with whose time the others' are compared if the task `compares`."""

    letter: str
    title: str
    full: Sizes
    quick: Sizes
    cases: Callable[[Sizes, Path], list[Case]]
    truths: Callable[[Sizes, Path], dict[str, Answer]]
    set_up: Callable[[Sizes, Path], None] = lambda _sizes, _folder: None
    compares: bool = True


class Peak(threading.Thread):
    """Largest RssAnon of this process, bytes, while it runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes = resident()
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.02):
            self.bytes = max(self.bytes, resident())

    def stop(self) -> int:
        """End the sampling; bytes."""
        self._over.set()
        self.join()
        return max(self.bytes, resident())


def resident() -> int:
    """Anonymous resident memory of this process, bytes; 0 where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    lines = status.read_text(encoding="ascii", errors="replace").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def cpu_seconds() -> float:
    """User and system time of this process, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure_here(case: Case) -> dict[str, Any]:
    """Prepare and call the case in this process."""
    call = case.prepare()
    gc.collect()
    before, peak = resident(), Peak()
    peak.start()
    cpu, wall = cpu_seconds(), time.perf_counter()
    result = call()
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    return {
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "held_bytes": before,
        "extra_bytes": peak.stop() - before,
        "answer": [float(value) for value in np.asarray(result, dtype=np.float64).reshape(-1)],
    }


def measure_apart(task: Task, name: str, sizes: Sizes, folder: Path, threads: int) -> dict[str, Any]:
    """`measure_here` in a fresh process with `threads` threads; {"failed": ...} where it does not end well."""
    request = json.dumps({"task": task.letter, "case": name, "sizes": sizes, "folder": str(folder)})
    counts = {key: str(threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    try:
        return measured_apart("benchmarks.similarity.bench", ["--child", request], counts)
    except Failed as failure:
        code, _, said = str(failure).partition(": ")
        return {"failed": f"{code}: {said.splitlines()[-1]}"[:300]}


def summary(case: Case, runs: Sequence[dict[str, Any]], truths: dict[str, Answer]) -> dict[str, Any]:
    """Medians and spread over the repeats, scaled by the case's factor, and the largest error of its answer."""
    facts: dict[str, Any] = {"case": case.name, "factor": case.factor, "note": case.note}
    failed = [run["failed"] for run in runs if "failed" in run]
    if failed:
        return {**facts, "failed": failed[0]}
    for key in ("cpu_seconds", "wall_seconds"):
        values = [run[key] * case.factor for run in runs]
        facts[key] = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    facts["held_bytes"] = max(run["held_bytes"] for run in runs)
    facts["extra_bytes"] = max(run["extra_bytes"] for run in runs)
    if case.truth:
        truth = truths[case.truth]
        answer = runs[0]["answer"][: len(truth)]
        facts["max_error"] = max(abs(a - t) for a, t in zip(answer, truth, strict=False))
    if case.answers:
        facts["answers"] = dict(zip(case.answers, runs[0]["answer"], strict=True))
    facts["runs"] = [{key: run[key] for key in ("cpu_seconds", "wall_seconds")} for run in runs]
    return facts


def set_threads() -> None:
    """torch's threads as OMP_NUM_THREADS says, inside a child."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
