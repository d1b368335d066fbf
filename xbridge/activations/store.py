"""Stored activations: one float32 matrix per language and site, read by memory map.

    index.json                              sites, languages, dim, pooling, ids, labels, shards
    deu_Latn/encoder.0.safetensors          tensor "states" (n, d); row i belongs to ids["deu_Latn"][i]
    deu_Latn/encoder.0-00002-of-00003.safetensors   the same in shards, rows in shard order

Sites are named "encoder.0" (the embedding layer's output) to "encoder.L" (the last hidden state). Where two languages
have the same id at the same row, the rows translate each other. Needs torch and safetensors only, so that analysis
runs without transformers.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from xbridge.core.errors import UserError
from xbridge.core.files import atomic, read_json, write_json

INDEX, TENSOR = "index.json", "states"


class ActivationStore:
    """Reader of an extract folder. Nothing but the index is read until `load` or `blocks` is called."""

    def __init__(self, path: Path):
        self.path = Path(path)
        if not (self.path / INDEX).exists():
            raise UserError(f"{self.path}: no {INDEX}, so it holds no activations; run `xbridge extract` first")
        index: dict[str, Any] = read_json(self.path / INDEX)
        self.sites: tuple[str, ...] = tuple(index["sites"])
        self.languages: tuple[str, ...] = tuple(index["languages"])
        self.dim: int = index["dim"]
        self.pooling: str = index["pooling"]
        self._ids: dict[str, list[str]] = index["ids"]
        self._labels: dict[str, list[str]] | None = index["labels"]
        self._shards: int = index.get("shards", 1)

    def ids(self, lang: str) -> list[str]:
        """Sentence id of each row."""
        self._check_language(lang)
        return self._ids[lang]

    def labels(self, lang: str) -> list[str] | None:
        """Label of each row, or None where the sentences have none."""
        self._check_language(lang)
        return self._labels[lang] if self._labels is not None else None

    def load(self, lang: str, site: str) -> Tensor:
        """All states of one language at one site: (n, d) float32. Raises `UserError` for what is not stored."""
        shards = list(self._open(lang, site))
        return shards[0] if len(shards) == 1 else torch.cat(shards)

    def blocks(self, lang: str, site: str, block_rows: int) -> Iterator[Tensor]:
        """The same rows in blocks of at most `block_rows`, for data larger than memory."""
        for shard in self._open(lang, site):
            for start in range(0, len(shard), block_rows):
                yield shard[start : start + block_rows]

    def _open(self, lang: str, site: str) -> Iterator[Tensor]:
        self._check_language(lang)
        if site not in self.sites:
            raise UserError(f"{self.path}: no site {site!r}; it has {', '.join(self.sites)}")
        rows = 0
        for shard in range(self._shards):
            states = _read(shard_path(self.path, lang, site, shard, self._shards))
            rows += len(states)
            yield states
        if rows != len(self._ids[lang]):
            ids = len(self._ids[lang])
            raise UserError(f"{self.path}: {lang} has {rows} rows at {site} but {ids} ids; run `xbridge extract` again")

    def _check_language(self, lang: str) -> None:
        if lang not in self._ids:
            raise UserError(f"{self.path}: no activations of {lang}; it has {', '.join(self.languages)}")


def shard_path(folder: Path, lang: str, site: str, shard: int = 0, num_shards: int = 1) -> Path:
    """File of one shard."""
    suffix = "" if num_shards == 1 else f"-{shard + 1:05d}-of-{num_shards:05d}"
    return folder / lang / f"{site}{suffix}.safetensors"


def write_states(path: Path, states: Tensor) -> None:
    """Write one matrix (n, d) as float32, atomically."""
    with atomic(path) as temporary:
        save_file({TENSOR: states.detach().float().cpu().contiguous()}, temporary)


def write_index(
    folder: Path,
    *,
    sites: Sequence[str],
    dim: int,
    pooling: str,
    ids: Mapping[str, Sequence[str]],
    labels: Mapping[str, Sequence[str]] | None = None,
    num_shards: int = 1,
) -> None:
    """Write the index, last: it says that all states are there."""
    write_json(
        folder / INDEX,
        {
            "sites": list(sites),
            "languages": list(ids),
            "dim": dim,
            "pooling": pooling,
            "shards": num_shards,
            "ids": {lang: list(rows) for lang, rows in ids.items()},
            "labels": None if labels is None else {lang: list(rows) for lang, rows in labels.items()},
        },
    )


def _read(path: Path) -> Tensor:
    try:
        with safe_open(path, framework="pt") as stream:
            states: Tensor = stream.get_tensor(TENSOR)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0]}); run `xbridge extract` again") from None
    return states
