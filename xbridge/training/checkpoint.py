"""Checkpoints: a folder per saved step, whole or absent, without pickle.

    checkpoints/step-000400/
        model.safetensors       parameters and buffers by name, tied ones once
        optimizer.safetensors   `<parameter>/<moment>` as AdamW keeps them
        state.json              the trainer's totals

A save goes to a hidden folder that is renamed when all of it is on disk; a kill leaves a hidden folder that is swept
by the next save. Old checkpoints go after the new one stands.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from xbridge.core.errors import UserError
from xbridge.core.files import read_json, write_json

STATE = "state.json"


def claim(folder: Path, key: str) -> None:
    """Keep what an interrupted run left in `folder` if it was this run's (`key` names it), else clear it away."""
    mark = folder / "checkpoints" / "run.json"
    if mark.exists() and read_json(mark) == key:
        return
    for name in ("checkpoints", "translations", "tensorboard"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("metrics.jsonl", "summary.json", "tracker_run.json"):
        (folder / name).unlink(missing_ok=True)
    write_json(mark, key)


class CheckpointFolder:
    """The folders below `root`: names, order, clean-up."""

    def __init__(self, root: Path, keep: int):
        self.root, self.keep = root, keep

    def newest(self) -> Path | None:
        """The newest whole checkpoint."""
        whole = sorted(p for p in self.root.glob("step-*") if (p / STATE).exists())
        return whole[-1] if whole else None

    def path(self, step: int) -> Path:
        """Folder of `step`."""
        return self.root / f"step-{step:06d}"

    def begin(self, step: int) -> Path:
        """An empty hidden folder to write the checkpoint of `step` into."""
        for leftover in self.root.glob(".step-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary = self.root / f".step-{step:06d}"
        temporary.mkdir(parents=True)
        return temporary

    def finish(self, step: int, temporary: Path) -> None:
        """Make the hidden folder the checkpoint of `step` and remove all but the newest `keep`."""
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync(file)
        shutil.rmtree(self.path(step), ignore_errors=True)
        temporary.replace(self.path(step))
        for old in sorted(self.root.glob("step-*"))[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)

    def failed(self, temporary: Path, error: Exception) -> UserError:
        """Sweep a half-written checkpoint; the error names the cause and what is still there."""
        shutil.rmtree(temporary, ignore_errors=True)
        kept = self.newest()
        standing = f"{kept.name} is intact" if kept else "there is no older one"
        return UserError(f"{self.root}: cannot save a checkpoint ({error}); {standing}; free space and run again")


class Checkpoints(CheckpointFolder):
    """Checkpoints of a model that every rank holds whole (one process, DDP): rank 0 writes, all wait."""

    def __init__(
        self, root: Path, model: nn.Module, optimizer: torch.optim.Optimizer, keep: int, accelerator: Any = None
    ):
        super().__init__(root, keep)
        self._model, self._optimizer, self._accelerator = model, optimizer, accelerator

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the checkpoint of `step`; `UserError` where the disk does not take it, older ones intact."""
        if self._accelerator is None or self._accelerator.is_main_process:
            self._write(step, state)
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()

    def _write(self, step: int, state: dict[str, Any]) -> None:
        temporary = self.root / f".step-{step:06d}"
        try:
            temporary = self.begin(step)
            save_file(_detached(model_tensors(self._model)), temporary / "model.safetensors")
            save_file(_detached(optimizer_tensors(self._model, self._optimizer)), temporary / "optimizer.safetensors")
            write_json(temporary / STATE, state)
            self.finish(step, temporary)
        except (OSError, SafetensorError) as error:
            raise self.failed(temporary, error) from None

    def load_newest(self) -> dict[str, Any] | None:
        """Load the newest whole checkpoint into model and optimiser and return its state; None without one."""
        path = self.newest()
        if path is None:
            return None
        load_tensors(path / "model.safetensors", model_tensors(self._model))
        _load_optimizer(path / "optimizer.safetensors", self._model, self._optimizer)
        state: dict[str, Any] = read_json(path / STATE)
        return state


def model_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and saved buffers by name; a tied parameter appears under its first name."""
    tensors: dict[str, torch.Tensor] = dict(model.named_parameters())
    saved = model.state_dict()
    tensors.update({name: buffer for name, buffer in model.named_buffers() if name in saved})
    return tensors


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Moments and step counts as `<parameter>/<moment>`."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_tensors(file: Path, into: dict[str, torch.Tensor]) -> None:
    """Copy the tensors of a safetensors file into `into` in place; `UserError` where names or shapes differ."""
    loaded = read_tensors(file)
    for name, tensor in into.items():
        if name not in loaded:
            raise UserError(f"{file}: has no tensor {name}; it belongs to another model: delete its folder")
        if loaded[name].shape != tensor.shape:
            theirs, ours = list(loaded[name].shape), list(tensor.shape)
            raise UserError(
                f"{file}: {name} is {theirs}, the model's is {ours}; it belongs to another model or vocabulary"
            )
    extra = sorted(set(loaded) - set(into))
    if extra:
        raise UserError(
            f"{file}: has {extra[0]}, which the model lacks; it belongs to another model: delete its folder"
        )
    with torch.no_grad():
        for name, tensor in into.items():
            tensor.copy_(loaded[name])


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file; `UserError` naming a missing or damaged one."""
    try:
        tensors: dict[str, torch.Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: missing or damaged ({error}); delete its folder and run again") from None
    return tensors


def _load_optimizer(file: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    loaded = read_tensors(file)
    parameters = dict(model.named_parameters())
    for name, value in loaded.items():
        parameter, key = name.rsplit("/", 1)
        if parameter not in parameters or (value.ndim and value.shape != parameters[parameter].shape):
            raise UserError(f"{file}: {name} {list(value.shape)} does not fit the model; delete its folder")
        target = parameters[parameter]
        optimizer.state[target][key] = value.to(target.device)


def _detached(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _sync(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
