"""JSON lines: one object per line with a field per language, plain, .gz or .zst."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xbridge.core.config import InputPath
from xbridge.core.errors import UserError
from xbridge.data.entries import Entry, check_language_keys, entry_of_record, file_facts, select
from xbridge.data.textfiles import read_lines


@dataclass(frozen=True, kw_only=True)
class Config:
    """Where the file is and which field holds which language."""

    path: InputPath
    """The file; .gz and .zst are decompressed."""
    columns: dict[str, str]
    """Language code to field; `translation.de` reaches into nested objects. A null field is an absent text."""
    key: str | None = None
    """Field that names each line, or null."""
    licence: str = "not stated"
    """The text's licence, for the data card."""

    def __post_init__(self) -> None:
        check_language_keys(self.columns, "columns")


def read(config: Config, languages: tuple[str, ...], pivot: str) -> Iterator[Entry]:
    """One entry per line; blank lines are skipped, a damaged one raises `UserError` with its number."""
    path = Path(config.path)
    columns = select(config.columns, languages, pivot, f"{path}: columns")
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number}: not valid JSON ({error.msg} at character {error.pos + 1})") from None
        yield entry_of_record(record, columns, config.key, f"{path}:{number}")


def describe(config: Config) -> dict[str, Any]:
    """Kind, licence and file hash, for the data card."""
    return file_facts("jsonl", [Path(config.path)], config.licence)
