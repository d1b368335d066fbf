"""Token ids of many strings in two arrays, and rows of them laid out as a padded matrix."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class TokenTable:
    """Ragged rows. `ids`: (total,) integers, all rows end to end; `starts`: (n + 1,) int64. Both may be memory maps."""

    ids: NDArray[Any]
    starts: IntArray

    @property
    def lengths(self) -> IntArray:
        """(n,) tokens per row."""
        return np.diff(self.starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def lengths_of(self, rows: IntArray) -> IntArray:
        """(len(rows),) tokens of these rows."""
        lengths: IntArray = self.starts[rows + 1] - self.starts[rows]
        return lengths

    def take(self, rows: IntArray) -> "TokenTable":
        """The table of these rows, in this order, as int32 in memory."""
        lengths = self.lengths_of(rows)
        starts = starts_of(lengths)
        offsets = np.arange(starts[-1]) + np.repeat(self.starts[rows] - starts[:-1], lengths)
        return TokenTable(self.ids[offsets].astype(np.int32, copy=False), starts)


@dataclass(frozen=True)
class Selection:
    """Some rows of a table, by number, so that the tokens stay where they are: `rows`: (n,)."""

    table: TokenTable
    rows: NDArray[Any]

    @property
    def lengths(self) -> IntArray:
        """(n,) tokens per row."""
        return self.table.lengths_of(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def lengths_of(self, index: IntArray) -> IntArray:
        """Tokens of the rows at `index`."""
        return self.table.lengths_of(self.rows[index])

    def select(self, index: IntArray) -> "Selection":
        """The rows at `index`."""
        return Selection(self.table, self.rows[index])

    def take(self, index: IntArray) -> TokenTable:
        """The tokens of the rows at `index`, copied."""
        return self.table.take(self.rows[index])


def joined(selections: Sequence[Selection]) -> Selection:
    """Selections of one table, one after the other."""
    return Selection(selections[0].table, np.concatenate([selection.rows for selection in selections]))


def starts_of(lengths: IntArray) -> IntArray:
    """Offsets of ragged rows: (n,) lengths -> (n + 1,) starts."""
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def rounded_up(lengths: Any, multiple: int) -> Any:
    """The next multiples of `multiple`, of a number or of an array of them."""
    return -(-lengths // multiple) * multiple


def from_rows(rows: Sequence[Sequence[int]]) -> TokenTable:
    """A table from lists of ids."""
    lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    ids = np.fromiter((token for row in rows for token in row), dtype=np.int32, count=int(lengths.sum()))
    return TokenTable(ids, starts_of(lengths))


def encode(tokenizer: Any, texts: Sequence[str], *, chunk: int = 8192) -> TokenTable:
    """Tokenise without special tokens; `tokenizer` is a Hugging Face tokenizer, slow or fast."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rows: list[list[int]] = []
    for start in range(0, len(texts), chunk):
        part = list(texts[start : start + chunk])
        if backend is None:
            rows += tokenizer(part, add_special_tokens=False)["input_ids"]
        else:  # the same ids without building a BatchEncoding
            rows += [encoding.ids for encoding in backend.encode_batch_fast(part, add_special_tokens=False)]
    return from_rows(rows)


def side_by_side(tables: Sequence[TokenTable]) -> TokenTable:
    """Row i of the result is row i of every table, one after the other."""
    lengths = np.stack([table.lengths for table in tables])
    starts = starts_of(lengths.sum(axis=0))
    ids = np.empty(int(starts[-1]), dtype=np.int32)
    place = starts[:-1].copy()
    for table, own in zip(tables, lengths, strict=True):
        ids[np.arange(len(table.ids)) + np.repeat(place - table.starts[:-1], own)] = table.ids
        place += own
    return TokenTable(ids, starts)


def padded(table: TokenTable, pad: int, *, multiple_of: int = 1, more: int = 0) -> NDArray[np.int64]:
    """Rows as a matrix as wide as the longest: (n, width) int64; `width - more` is rounded up to a multiple."""
    lengths = table.lengths
    width = rounded_up(int(lengths.max(initial=0)) - more, multiple_of) + more
    matrix = np.full((len(table), width), pad, dtype=np.int64)
    rows = np.repeat(np.arange(len(table)), lengths)
    matrix[rows, np.arange(len(table.ids)) - np.repeat(table.starts[:-1], lengths)] = table.ids
    return matrix
