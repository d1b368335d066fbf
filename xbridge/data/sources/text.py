"""Aligned plain text, as Moses and OPUS have it: one file per language, line n of each says the same."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from xbridge.core.config import InputPath
from xbridge.core.errors import UserError
from xbridge.data.entries import Entry, check_language_keys, file_facts, select
from xbridge.data.textfiles import read_lines


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which file holds which language."""

    files: dict[str, InputPath]
    """Language code to file; .gz and .zst are decompressed. All files must have the same number of lines."""
    licence: str = "not stated"
    """The text's licence, for the data card."""

    def __post_init__(self) -> None:
        check_language_keys(self.files, "files")


def read(config: Config, languages: tuple[str, ...], pivot: str) -> Iterator[Entry]:
    """One entry per line. Files of different lengths raise `UserError` with all counts."""
    files = {code: Path(path) for code, path in select(config.files, languages, pivot, "files").items()}
    counts = dict.fromkeys(files, 0)
    for lines in zip_longest(*(read_lines(path) for path in files.values())):
        for code, line in zip(files, lines, strict=True):
            counts[code] += line is not None
        if None not in lines:
            yield Entry("", dict(zip(files, lines, strict=True)))
    if len(set(counts.values())) > 1:
        sides = ", ".join(f"{files[code]} has {count} lines" for code, count in counts.items())
        raise UserError(f"{sides}: aligned files must have the same number of lines")


def describe(config: Config) -> dict[str, Any]:
    """Kind, licence and file hashes, for the data card."""
    return file_facts("aligned text", [Path(path) for path in config.files.values()], config.licence)
