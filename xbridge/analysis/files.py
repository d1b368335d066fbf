"""Activation matrices named on a command line.

    states.npy                       one layer
    states.safetensors               every matrix in it, in the file's order; `states.safetensors:encoder.3` one of them
    runs/.../extract/base-1f3a       every site of an extract folder; `FOLDER:deu_Latn` where it has several languages

Nothing is read until rows are asked for.
"""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from xbridge.activations.store import INDEX, ActivationStore
from xbridge.core.errors import UserError
from xbridge.similarity.rows import Rows


class StoredMatrix:
    """A matrix of a safetensors file: `shape`, and rows by slice."""

    def __init__(self, path: Path, name: str, stream: Any):
        self._path, self._name, self._slice = path, name, stream.get_slice(name)
        self.shape: tuple[int, ...] = tuple(self._slice.get_shape())

    def __getitem__(self, rows: slice) -> Tensor:
        """Rows start to stop, (stop - start, d)."""
        try:
            found: Tensor = self._slice[rows]
        except (OSError, SafetensorError) as error:
            raise UserError(f"{self._path}: {self._name} cannot be read ({str(error).splitlines()[0]})") from None
        return found


def open_layers(spec: str) -> dict[str, Rows]:
    """Name -> rows of what `spec` names (see the module). UserError says what is wrong with the file."""
    path, part = _split(spec)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_dir():
        return _of_folder(path, part)
    if path.suffix == ".npy":
        return {path.stem: _of_npy(path)}
    if path.suffix == ".safetensors":
        return _of_safetensors(path, part)
    raise UserError(f"{path}: expected .npy, .safetensors or an extract folder")


def _split(spec: str) -> tuple[Path, str | None]:
    """`FILE:PART`, unless a file of that whole name is there."""
    head, colon, tail = spec.rpartition(":")
    if colon and head and not Path(spec).exists():
        return Path(head), tail
    return Path(spec), None


def _of_npy(path: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path}: not a .npy matrix of numbers ({str(error).splitlines()[0]})") from None
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise UserError(f"{path}: expected a matrix (n, d) of numbers, got {array.dtype} {array.shape}")
    return array


def _of_safetensors(path: Path, part: str | None) -> dict[str, Rows]:
    try:
        stream = safe_open(path, framework="pt").__enter__()  # type: ignore[no-untyped-call]
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None
    names = list(stream.keys())
    matrices = [name for name in names if len(stream.get_slice(name).get_shape()) == 2]
    if part is not None and part not in matrices:
        raise UserError(f"{path}: no matrix {part!r}; it has {', '.join(matrices) or 'none'}")
    if not matrices:
        raise UserError(f"{path}: has no matrix (n, d); it has {', '.join(names) or 'no tensors'}")
    return {name: StoredMatrix(path, name, stream) for name in ([part] if part else matrices)}


def _of_folder(path: Path, part: str | None) -> dict[str, Rows]:
    if not (path / INDEX).exists():
        raise UserError(f"{path}: no {INDEX}, so it is not an extract folder")
    return dict(ActivationStore(path).layers(part))
