"""Copies of metrics.jsonl for those who watch: TensorBoard, Weights & Biases and the rest of accelerate's trackers.

metrics.jsonl is the truth and is complete without them; a tracker that is not installed or fails costs one warning.
Names: `train/loss`, `validation/<part>`, `translation/<direction>/<metric>`, `translation/macro/<metric>`.

A continued run repeats what it had done after its checkpoint. TensorBoard is told to forget all from the step of the
checkpoint, and gets that step's lines again. The others are not sent again what they have had; Weights & Biases goes
on in the run whose id is in tracker_run.json, the rest begin a new one.

With XBRIDGE_OFFLINE=1 only trackers that can do without a network are started.
"""

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from xbridge.core.console import log
from xbridge.core.errors import ConfigError
from xbridge.core.files import read_json, write_json

RUN = "tracker_run.json"
FOLDER = "tensorboard"
OFFLINE = ("tensorboard", "wandb")


class Trackers:
    """The trackers of one run, by accelerate's names. `start` opens them; without names nothing happens.

    Errors: `ConfigError` for a name that accelerate does not know.
    """

    def __init__(self, names: Sequence[str], folder: Path, settings: Mapping[str, Any] | None = None):
        self._names, self._folder, self._settings = names, folder, settings or {}
        self._open: dict[str, Any] = {}
        self._sent: set[tuple[int, bool]] = set()
        if names:
            from accelerate.tracking import LOGGER_TYPE_TO_CLASS as KNOWN

            for index, name in enumerate(names):
                if name not in KNOWN:
                    raise ConfigError(f"trackers.{index}", f"{name!r} is not one of {', '.join(sorted(KNOWN))}")

    def start(self, kept: Sequence[Mapping[str, Any]], dropped: Sequence[Mapping[str, Any]] = ()) -> None:
        """Open all trackers. kept: lines of metrics.jsonl that the run continues from; dropped: those it repeats."""
        self._sent = {_key(line) for line in dropped}
        first = max((line["step"] for line in kept), default=0)
        for name in self._names:
            if os.environ.get("XBRIDGE_OFFLINE") == "1" and name not in OFFLINE:
                _warn(name, "needs the network, which XBRIDGE_OFFLINE=1 refuses")
                continue
            self._attempt(name, partial(self._opened, name, first))
        for line in kept:
            if line["step"] == first and FOLDER in self._open:
                self._send(FOLDER, line)

    def write(self, line: Mapping[str, Any]) -> None:
        """Send one line of metrics.jsonl."""
        for name in list(self._open):
            if name == FOLDER or _key(line) not in self._sent:
                self._send(name, line)

    def close(self) -> None:
        """Flush and leave."""
        for name in list(self._open):
            self._attempt(name, self._open[name].finish)
        self._open.clear()

    def _send(self, name: str, line: Mapping[str, Any]) -> None:
        self._attempt(name, partial(self._open[name].log, points(line), step=line["step"]))

    def _opened(self, name: str, first: int) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        kind = LOGGER_TYPE_TO_CLASS[name]
        if name == "tensorboard":
            tracker = kind(FOLDER, str(self._folder), purge_step=first)
        elif name == "wandb":
            mode = {"mode": "offline"} if os.environ.get("XBRIDGE_OFFLINE") == "1" else {}
            tracker = kind(
                "xbridge", name=self._folder.name, id=self._id(), resume="allow", dir=str(self._folder), **mode
            )
        elif kind.requires_logging_directory:
            tracker = kind("xbridge", str(self._folder))
        else:
            tracker = kind("xbridge")
        tracker.start()
        if name != "tensorboard":  # whose form of it is a folder per start; config.json is beside it anyway
            tracker.store_init_configuration(flat(self._settings))
        self._open[name] = tracker

    def _id(self) -> str:
        file = self._folder / RUN
        if not file.exists():
            write_json(file, uuid.uuid4().hex[:12])
        return str(read_json(file))

    def _attempt(self, name: str, work: Callable[[], object]) -> None:
        """Do `work`; a tracker that fails is warned about once and left alone from then on."""
        try:
            work()
        except Exception as error:  # whatever a service's client raises, the training goes on
            self._open.pop(name, None)
            missing = isinstance(error, ImportError)
            _warn(name, "is not installed; pip install 'xbridge-mt[logging]'" if missing else type(error).__name__)


def points(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of metrics.jsonl by the names that trackers show."""
    found = {f"validation/{part}": loss for part, loss in line.get("validation", {}).items()}
    for direction, scores in {**line.get("translation", {}), "macro": line.get("macro", {})}.items():
        found |= {f"translation/{direction}/{metric}": value for metric, value in scores.items()}
    numbers = {key: value for key, value in line.items() if isinstance(value, int | float) and key != "step"}
    return found | {f"train/{key}": value for key, value in numbers.items()}


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """A config's plain data with dotted names; lists as texts."""
    found: dict[str, str | int | float | bool] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            found[f"{prefix}{key}"] = value if isinstance(value, str | int | float | bool) else str(value)
    return found


def _key(line: Mapping[str, Any]) -> tuple[int, bool]:
    """What tells the lines of one run apart."""
    return line["step"], "validation" in line


def _warn(name: str, problem: str) -> None:
    log("warning", message=f"tracker {name} {problem}; metrics.jsonl has everything")
