"""Numbers for the distinct strings of a corpus, in the order in which they first occur, without holding the strings.

A string is told by 128 bits of BLAKE2b of its bytes: among 10^9 strings two share them with a probability of 10^-21.
It takes 40 bytes of memory per occurrence while it works, and 4 in the result.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Group = tuple[str, ...]


class Block(NamedTuple):
    """Consecutive rows of one table of a corpus."""

    table: str
    """`bitext` or `mono`."""
    groups: Sequence[Group]
    """(rows,) what each row belongs to: its split and its languages."""
    columns: dict[str, Sequence[bytes]]
    """(rows,) strings by column."""

    def strings(self) -> list[bytes]:
        """All strings, column after column: the order in which they are numbered."""
        return [string for column in self.columns.values() for string in column]


@dataclass
class NumberedTable:
    """Rows of string numbers, those of a group together and in their order."""

    groups: list[Group]
    """In the order in which they first occur."""
    edges: NDArray[np.int64]
    """(groups + 1,) the row where each group begins, and the end."""
    columns: dict[str, NDArray[np.int32]]
    """(rows,) by column."""


@dataclass
class Numbering:
    """`is_first`: (occurrences,) true where a string occurs for the first time; its number is how many came before."""

    is_first: NDArray[np.bool_]
    num_strings: int
    tables: dict[str, NumberedTable]


@dataclass
class _Rows:
    """Where the rows of one table stand among the occurrences."""

    codes: dict[Group, int] = field(default_factory=dict)
    groups: list[NDArray[np.int32]] = field(default_factory=list)
    places: dict[str, list[slice]] = field(default_factory=dict)


def number_strings(blocks: Iterable[Block], renew: Callable[[], None] = lambda: None) -> Numbering:
    """Number the strings of all blocks; `renew` is called after each."""
    tables: dict[str, _Rows] = {}
    digests: list[NDArray[np.uint64]] = []
    end = 0
    for block in blocks:
        rows = tables.setdefault(block.table, _Rows())
        codes = [rows.codes.setdefault(group, len(rows.codes)) for group in block.groups]
        rows.groups.append(np.asarray(codes, dtype=np.int32))
        for name in block.columns:
            rows.places.setdefault(name, []).append(slice(end, end := end + len(codes)))
        digests.append(digests_of(block.strings()))
        renew()
    numbers, is_first = number_digests(np.concatenate(digests) if digests else np.zeros((0, 2), dtype=np.uint64))
    return Numbering(is_first, int(is_first.sum()), {name: _table(rows, numbers) for name, rows in tables.items()})


def digests_of(strings: Sequence[bytes]) -> NDArray[np.uint64]:
    """(n, 2) 128 bits of each string."""
    joined = b"".join([blake2b(string, digest_size=16).digest() for string in strings])
    return np.frombuffer(joined, dtype="<u8").reshape(-1, 2)


def number_digests(digests: NDArray[np.uint64]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """(n,) the number of each occurrence's string, and whether it is the string's first occurrence."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    ordered = digests[order]
    starts = np.ones(len(order), dtype=bool)
    starts[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    del ordered
    firsts = order[starts]  # lexsort is stable: the first of equal strings is the one that occurs first
    is_first = np.zeros(len(order), dtype=bool)
    is_first[firsts] = True
    number_of_place = np.cumsum(is_first, dtype=np.int32) - 1
    numbers = np.empty(len(order), dtype=np.int32)
    numbers[order] = number_of_place[firsts][np.cumsum(starts, dtype=np.int32) - 1]
    return numbers, is_first


def _table(rows: _Rows, numbers: NDArray[np.int32]) -> NumberedTable:
    codes = np.concatenate(rows.groups)
    order = np.argsort(codes, kind="stable")
    edges = np.searchsorted(codes[order], np.arange(len(rows.codes) + 1))
    columns = {
        name: np.concatenate([numbers[place] for place in places])[order] for name, places in rows.places.items()
    }
    return NumberedTable(list(rows.codes), edges.astype(np.int64), columns)
