"""A folder of plain arrays for memory maps: one little-endian file each, and index.json, written last.

The index holds the arrays' types and sizes, facts of the owner's, and a digest of itself. A folder whose index is
missing or altered, or whose files have other sizes than it says, is not whole.
"""

from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from xbridge.core.config import digest_of
from xbridge.core.errors import UserError
from xbridge.core.files import read_json, write_json

INDEX = "index.json"


class ArrayWriter:
    """`with ArrayWriter(folder) as out`: append to arrays by name, then `finish`."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._streams: dict[str, IO[bytes]] = {}
        self._arrays: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> "ArrayWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for stream in self._streams.values():
            stream.close()

    def append(self, name: str, array: NDArray[Any]) -> None:
        """Add (n,) numbers to the end of an array; all of its pieces have one type."""
        kind = array.dtype.newbyteorder("<")
        if name not in self._streams:
            self._streams[name] = (self._folder / f"{name}.bin").open("wb")
            self._arrays[name] = {"dtype": kind.str, "count": 0}
        assert self._arrays[name]["dtype"] == kind.str, f"{name}: {kind.str} after {self._arrays[name]['dtype']}"
        self._streams[name].write(np.ascontiguousarray(array, dtype=kind).data)
        self._arrays[name]["count"] += len(array)

    def finish(self, facts: dict[str, Any]) -> None:
        """Close the files and write the index."""
        for stream in self._streams.values():
            stream.close()
        index = {"arrays": dict(sorted(self._arrays.items())), "facts": facts}
        write_json(self._folder / INDEX, {**index, "digest": digest_of(index)})


def read_arrays(folder: Path, *, in_memory: bool = False) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The facts and the arrays of a folder, mapped or read; `ValueError` says in what way the folder is not whole."""
    if not (folder / INDEX).exists():
        raise ValueError(f"no {INDEX}")
    try:
        index = read_json(folder / INDEX)
        digest = index.pop("digest")
    except (UserError, KeyError, AttributeError):
        raise ValueError(f"{INDEX} is damaged") from None
    if digest != digest_of(index):
        raise ValueError(f"{INDEX} is damaged")
    return index["facts"], {name: _array(folder, name, about, in_memory) for name, about in index["arrays"].items()}


def _array(folder: Path, name: str, about: dict[str, Any], in_memory: bool) -> NDArray[Any]:
    path, kind, count = folder / f"{name}.bin", np.dtype(about["dtype"]), about["count"]
    size = path.stat().st_size if path.exists() else 0
    if size != count * kind.itemsize:
        raise ValueError(f"{path.name} has {size} bytes instead of {count * kind.itemsize}")
    if in_memory or not count:  # an empty file cannot be mapped
        return np.fromfile(path, dtype=kind)
    return np.memmap(path, dtype=kind, mode="r", shape=(count,))
