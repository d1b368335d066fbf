"""Run a plan here: stages whose parents are complete go to idle workers, the longest chains first.

A finished stage is never run again; a killed one continues where it was. One stage's failure stops the study, with
every finished stage kept.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from types import FrameType
from typing import Any

from xbridge.core import console
from xbridge.core.errors import Interrupted, UserError
from xbridge.core.files import locked, write_text
from xbridge.study.jobs import Jobs
from xbridge.study.plan import Plan
from xbridge.study.stages import Node
from xbridge.study.workers import Worker

SAVE_SECONDS = 60.0
# A rough cost of one stage of each kind, to start long chains first. Only the order of work depends on it.
COSTS = {"train": 100.0, "corpus": 20.0, "tokenizer": 20.0, "finetune": 8.0, "evaluate": 2.0}


class StageFailed(RuntimeError):
    """A stage ended with an unexpected error: a bug of ours, whose traceback is in the stage's folder."""


def run_study(plan: Plan, study_text: str) -> dict[str, float]:
    """Run what is not complete; return wall seconds by node id (0 for what was complete)."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    with locked(plan.folder / ".lock", "works on this study"), _signals_as_exceptions():
        Jobs(plan.folder).check_none_queued(plan)
        write_text(plan.folder / "study.yaml", study_text)
        plan.write_lock()
        return _Scheduler(plan).run()


class _Scheduler:
    def __init__(self, plan: Plan):
        self.plan = plan
        self.pending = {i: n for i, n in plan.nodes.items() if not n.artifact.is_complete()}
        self.seconds = {i: 0.0 for i in plan.nodes if i not in self.pending}
        self.rank = _path_costs(plan)
        self.total = len(self.pending)
        self.workers: list[Worker] = []

    def run(self) -> dict[str, float]:
        if self.seconds:
            console.log("study", cached=len(self.seconds), to_run=self.total)
        if not self.pending:
            return self.seconds
        threads = self.plan.study.threads or max(1, (os.cpu_count() or 1) // self.plan.study.workers)
        try:
            self.workers = [Worker(threads) for _ in range(min(self.plan.study.workers, self.total))]
            while len(self.seconds) < len(self.plan.nodes):
                self.start_ready()
                self.listen()
        finally:
            console.close_bars()
            patience = SAVE_SECONDS if sys.exc_info()[0] is not None else 5.0
            for worker in self.workers:
                worker.ask_to_end()  # all at once: trainings save side by side
            for worker in self.workers:
                worker.end(patience)
        return self.seconds

    def start_ready(self) -> None:
        """Give each idle worker the ready node that heads the longest chain."""
        for worker in self.workers:
            if worker.node is not None:
                continue
            ready = [n for n in self.pending.values() if all(parent in self.seconds for parent in n.parents)]
            if not ready:
                return
            node = max(ready, key=lambda n: self.rank[n.id])
            del self.pending[node.id]
            worker.start(node)

    def listen(self) -> None:
        """Handle what the workers say until one of them is idle."""
        by_pipe: dict[Any, Worker] = {worker.pipe: worker for worker in self.workers if worker.node is not None}
        for pipe in wait(list(by_pipe)):
            worker = by_pipe[pipe]
            assert worker.node is not None
            try:
                kind, *rest = worker.pipe.recv()
            except (EOFError, ConnectionResetError):
                worker.process.join()
                code = worker.process.exitcode
                raise UserError(
                    f"{worker.node.id}: its process was killed (exit code {code}; out of memory?); "
                    "run again to continue, with fewer workers if memory is short"
                ) from None
            self.handle(worker, worker.node, kind, rest)

    def handle(self, worker: Worker, node: Node, kind: str, rest: list[Any]) -> None:
        if kind == "progress":
            label, *more = rest
            console.sink().progress(f"{node.id}: {label}", *more)
        elif kind == "log":
            console.log(f"{node.id}: {rest[0]}", **rest[1])
        elif kind == "done":
            worker.node = None
            self.seconds[node.id] = rest[0]
            console.close_bars(node.id)
            console.log(f"[{len(self.seconds)}/{len(self.plan.nodes)}] {node.id}", seconds=round(rest[0], 1))
        else:
            worker.node = None
            reason, message = rest
            if reason == "bug":
                raise StageFailed(f"{node.id}: {message}")
            raise UserError(f"{node.id}: {message}")


def _path_costs(plan: Plan) -> dict[str, float]:
    """Cost of the longest chain of stages from each node to the end of the study."""
    cost = {i: COSTS.get(node.stage, 1.0) for i, node in plan.nodes.items()}
    longest = dict(cost)
    for i, node in reversed(plan.nodes.items()):  # children come after their parents in the plan
        for parent in node.parents:
            longest[parent] = max(longest[parent], cost[parent] + longest[i])
    return longest


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """INT and TERM raise `Interrupted` in the main thread, so that workers are told to save."""

    def stop(signum: int, frame: FrameType | None) -> None:
        for s in (signal.SIGINT, signal.SIGTERM):
            signal.signal(s, signal.SIG_IGN)  # one signal is enough; a second must not break the saving
        raise Interrupted(signum, "stopping: trainings save where they are (a few seconds)")

    before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def seconds_by_stage(plan: Plan, seconds: dict[str, float]) -> dict[str, tuple[int, float]]:
    """Stage -> (number of nodes that ran, their wall seconds in all)."""
    result: dict[str, tuple[int, float]] = {}
    for i, node in plan.nodes.items():
        if seconds.get(i, 0.0) > 0:
            count, total = result.get(node.stage, (0, 0.0))
            result[node.stage] = (count + 1, total + seconds[i])
    return result


def elapsed(started: float) -> str:
    """Time since `started` (time.monotonic) as `2 m 05 s`."""
    return format_seconds(time.monotonic() - started)


def format_seconds(seconds: float) -> str:
    """`0.4 s`, `12 s`, `2 m 05 s`, `1 h 02 m`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    return f"{minutes} m {int(seconds % 60):02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} m"
