"""Stored activations, read lazily by memory map: states, or the second moments of states.

    index.json                              sites, languages, dim, pooling, dtype, ids, labels, shards
    deu_Latn/encoder.0.safetensors          tensor "states" (n, d), the first shard of a site
    deu_Latn/encoder.0-000131072.safetensors    the shard that begins with sentence 131072
    deu_Latn/rows.safetensors               for words and tokens: "sentence" and "number" of each row, sharded alike
    deu_Latn/moments.safetensors            instead of states, where a model was read with `keep: moments`

Rows are sentences, or the words or tokens of sentences; row i is the same one at every site. Where two languages have
the same id at the same row, sentences translate each other. Needs torch and safetensors only, so that analysis runs
without transformers.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from xbridge.core.errors import UserError
from xbridge.core.files import atomic, read_json, write_json

if TYPE_CHECKING:
    from xbridge.similarity.moments import SecondMoments

INDEX, TENSOR, ROWS, MOMENTS, FORMAT = "index.json", "states", "rows", "moments", 2
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Shard(NamedTuple):
    """Consecutive rows in one file: the number of the first sentence (names the file), and how many rows."""

    start: int
    rows: int


class Layer:
    """States of one language at one site: `shape` (n, d), `dtype`, and rows by slice, read when they are asked for."""

    def __init__(self, paths: Sequence[Path], rows: Sequence[int], dim: int, dtype: torch.dtype):
        self._paths, self._rows = list(paths), list(rows)
        self._ends = list(accumulate(rows))
        self.shape = (sum(rows), dim)
        self.dtype = dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Tensor:
        """(stop - start, d) as stored. `UserError` for a file that is missing or damaged."""
        if not isinstance(rows, slice):
            raise TypeError(f"a layer takes slices of rows, such as layer[0:1000], not {rows!r}")
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ValueError(f"a layer takes slices of step 1, not {step}")
        parts = list(self._parts(start, stop))
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts) if parts else torch.empty(0, self.shape[1], dtype=self.dtype)

    def _parts(self, start: int, stop: int) -> Iterator[Tensor]:
        while start < stop:
            shard = bisect_right(self._ends, start)
            begin = self._ends[shard] - self._rows[shard]
            end = min(stop, self._ends[shard])
            yield _read(self._paths[shard], start - begin, end - begin, (self._rows[shard], self.shape[1]))
            start = end


class TakenLayer:
    """Some rows of a layer, in ascending order: again `shape`, `dtype` and rows by slice, read when asked for."""

    def __init__(self, layer: Layer, rows: Sequence[int]):
        self._layer, self._rows = layer, torch.as_tensor(rows, dtype=torch.int64)
        if bool((self._rows.diff() <= 0).any()):
            raise ValueError("rows of a layer are taken in ascending order, each once")
        self.shape = (len(self._rows), layer.shape[1])
        self.dtype = layer.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Tensor:
        """(stop - start, d) as stored; what lies between the rows is read too."""
        if not isinstance(rows, slice):
            raise TypeError(f"a layer takes slices of rows, such as layer[0:1000], not {rows!r}")
        wanted = self._rows[rows]
        if len(wanted) == 0:
            return self._layer[0:0]
        first = int(wanted[0])
        return self._layer[first : int(wanted[-1]) + 1][wanted - first]


class ActivationStore:
    """Reader of an extract folder. Nothing but the index is read until rows are asked for."""

    def __init__(self, path: Path):
        self.path = Path(path)
        if not (self.path / INDEX).exists():
            raise UserError(f"{self.path}: no {INDEX}, so it holds no activations; run `xbridge extract` first")
        index: dict[str, Any] = read_json(self.path / INDEX)
        if index.get("format") != FORMAT:
            raise UserError(f"{self.path}: written by another version of xbridge; run `xbridge extract` again")
        self.sites: tuple[str, ...] = tuple(index["sites"])
        self.languages: tuple[str, ...] = tuple(index["languages"])
        self.pooling: str = index["pooling"]
        self.keeps: str = index["keeps"]
        self._index = index
        self._ids: dict[str, list[str]] = {}

    @property
    def dim(self) -> int:
        """Features of every site."""
        return int(self._index["dim"])

    @property
    def has_row_per_sentence(self) -> bool:
        """False where rows are words or tokens."""
        return self.pooling not in ("words", "tokens")

    def ids(self, lang: str) -> list[str]:
        """Id of each row: the sentence's, or `SENTENCE:NUMBER` of a word or token."""
        self._check_language(lang)
        if lang not in self._ids:
            sentences: list[str] = self._stored("ids")[lang]
            rows = None if self.has_row_per_sentence else self._row_table(lang)
            self._ids[lang] = sentences if rows is None else [f"{sentences[s]}:{n}" for s, n in rows]
        return self._ids[lang]

    def labels(self, lang: str) -> list[str] | None:
        """Label of each row (a word has its sentence's), or None where the sentences have none."""
        self._check_language(lang)
        labels: dict[str, list[str]] | None = self._stored("labels")
        if labels is None or self.has_row_per_sentence:
            return None if labels is None else labels[lang]
        return [labels[lang][sentence] for sentence, _ in self._row_table(lang)]

    def layers(self, lang: str | None = None) -> dict[str, Layer]:
        """Every site's states in one language, none of them read yet. A store of one language needs no `lang`."""
        if lang is None and len(self.languages) > 1:
            raise UserError(f"{self.path}: holds several languages; choose one of {', '.join(self.languages)}")
        return {site: self.layer(lang or self.languages[0], site) for site in self.sites}

    def layer(self, lang: str, site: str) -> Layer:
        """The states of one language at one site, not read yet. `UserError` for what is not stored."""
        self._check_language(lang)
        if site not in self.sites:
            raise UserError(f"{self.path}: no site {site!r}; it has {', '.join(self.sites)}")
        shards = self._shards(lang)
        paths = [shard_path(self.path, lang, site, shard.start) for shard in shards]
        return Layer(paths, [shard.rows for shard in shards], self.dim, DTYPES[self._index["dtype"]])

    def load(self, lang: str, site: str) -> Tensor:
        """All states of one language at one site: (n, d) float32. Raises `UserError` for what is not stored."""
        return self.layer(lang, site)[:].float()

    def blocks(self, lang: str, site: str, block_rows: int) -> Iterator[Tensor]:
        """The same rows in blocks of `block_rows`, the last one shorter, for data larger than memory."""
        layer = self.layer(lang, site)
        for start in range(0, len(layer), block_rows):
            yield layer[start : start + block_rows].float()

    def moments(self, lang: str) -> "SecondMoments":
        """Second moments of all `moment_layers` of one language. `UserError` where states were stored instead."""
        from xbridge.similarity.moments import SecondMoments

        if self.keeps != "moments":
            raise UserError(f"{self.path}: holds states, not moments")
        self._check_language(lang)
        path = moments_path(self.path, lang)
        try:
            return SecondMoments.load(path)
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from None

    @property
    def moment_layers(self) -> list[tuple[str, str]]:
        """(model, site) of each layer of the moments, in their order; models are called `model` and `other`."""
        return [(model, site) for model, site in self._index["layers"]]

    def _stored(self, key: str) -> Any:
        if self.keeps != "states":
            raise UserError(f"{self.path}: holds moments, not states; only linear CKA inside it can be had")
        return self._index[key]

    def _shards(self, lang: str) -> list[Shard]:
        return [Shard(*shard) for shard in self._stored("shards")[lang]]

    def _row_table(self, lang: str) -> Iterator[tuple[int, int]]:
        """(number of the sentence, number of the word or token in it) of each row."""
        for start, rows in self._shards(lang):
            path = shard_path(self.path, lang, ROWS, start)
            yield from zip(*(_read_column(path, name, rows).tolist() for name in ("sentence", "number")), strict=True)

    def _check_language(self, lang: str) -> None:
        if lang not in self.languages:
            raise UserError(f"{self.path}: no activations of {lang}; it has {', '.join(self.languages)}")


def shard_path(folder: Path, lang: str, site: str, start: int = 0) -> Path:
    """File of the shard that begins with sentence `start`."""
    return folder / lang / f"{site}{f'-{start:09d}' if start else ''}.safetensors"


def moments_path(folder: Path, lang: str) -> Path:
    """File of one language's second moments."""
    return folder / lang / f"{MOMENTS}.safetensors"


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
    dtype: str = "float32",
    shards: Mapping[str, Sequence[Shard]] | None = None,
    cut: Mapping[str, int] | None = None,
) -> None:
    """Write the index of stored states, last: it says that all are there.

    ids: of the sentences. shards: by language, in order; default one with a row per sentence. cut: number of sentences
    by language of which the model could not read all.
    """
    write_json(
        folder / INDEX,
        {
            "format": FORMAT,
            "keeps": "states",
            "sites": list(sites),
            "languages": list(ids),
            "dim": dim,
            "pooling": pooling,
            "dtype": dtype,
            "shards": {lang: [[0, len(rows)]] for lang, rows in ids.items()} if shards is None else dict(shards),
            "cut": dict(cut or {}),
            "ids": {lang: list(rows) for lang, rows in ids.items()},
            "labels": None if labels is None else {lang: list(rows) for lang, rows in labels.items()},
        },
    )


def write_moments_index(
    folder: Path, *, layers: Sequence[tuple[str, str]], pooling: str, rows: Mapping[str, int]
) -> None:
    """Write the index of second moments, last. layers: (model, site) of each; rows: how many, by language."""
    write_json(
        folder / INDEX,
        {
            "format": FORMAT,
            "keeps": "moments",
            "sites": list(dict.fromkeys(site for _, site in layers)),
            "layers": [list(layer) for layer in layers],
            "languages": list(rows),
            "pooling": pooling,
            "rows": dict(rows),
        },
    )


def _read(path: Path, start: int, stop: int, shape: tuple[int, int]) -> Tensor:
    try:
        with safe_open(path, framework="pt") as stream:
            stored = stream.get_slice(TENSOR)
            found = tuple(stored.get_shape())
            if found != shape:
                raise UserError(f"{path}: holds {found}, but the index says {shape}; run `xbridge extract` again")
            states: Tensor = stored[start:stop]
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from None
    return states


def _read_column(path: Path, name: str, rows: int) -> Tensor:
    try:
        with safe_open(path, framework="pt") as stream:
            column: Tensor = stream.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from None
    if len(column) != rows:
        raise UserError(f"{path}: holds {len(column)} rows, but the index says {rows}; run `xbridge extract` again")
    return column


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be read ({str(error).splitlines()[0]}); run `xbridge extract` again")
