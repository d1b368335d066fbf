"""A table with one column per language: tab- or comma-separated text, plain, .gz or .zst."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from xbridge.core.config import InputPath
from xbridge.core.errors import ConfigError, UserError
from xbridge.data.entries import Entry, check_language_keys, file_facts, select
from xbridge.data.textfiles import read_lines


@dataclass(frozen=True, kw_only=True)
class Config:
    """Where the table is and which column holds which language."""

    path: InputPath
    """The file; .gz and .zst are decompressed."""
    columns: dict[str, str | int]
    """Language code to the column's name, or to its number from 1 where the file has no header."""
    key: str | int | None = None
    """Column that names each row, or null."""
    has_header: bool = True
    """Whether the first row holds the columns' names."""
    separator: Literal["tab", "comma"] = "tab"
    """`tab`: cells are taken as they are. `comma`: CSV, where quotes may enclose a cell."""
    licence: str = "not stated"
    """The text's licence, for the data card."""

    def __post_init__(self) -> None:
        check_language_keys(self.columns, "columns")
        for code, column in self.columns.items():
            if isinstance(column, str) == (not self.has_header):
                expected = "a column name" if self.has_header else "a column number from 1 (there is no header)"
                raise ConfigError(f"columns.{code}", f"expected {expected}, got {column!r}")


def read(config: Config, languages: tuple[str, ...], pivot: str) -> Iterator[Entry]:
    """One entry per row. A row with too few or too many cells raises `UserError` with its line."""
    path = Path(config.path)
    rows = _rows(path, config.separator)
    header = next(rows, (0, []))[1] if config.has_header else []
    columns = select(config.columns, languages, pivot, f"{path}: columns")
    indices = {code: _index(column, header, path) for code, column in columns.items()}
    key = None if config.key is None else _index(config.key, header, path)
    width = len(header) or None
    for number, cells in rows:
        width = width or len(cells)
        if len(cells) != width:
            raise UserError(f"{path}:{number}: {len(cells)} cells where the first row has {width}")
        if max(indices.values()) >= width:
            raise UserError(
                f"{path}:{number}: {width} cells, but `columns` asks for number {max(indices.values()) + 1}"
            )
        yield Entry("" if key is None else cells[key], {code: cells[index] for code, index in indices.items()})


def describe(config: Config) -> dict[str, Any]:
    """Kind, licence and file hash, for the data card."""
    return file_facts("tsv" if config.separator == "tab" else "csv", [Path(config.path)], config.licence)


def _rows(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    lines = read_lines(path)
    if separator == "tab":
        for number, line in enumerate(lines, start=1):
            yield number, line.split("\t")
        return
    reader = csv.reader((line + "\n" for line in lines), strict=True)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not valid CSV ({error})") from None


def _index(column: str | int, header: list[str], path: Path) -> int:
    if isinstance(column, int):
        if column < 1:
            raise UserError(f"{path}: column number {column}; columns count from 1")
        return column - 1
    if column not in header:
        raise UserError(f"{path}: no column {column!r}; there is: {', '.join(header) or 'nothing (the file is empty)'}")
    return header.index(column)
