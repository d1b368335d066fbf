"""Shards of states: written while they are computed, whole or absent, found again by a run that was interrupted.

A shard is a run of consecutive sentences of one language, in one file per site. Its header says which sentences and how
many rows: a shard is finished when all its files say the same.
"""

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from xbridge.activations.store import DTYPES, ROWS, TENSOR, Shard, shard_path
from xbridge.core.errors import UserError
from xbridge.core.files import atomic

PART = "part"
HEADER_BYTES = 512  # with the header's length; it is filled in when the number of rows is known
CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


class Part(NamedTuple):
    """A finished shard."""

    start: int
    """Number of its first sentence."""
    stop: int
    """Number of the sentence after its last."""
    rows: int
    cut: int
    """How many of its sentences the model could not read whole."""

    @property
    def shard(self) -> Shard:
        """What the index says of it."""
        return Shard(self.start, self.rows)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the states of one language go, and in which form."""

    folder: Path
    lang: str
    sites: tuple[str, ...]
    dim: int
    dtype: str
    has_keys: bool
    """Rows are words or tokens: which ones they are is kept beside them."""

    def path(self, site: str, start: int) -> Path:
        """File of a shard, by its first sentence."""
        return shard_path(self.folder, self.lang, site, start)

    def temporary(self, site: str, start: int) -> Path:
        """Where that file stands until it is finished."""
        path = self.path(site, start)
        return path.with_name(f".{path.name}.tmp")

    def files(self, start: int) -> list[Path]:
        """All files of a shard."""
        return [self.path(site, start) for site in (*self.sites, *([ROWS] if self.has_keys else []))]


class ShardWriter:
    """Takes a shard's rows block by block; memory does not grow with them. Nothing is there until `finish`.

    ids: of the language's sentences, for messages.
    """

    def __init__(self, place: Place, start: int, ids: Sequence[str]):
        self._place, self._start, self._ids = place, start, ids
        self._rows = self._cut = 0
        self._stop = start
        self._sentences: list[int] = []
        self._numbers: list[int] = []
        place.path(place.sites[0], start).parent.mkdir(parents=True, exist_ok=True)
        self._files = {site: place.temporary(site, start).open("wb") for site in place.sites}
        for stream in self._files.values():
            stream.write(bytes(HEADER_BYTES))

    @property
    def num_rows(self) -> int:
        """Rows so far."""
        return self._rows

    def append(
        self, states: Mapping[str, Tensor], stop: int, cut: int, keys: Iterable[tuple[int, int]] | None = None
    ) -> None:
        """Add the rows of the sentences up to `stop`: (rows, d) at each site.

        keys: number of the sentence and of the word or token in it, of each row. `UserError` names site and sentence of
        a value that is not finite in the type that is stored.
        """
        pairs = None if keys is None else list(keys)
        for site, rows in states.items():
            stored = rows.to(DTYPES[self._place.dtype])
            finite = torch.isfinite(stored).all(dim=1)
            if not bool(finite.all()):
                row = int((~finite).nonzero()[0])
                self._not_finite(site, rows[row], self._stop + row if pairs is None else pairs[row][0])
            self._files[site].write(stored.contiguous().view(torch.uint8).numpy().data)
        if pairs is not None:
            self._sentences += [sentence for sentence, _ in pairs]
            self._numbers += [number for _, number in pairs]
        self._rows += len(next(iter(states.values())))
        self._stop, self._cut = stop, self._cut + cut

    def finish(self) -> Part:
        """Complete the headers and give the files their names."""
        part = Part(self._start, self._stop, self._rows, self._cut)
        if self._place.has_keys:
            columns = {"sentence": self._sentences, "number": self._numbers}
            table = {name: torch.tensor(column, dtype=torch.int64) for name, column in columns.items()}
            with atomic(self._place.path(ROWS, self._start)) as temporary:
                save_file(table, temporary, metadata={PART: json.dumps(part)})
        for site, stream in self._files.items():
            stream.seek(0)
            stream.write(_header(part, self._place.dim, self._place.dtype))
            stream.close()
            self._place.temporary(site, self._start).replace(self._place.path(site, self._start))
        return part

    def close(self) -> None:
        """Remove what is not finished; nothing to do after `finish`."""
        for site, stream in self._files.items():
            stream.close()
            self._place.temporary(site, self._start).unlink(missing_ok=True)

    def _not_finite(self, site: str, row: Tensor, sentence: int) -> None:
        where = f"{self._place.lang} {site}: sentence {self._ids[sentence]}"
        if bool(torch.isfinite(row).all()):
            largest = float(row.abs().max())
            raise UserError(f"{where}: {largest:.3g} does not fit {self._place.dtype}; set dtype: float32 or bfloat16")
        raise UserError(f"{where}: the model's state holds NaN or infinity; its weights are damaged, or overflow")


def finished_part(place: Place, start: int) -> Part | None:
    """The finished shard that begins with sentence `start`, or None."""
    found = {_part_of(place.path(site, start), (place.dim, CODES[place.dtype])) for site in place.sites}
    if place.has_keys:
        found.add(_part_of(place.path(ROWS, start)))
    return found.pop() if len(found) == 1 else None


def _header(part: Part, dim: int, dtype: str) -> bytes:
    size = part.rows * dim * DTYPES[dtype].itemsize
    entry = {"dtype": CODES[dtype], "shape": [part.rows, dim], "data_offsets": [0, size]}
    text = json.dumps({"__metadata__": {PART: json.dumps(part)}, TENSOR: entry}).encode()
    return struct.pack("<Q", HEADER_BYTES - 8) + text.ljust(HEADER_BYTES - 8)


def _part_of(path: Path, form: tuple[int, str] | None = None) -> Part | None:
    """What a file's header says of its shard; None for a missing or damaged file, or one of another width or type."""
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            if form is not None:
                states = stream.get_slice(TENSOR)
                if (states.get_shape()[1], states.get_dtype()) != form:
                    return None
    except (OSError, SafetensorError):
        return None
    return Part(*json.loads(metadata[PART])) if PART in metadata else None
