"""Worker processes of a study: each runs one stage after another, so that heavy imports are paid once per worker.

A worker talks to its parent through one pipe: it receives nodes and sends ("progress", ...), ("log", ...) and at the
end of each stage ("done", seconds) or ("failed", kind, message). It ignores Ctrl-C: the parent decides, and sends TERM.
"""

import os
import signal
import threading
import time
import traceback
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from typing import Any, cast

from xbridge.core import console
from xbridge.core.errors import Interrupted, UserError
from xbridge.core.network import settle_network
from xbridge.study.stages import Node, execute

MESSAGE_INTERVAL_SECONDS = 0.2


class PipeSink:
    """Sends progress and log lines to the parent, and keeps the log lines in the stage's own log.txt."""

    def __init__(self, pipe: Connection, node: Node):
        self._pipe, self._node = pipe, node
        self._next = 0.0

    def progress(self, label: str, done: int, total: int, unit: str, facts: dict[str, Any]) -> None:
        now = time.monotonic()
        if done < total and now < self._next:
            return
        self._next = now + MESSAGE_INTERVAL_SECONDS
        self._pipe.send(("progress", label, done, total, unit, facts))

    def log(self, label: str, facts: dict[str, Any]) -> None:
        with (self._node.artifact.path / "log.txt").open("a", encoding="utf-8") as stream:
            stream.write(console.format_line(label, facts) + "\n")
        self._pipe.send(("log", label, facts))


class Worker:
    """A spawned process, its pipe, and the node that it works on (None = idle)."""

    def __init__(self, threads: int):
        context = get_context("spawn")  # fork would copy the parent's threads and their locks
        for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[variable] = str(threads)
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self.pipe, child = context.Pipe()
        self.process = context.Process(target=_serve, args=(child,), daemon=True)
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C is for the parent from the start
        try:
            self.process.start()
        finally:
            signal.signal(signal.SIGINT, handler)
        child.close()
        self.node: Node | None = None

    def start(self, node: Node) -> None:
        self.node = node
        self.pipe.send(node)

    def ask_to_end(self) -> None:
        """Ask once: an idle process ends, a training saves first, another stage stops where it is."""
        if self.process.is_alive() and self.node is None:
            self.pipe.send(None)
        elif self.process.is_alive():
            self.process.terminate()

    def end(self, patience_seconds: float) -> None:
        """Wait for the process to end; make it end after that."""
        self.process.join(patience_seconds)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _serve(pipe: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _be_quiet()
    settle_network()
    while True:
        try:
            node = cast("Node | None", pipe.recv())
        except EOFError:  # the parent is gone
            return
        if node is None:
            return
        console.set_sink(PipeSink(pipe, node))
        outcome = _outcome(node)
        try:
            pipe.send(outcome)
        except BrokenPipeError:
            return
        if outcome[:2] == ("failed", "interrupted"):  # the parent is stopping and waits for this process to end
            return


def _outcome(node: Node) -> tuple[Any, ...]:
    try:
        return ("done", execute(node))
    except UserError as error:
        return ("failed", "user", str(error))
    except Interrupted as error:
        return ("failed", "interrupted", str(error))
    except Exception as error:
        trace = node.artifact.path / "error.txt"
        trace.write_text(traceback.format_exc(), encoding="utf-8")
        return ("failed", "bug", f"{type(error).__name__}: {error} (traceback in {trace})")


def _end_with_parent() -> None:
    """End at once when the parent was killed: an orphan must not write beside the run that replaces it."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _be_quiet() -> None:
    """Libraries' own progress bars and advice would tear the study's display."""
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["DATASETS_VERBOSITY"] = "error"
