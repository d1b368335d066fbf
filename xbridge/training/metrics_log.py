"""metrics.jsonl: one JSON object per line, written as the run goes and cut back when it resumes."""

import json
from pathlib import Path
from typing import Any

from xbridge.core.errors import UserError
from xbridge.core.files import write_text
from xbridge.training.trackers import Trackers


class MetricsLog:
    """Lines with a `step`, which the trackers get too. With `writes` false (ranks above 0) nothing is written."""

    def __init__(self, path: Path, *, writes: bool = True, trackers: Trackers | None = None):
        self.path, self._writes, self._trackers = path, writes, trackers

    def write(self, line: dict[str, Any]) -> None:
        """Append one line; it is on its way to the disk when this returns."""
        if not self._writes:
            return
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line, allow_nan=False) + "\n")
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror}; free space and run again, it continues") from None
        if self._trackers is not None:
            self._trackers.write(line)

    def cut(self, last_step: int, last_validation: int) -> None:
        """Drop the lines of updates after `last_step`, of validations after `last_validation`, and a torn one.

        The trackers start from what is left.
        """
        if not self._writes:
            return
        kept: list[dict[str, Any]] = []
        dropped: list[dict[str, Any]] = []
        for line in read_metrics(self.path):
            last = last_validation if "validation" in line else last_step
            (kept if line["step"] <= last else dropped).append(line)
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        if self._trackers is not None:
            self._trackers.start(kept, dropped)

    def close(self) -> None:
        """Let the trackers go."""
        if self._writes and self._trackers is not None:
            self._trackers.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a metrics file, oldest first; a missing file has none."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").split("\n")[:-1]:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break  # a crash of the machine can leave a damaged tail
    return lines
