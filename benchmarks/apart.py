"""One measurement in a process of its own: nothing that ran before has filled caches or taken memory."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

MARK = "measured: "


class Failed(RuntimeError):
    """The process did not end well: its exit code, and the end of what it wrote to stderr."""


def tell(result: Mapping[str, Any]) -> None:
    """In the child: hand the result to `measured_apart`."""
    print(MARK + json.dumps(result), flush=True)


def measured_apart(module: str, arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What `python -m module arguments` tells, run with `environ` on top of this process's; `Failed` without it."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, **(environ or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    found = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode != 0 or not found:
        raise Failed(f"exit code {done.returncode}: {done.stderr.strip()[-3000:] or 'no output'}")
    result: dict[str, Any] = json.loads(found[-1].removeprefix(MARK))
    return result


def numbers(text: str) -> tuple[int, ...]:
    """An option such as `256,512`."""
    return tuple(int(word) for word in text.split(",") if word)
