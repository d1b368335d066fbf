"""Parquet: a file, or a folder of files read in the order of their names, with a column per language."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xbridge.core.config import InputPath
from xbridge.core.errors import UserError
from xbridge.data.entries import Entry, check_language_keys, entry_of_record, file_facts, select


@dataclass(frozen=True, kw_only=True)
class Config:
    """Where the table is and which column holds which language."""

    path: InputPath
    """A parquet file, or a folder with `*.parquet` files."""
    columns: dict[str, str]
    """Language code to column; `translation.de` reaches into a struct, as OPUS data sets have it."""
    key: str | None = None
    """Column that names each row, or null."""
    licence: str = "not stated"
    """The text's licence, for the data card."""

    def __post_init__(self) -> None:
        check_language_keys(self.columns, "columns")


def read(config: Config, languages: tuple[str, ...], pivot: str) -> Iterator[Entry]:
    """One entry per row."""
    columns = select(config.columns, languages, pivot, f"{config.path}: columns")
    tops = {column if config.key == column else column.split(".")[0] for column in columns.values()}
    if config.key is not None:
        tops.add(config.key.split(".")[0])
    for path in _files(Path(config.path)):
        row = 0
        try:
            with pq.ParquetFile(path) as file:
                known = set(file.schema_arrow.names)
                for batch in file.iter_batches(columns=sorted((tops | set(columns.values())) & known)):
                    for record in batch.to_pylist():
                        row += 1
                        yield entry_of_record(record, columns, config.key, f"{path}: row {row}")
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{path}: not a readable parquet file ({str(error).splitlines()[0]})") from None


def describe(config: Config) -> dict[str, Any]:
    """Kind, licence and file hashes, for the data card."""
    return file_facts("parquet", _files(Path(config.path)), config.licence)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(path.glob("*.parquet"))
        if not files:
            raise UserError(f"{path}: no *.parquet file in this folder")
        return files
    if not path.exists():
        raise UserError(f"{path}: no such file")
    return [path]
