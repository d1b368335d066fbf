"""Safetensors files written one tensor at a time, so that memory does not grow with the model.

The format (a length, a JSON header with every tensor's type, shape and place, then the bytes) lets the header be
written before any tensor is at hand. Files beyond a limit are split and indexed as Hugging Face's loaders expect.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from xbridge.core.errors import UserError
from xbridge.core.files import read_json, sha256_of_path, write_json

FILE_BYTES = 4 << 30
NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class Slot:
    """A tensor that is whole in files, wherever its parts are in memory."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    """Type in the file."""
    read: Callable[[], torch.Tensor]
    """The whole tensor; all ranks call it together."""
    write: Callable[[torch.Tensor], None]
    """Take this rank's part of a whole tensor; all ranks call it together."""

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()


def write_tensors(
    folder: Path, stem: str, slots: Sequence[Slot], *, writes: bool = True, limit_bytes: int = FILE_BYTES
) -> OSError | None:
    """Write `<stem>.safetensors`, or `<stem>-00001-of-00003.safetensors` and so on with an index.

    All ranks call this together, the one with `writes` writes. An error of the disk is returned, not raised: the other
    ranks are waiting for this one to take part in reading what is left.
    """
    error: OSError | None = None
    files = split(slots, limit_bytes)
    names = [f"{stem}.safetensors"]
    if len(files) > 1:
        names = [f"{stem}-{number:05d}-of-{len(files):05d}.safetensors" for number in range(1, len(files) + 1)]
    for name, members in zip(names, files, strict=True):
        tensors = (slot.read().detach().to("cpu", slot.dtype).contiguous() for slot in members)
        try:
            if writes and error is None:
                _write_file(folder / name, members, tensors)
        except OSError as caught:
            error = caught
        for _ in tensors:
            pass
    if writes and error is None and len(files) > 1:
        places = {slot.name: name for name, members in zip(names, files, strict=True) for slot in members}
        index = {"metadata": {"total_size": sum(slot.nbytes for slot in slots)}, "weight_map": places}
        try:
            write_json(folder / f"{stem}.safetensors.index.json", index)
        except OSError as caught:
            error = caught
    return error


def split(slots: Sequence[Slot], limit_bytes: int) -> list[list[Slot]]:
    """Slots per file, in order: as many as fit the limit, at least one; wider types first, which keeps them aligned."""
    files: list[list[Slot]] = [[]]
    size = 0
    for slot in sorted(slots, key=lambda slot: -slot.dtype.itemsize):
        if files[-1] and size + slot.nbytes > limit_bytes:
            files.append([])
            size = 0
        files[-1].append(slot)
        size += slot.nbytes
    return files


def _write_file(path: Path, slots: Sequence[Slot], tensors: Iterator[torch.Tensor]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for slot in slots:
        ends = [offset, offset + slot.nbytes]
        header[slot.name] = {"dtype": NAMES[slot.dtype], "shape": list(slot.shape), "data_offsets": ends}
        offset = ends[1]
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            if tensor.numel():
                stream.write(tensor.view(-1).view(torch.uint8).numpy().data)


class TensorFiles:
    """The tensors that `write_tensors` wrote, read one at a time. `UserError` for a missing or damaged file."""

    def __init__(self, folder: Path, stem: str):
        index = folder / f"{stem}.safetensors.index.json"
        names = sorted(set(read_json(index)["weight_map"].values())) if index.exists() else [f"{stem}.safetensors"]
        self.path = folder / names[0]
        self._files: dict[str, Any] = {}
        for name in names:
            try:
                opened = safe_open(folder / name, "pt")
            except (OSError, SafetensorError) as error:
                raise UserError(
                    f"{folder / name}: missing or damaged ({error}); delete its folder and run again"
                ) from None
            self._files.update(dict.fromkeys(opened.keys(), opened))  # type: ignore[no-untyped-call]

    def load(self, slots: Sequence[Slot]) -> None:
        """Put every tensor into its slot; `UserError` where names or shapes differ, before anything is changed."""
        self.compare(slots)
        for slot in slots:
            slot.write(self._files[slot.name].get_tensor(slot.name))

    def compare(self, slots: Sequence[Slot]) -> None:
        """`UserError` where names or shapes differ."""
        foreign = "it belongs to another model or vocabulary: delete its folder"
        for slot in slots:
            if slot.name not in self._files:
                raise UserError(f"{self.path}: has no tensor {slot.name}; {foreign}")
            found = tuple(self._files[slot.name].get_slice(slot.name).get_shape())
            if found != slot.shape:
                raise UserError(
                    f"{self.path}: {slot.name} is {list(found)}, the model's is {list(slot.shape)}; {foreign}"
                )
        extra = sorted(set(self._files) - {slot.name for slot in slots})
        if extra:
            raise UserError(f"{self.path}: has {extra[0]}, which the model lacks; {foreign}")


def checksums(folder: Path) -> dict[str, dict[str, Any]]:
    """Bytes and sha256 of every file below `folder`, by its path inside."""
    return {
        file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": sha256_of_path(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def damage_of(folder: Path, files: dict[str, dict[str, Any]]) -> str | None:
    """What is wrong with the first file that is not as its checksum says; None where all are whole."""
    for name, expected in files.items():
        file = folder / name
        if not file.exists():
            return f"{name} is missing"
        if file.stat().st_size != expected["bytes"]:
            return f"{name} has {file.stat().st_size} bytes instead of {expected['bytes']}"
        if sha256_of_path(file) != expected["sha256"]:
            return f"{name} does not have the content that was saved"
    return None
