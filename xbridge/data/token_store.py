"""The tokens of a corpus for one tokenizer, on disk once for all trainings that share the two, and read by memory map.

    <root>/<address>/index.json      types and sizes of the arrays, groups of rows, and a digest of the index itself
                     ids.bin         tokens of the distinct strings, end to end, in the smallest unsigned type that fits
                     starts.bin      where each string begins, and the end
                     bitext.*.bin    numbers of the strings of each pair, pairs of a split and two languages together
                     mono.*.bin      the same for single strings
    <root>/<address>.2-of-9/         what a task of an array job has finished, until the last of them joins it

The address is a digest of the corpus, the tokenizer and `VERSION`; see claims.py for several builders at once. An array
job may share the work: every task numbers all strings, which takes a microsecond each, and tokenises its share.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from xbridge.core.config import digest_of
from xbridge.core.console import log
from xbridge.data.arrays import ArrayWriter, read_arrays
from xbridge.data.claims import Claim, discard, new_folder
from xbridge.data.numbering import Block, Group, Numbering, number_strings
from xbridge.data.tokens import TokenTable, starts_of

VERSION = 1
Columns = dict[str, NDArray[np.int32]]


class Corpus(Protocol):
    """What a store is built from."""

    def identity(self) -> str:
        """Names the content: corpora of equal identity have equal blocks and tokens."""

    def blocks(self) -> Iterator[Block]:
        """All rows, the same and in the same order at every call."""

    def encode(self, strings: Sequence[bytes]) -> TokenTable:
        """Tokens of strings, special ones not included."""

    def largest_id(self) -> int:
        """The largest token that `encode` may give."""


@dataclass(frozen=True)
class Store:
    """An opened store. `tokens`: of the distinct strings; `tables`: numbers of strings by table, group and column."""

    tokens: TokenTable
    tables: dict[str, dict[Group, Columns]]


def open_store(root: Path | None, corpus: Corpus) -> Store:
    """The store of `corpus` under `root`, built now where it is missing or damaged; without a root, kept in memory."""
    if root is None:
        with TemporaryDirectory(prefix="xbridge-tokens-") as temporary:
            _build(corpus, number_strings(corpus.blocks()), Path(temporary))
            return _store(*read_arrays(Path(temporary), in_memory=True))
    root.mkdir(parents=True, exist_ok=True)
    folder = root / address_of(corpus)
    while (store := _whole(folder)) is None:
        with Claim(folder.with_suffix(".claim")) as claim:
            if claim.is_mine and _whole(folder) is None:
                with new_folder(folder) as new:
                    _build(corpus, number_strings(corpus.blocks(), claim.renew), new, claim.renew)
    return store


def build_part(root: Path, corpus: Corpus, part: int, num_parts: int) -> bool:
    """Tokenise share `part` (1 to `num_parts`) of the strings; True when the store is whole, for the last share joins
    them."""
    folder = root / address_of(corpus)
    if _whole(folder) is not None:
        return True
    root.mkdir(parents=True, exist_ok=True)
    numbering = number_strings(corpus.blocks())
    parts = [folder.with_suffix(f".{number}-of-{num_parts}") for number in range(1, num_parts + 1)]
    if _whole_arrays(parts[part - 1]) is None:
        share = [number * numbering.num_strings // num_parts for number in (part - 1, part)]
        with new_folder(parts[part - 1]) as new, ArrayWriter(new) as out:
            _write_tokens(out, corpus, numbering, range(*share))
            out.finish({})
    while _whole(folder) is None:
        if any(_whole_arrays(path) is None for path in parts):
            return _whole(folder) is not None
        with Claim(folder.with_suffix(".claim")) as claim:
            if claim.is_mine and _whole(folder) is None:
                with new_folder(folder) as new, ArrayWriter(new) as out:
                    _join(out, parts, claim.renew)
                    _write_tables(out, numbering)
    for path in parts:
        discard(path)
    return True


def address_of(corpus: Corpus) -> str:
    """The name of a corpus' store."""
    return digest_of("tokens", VERSION, corpus.identity())[:16]


def _whole(folder: Path) -> Store | None:
    """The store, or None where there is none. What is not whole is removed."""
    found = _whole_arrays(folder)
    return None if found is None else _store(*found)


def _whole_arrays(folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
    if not folder.exists():
        return None
    try:
        return read_arrays(folder)
    except FileNotFoundError:  # a task that has joined the parts is taking this one away
        return None
    except ValueError as problem:
        log("tokens", damaged=folder, problem=problem, so="it is built again")
        discard(folder)
        return None


def _store(facts: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Store:
    tables: dict[str, dict[Group, Columns]] = {}
    for name, about in facts.items():
        edges = about["edges"]
        tables[name] = {
            tuple(group): {column: arrays[f"{name}.{column}"][start:end] for column in about["columns"]}
            for group, start, end in zip(about["groups"], edges[:-1], edges[1:], strict=True)
        }
    return Store(TokenTable(arrays["ids"], arrays["starts"]), tables)


def _build(corpus: Corpus, numbering: Numbering, folder: Path, renew: Callable[[], None] = lambda: None) -> None:
    with ArrayWriter(folder) as out:
        num_tokens = _write_tokens(out, corpus, numbering, range(numbering.num_strings), renew)
        _write_tables(out, numbering)
    log("tokens", strings=numbering.num_strings, tokens=num_tokens)


def _write_tokens(
    out: ArrayWriter, corpus: Corpus, numbering: Numbering, numbers: range, renew: Callable[[], None] = lambda: None
) -> int:
    """Tokenise the strings of these numbers; return how many tokens they have."""
    kind = np.min_scalar_type(corpus.largest_id())
    out.append("ids", np.zeros(0, dtype=kind))
    lengths = [np.zeros(0, dtype=np.int64)]
    place, next_number = 0, 0
    for block in corpus.blocks():
        strings = block.strings()
        first = np.flatnonzero(numbering.is_first[place : place + len(strings)])
        mine = first[max(numbers.start - next_number, 0) : max(numbers.stop - next_number, 0)]
        place, next_number = place + len(strings), next_number + len(first)
        table = corpus.encode([strings[index] for index in mine.tolist()])
        out.append("ids", table.ids.astype(kind))
        lengths.append(table.lengths)
        renew()
    starts = starts_of(np.concatenate(lengths))
    assert len(starts) - 1 == len(numbers), f"{len(starts) - 1} strings of {len(numbers)}: the corpus has changed"
    out.append("starts", starts)
    return int(starts[-1])


def _write_tables(out: ArrayWriter, numbering: Numbering) -> None:
    facts: dict[str, Any] = {}
    for name, table in numbering.tables.items():
        for column, values in table.columns.items():
            out.append(f"{name}.{column}", values)
        facts[name] = {"groups": table.groups, "edges": table.edges.tolist(), "columns": list(table.columns)}
    out.finish(facts)


def _join(out: ArrayWriter, folders: Sequence[Path], renew: Callable[[], None]) -> None:
    """Put the tokens of the parts end to end."""
    out.append("starts", np.zeros(1, dtype=np.int64))
    end = 0
    for folder in folders:
        _, arrays = read_arrays(folder)
        out.append("ids", arrays["ids"])
        out.append("starts", arrays["starts"][1:] + end)
        end += int(arrays["starts"][-1])
        renew()
