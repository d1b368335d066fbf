"""Checkpoints: a folder per saved step, whole or absent, without pickle, the same for every way to spread a model.

    checkpoints/step-000400/
        model.safetensors       parameters and buffers by name in float32, tied ones once: a `from_pretrained` folder
        config.json ...         what `from_pretrained` needs besides, with the tokenizer
        optimizer.safetensors   `<parameter>/exp_avg` and `<parameter>/exp_avg_sq`
        state.json              the trainer's totals, the engine's counters, checksums of all files

A save goes to a hidden folder that is renamed when all of it is on disk; a kill leaves a hidden folder that is swept
by the next save. Old checkpoints go after the new one stands. Since tensors are whole, a run that was saved by four
ranks at ZeRO stage 2 continues on any number of ranks at any stage.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from xbridge.core.console import log
from xbridge.core.errors import UserError
from xbridge.core.files import read_json, write_json
from xbridge.training.placement import Place
from xbridge.training.tensor_files import Slot, TensorFiles, checksums, damage_of, write_tensors

STATE = "state.json"
LOCK = ".lock"  # beside the checkpoints, held while the run lives
OURS = ("metrics.jsonl", "summary.json", "tracker_run.json", "translations", "tensorboard", "best")


class Contents(Protocol):
    """What an engine lets a checkpoint hold. All ranks call all of it together."""

    def weights(self) -> Sequence[Slot]:
        """Parameters and saved buffers, a tied parameter under its first name."""

    def moments(self) -> Sequence[Slot]:
        """Moments of the optimiser; none before its first update."""

    def counters(self) -> dict[str, float]:
        """Numbers that the engine keeps: `updates` and, in fp16, the loss scale."""

    def begin_restore(self, counters: Mapping[str, float]) -> None:
        """Take the counters, and make room for the moments that belong to them."""

    def end_restore(self) -> None:
        """Called when all slots are written."""


def claim(folder: Path, key: str, *, writes: bool = True) -> bool:
    """True where `folder` holds this run (`key` names it) complete. What another run left is cleared away by the rank
    that `writes`, what an interrupted one left is kept."""
    mark = folder / "checkpoints" / "run.json"
    if mark.exists() and read_json(mark) == key:
        return (folder / "summary.json").exists()
    if writes:
        for path in [*(folder / "checkpoints").glob("*"), *(folder / name for name in OURS)]:
            if path.name != LOCK:
                _remove(path)
        write_json(mark, key)
    return False


class Checkpoints:
    """The checkpoints of one run below `root`. `describe` adds what makes a folder loadable by `from_pretrained`."""

    def __init__(
        self, root: Path, contents: Contents, place: Place, keep: int, describe: Callable[[Path], None] | None = None
    ):
        self.root, self._keep = root, keep
        self._contents, self._place, self._describe = contents, place, describe

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the checkpoint of `step`; `UserError` on every rank where the disk is full; older ones stand."""
        temporary = self.root / f".step-{step:06d}"
        error = self._write(temporary, self._complete(step, temporary, state), with_moments=True)
        if error is not None:
            kept = self.newest()
            standing = f"{kept.name} is intact" if kept else "there is no older one"
            raise UserError(f"{self.root}: cannot save a checkpoint ({error}); {standing}; free space and run again")

    def export(self, folder: Path) -> None:
        """Write the weights alone as a `from_pretrained` folder, in the place of what is there."""
        temporary = folder.with_name(f".{folder.name}.tmp")

        def complete() -> None:
            shutil.rmtree(folder, ignore_errors=True)
            temporary.replace(folder)

        error = self._write(temporary, complete, with_moments=False)
        if error is not None:
            raise UserError(f"{folder}: cannot save the model ({error}); free space and run again")

    def load_newest(self) -> dict[str, Any] | None:
        """Load the newest whole checkpoint and return its state; None without one. Damaged ones are named and passed.

        Errors: `UserError` where there are only damaged ones, or where it belongs to another model.
        """
        step = self._place.from_main(lambda: self._newest_whole_step())
        if step is None:
            return None
        path = self.path(step)
        state: dict[str, Any] = read_json(path / STATE)
        weights = TensorFiles(path, "model")
        moments = TensorFiles(path, "optimizer") if state["counters"]["updates"] else None
        weights.compare(self._contents.weights())
        self._contents.begin_restore(state["counters"])
        if moments:
            moments.load(self._contents.moments())
        weights.load(self._contents.weights())
        self._contents.end_restore()
        return state

    def newest(self) -> Path | None:
        """The newest checkpoint."""
        paths = self._paths()
        return paths[-1] if paths else None

    def path(self, step: int) -> Path:
        """Folder of `step`."""
        return self.root / f"step-{step:06d}"

    def _paths(self) -> list[Path]:
        return sorted(p for p in self.root.glob("step-*") if (p / STATE).exists())

    def _write(self, temporary: Path, complete: Callable[[], None], *, with_moments: bool) -> str | None:
        """Fill a hidden folder and `complete` it; return what went wrong on the rank that writes, on every rank."""
        error: str | None = self._place.from_main(lambda: _attempt(lambda: _empty(temporary)))
        if error is None:
            is_main = self._place.rank == 0
            failed = write_tensors(temporary, "model", self._contents.weights(), writes=is_main)
            if with_moments and self._contents.counters()["updates"]:
                writes = is_main and failed is None
                failed = write_tensors(temporary, "optimizer", self._contents.moments(), writes=writes) or failed
            error = self._place.from_main(
                lambda: str(failed) if failed else _attempt(lambda: self._end(temporary, complete))
            )
        if error is not None and self._place.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        return error

    def _end(self, temporary: Path, complete: Callable[[], None]) -> None:
        if self._describe is not None:
            self._describe(temporary)
        complete()

    def _complete(self, step: int, temporary: Path, state: dict[str, Any]) -> Callable[[], None]:
        counters = self._contents.counters()

        def complete() -> None:
            files = checksums(temporary)
            write_json(temporary / STATE, {**state, "counters": counters, "files": files})
            for name in (*files, STATE):
                _sync(temporary / name)
            shutil.rmtree(self.path(step), ignore_errors=True)
            temporary.replace(self.path(step))
            _sync(self.root)
            for old in self._paths()[: -self._keep]:
                shutil.rmtree(old, ignore_errors=True)

        return complete

    def _newest_whole_step(self) -> int | None:
        """The step of the newest checkpoint whose files are as they were saved."""
        damaged = []
        for path in reversed(self._paths()):
            try:
                damage = damage_of(path, read_json(path / STATE)["files"])
            except (UserError, KeyError, TypeError):
                damage = f"{STATE} is damaged"
            if damage is None:
                return int(path.name.removeprefix("step-"))
            damaged.append(f"{path}: {damage}")
            log("checkpoint", damaged=damaged[-1], action="an older one is tried")
        if damaged:
            raise UserError(f"{damaged[0]}; no checkpoint here is whole: delete {self.root} to start again")
        return None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _empty(folder: Path) -> None:
    """Make `folder` empty, and sweep what a kill left beside it."""
    for leftover in folder.parent.glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _attempt(action: Callable[[], None]) -> str | None:
    try:
        action()
    except (OSError, UserError) as error:
        return str(error)
    return None


def _sync(path: Path) -> None:
    """Have the file or folder on disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
