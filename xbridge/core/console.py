"""What a person sees while a stage works: progress bars on a terminal, one structured line per interval elsewhere.

Stages report through `progress` and `log`; where that goes is set once per process by `set_sink`: a terminal gets
bars, a file or a Slurm log gets lines, and a study's worker process sends both to its parent.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

LOG_INTERVAL_SECONDS = 10.0


class Sink(Protocol):
    """Where progress and log lines go."""

    def progress(self, label: str, done: int, total: int, unit: str, facts: dict[str, Any]) -> None:
        """`done` of `total` units of `label` are done."""

    def log(self, label: str, facts: dict[str, Any]) -> None:
        """One structured line."""


class LineSink:
    """Lines on stderr: `label key=value ...`. Progress becomes a line per interval and one at the end."""

    def __init__(self, interval_seconds: float = LOG_INTERVAL_SECONDS):
        self._interval = interval_seconds
        self._next: dict[str, float] = {}

    def progress(self, label: str, done: int, total: int, unit: str, facts: dict[str, Any]) -> None:
        now = time.monotonic()
        due = self._next.setdefault(label, now + self._interval)
        if now >= due:
            self._next[label] = now + self._interval
            self.log(label, {unit: f"{done}/{total}", **facts})
        if done >= total:
            self._next.pop(label, None)

    def log(self, label: str, facts: dict[str, Any]) -> None:
        print(format_line(label, facts), file=sys.stderr, flush=True)


class BarSink:
    """One tqdm bar per label that is under way; log lines are printed above the bars."""

    def __init__(self) -> None:
        self._bars: dict[str, Any] = {}

    def progress(self, label: str, done: int, total: int, unit: str, facts: dict[str, Any]) -> None:
        from tqdm import tqdm

        bar = self._bars.get(label)
        if bar is None:
            bar = tqdm(total=total, desc=label, unit=unit, leave=False, dynamic_ncols=True, file=sys.stderr)
            self._bars[label] = bar
        bar.total = total
        bar.update(done - bar.n)
        if facts:
            bar.set_postfix({key: format_value(value) for key, value in facts.items()})
        if done >= total:
            self.close(label)

    def log(self, label: str, facts: dict[str, Any]) -> None:
        from tqdm import tqdm

        tqdm.write(format_line(label, facts), file=sys.stderr)

    def close(self, prefix: str = "") -> None:
        """Remove the bars whose label starts with `prefix`."""
        for name in [name for name in self._bars if name.startswith(prefix)]:
            self._bars.pop(name).close()


_sink: Sink | None = None


def set_sink(sink: Sink | None) -> None:
    """Choose where this process reports to; None = bars on a terminal, lines elsewhere."""
    global _sink
    _sink = sink


def sink() -> Sink:
    """The sink in force."""
    global _sink
    if _sink is None:
        _sink = BarSink() if sys.stderr.isatty() else LineSink()
    return _sink


def close_bars(prefix: str = "") -> None:
    """Remove the bars whose label starts with `prefix`, where there are bars."""
    if isinstance(_sink, BarSink):
        _sink.close(prefix)


def log(label: str, **facts: Any) -> None:
    """Report one structured line, e.g. `log("corpus", pairs=12, language="deu_Latn")`."""
    sink().log(label, facts)


class Progress:
    """A running count; see `progress`."""

    def __init__(self, label: str, total: int, unit: str):
        self.label, self.total, self.unit, self.done = label, total, unit, 0
        self._facts: dict[str, Any] = {}

    def update(self, count: int = 1, **facts: Any) -> None:
        """Add `count` and show `facts` beside the bar."""
        self.done += count
        self._facts.update(facts)
        sink().progress(self.label, self.done, self.total, self.unit, self._facts)


@contextmanager
def progress(label: str, total: int, unit: str = "item") -> Iterator[Progress]:
    """Report long work: `with progress("train", total=steps, unit="step") as bar: bar.update(1, loss=x)`."""
    bar = Progress(label, total, unit)
    try:
        yield bar
    finally:
        sink().progress(label, total, total, unit, bar._facts)


def format_line(label: str, facts: dict[str, Any]) -> str:
    """`label key=value ...`, the form of every log line."""
    return " ".join([label, *(f"{key}={format_value(value)}" for key, value in facts.items())])


def format_value(value: Any) -> str:
    """Short form of a value for a log line."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return repr(text) if " " in text else text
