"""What a corpus source yields: one `Entry` per record, with its text in every language that has one."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import sha256_of_path
from xbridge.data.languages import language


class Entry(NamedTuple):
    """Texts that say the same, by language code. `key` names a message in a keyed source, else it is empty."""

    key: str
    texts: dict[str, str]


@dataclass
class Pool:
    """The usable entries of all sources, texts read, and texts dropped by filter; the counts go by language."""

    entries: list[Entry] = field(default_factory=list)
    num_read: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, Counter[str]] = field(default_factory=dict)


def check_language_keys(mapping: Mapping[str, Any], field: str) -> None:
    """Raise `ConfigError` where a key of `{language: column or file}` is no known code, or there are under two."""
    for code in mapping:
        language(code, f"{field}.{code}")
    if len(mapping) < 2:
        raise ConfigError(field, "name at least two languages, for example {eng_Latn: ..., deu_Latn: ...}")


def select(mapping: Mapping[str, Any], languages: tuple[str, ...], pivot: str, field: str) -> dict[str, Any]:
    """The part of `{language: column or file}` that the study uses; it must hold the pivot and one more language."""
    if pivot not in mapping:
        raise UserError(f"{field}: has no {pivot}, the pivot (the first of `languages`)")
    chosen = {code: mapping[code] for code in languages if code in mapping}
    if len(chosen) < 2:
        raise UserError(f"{field}: has {', '.join(mapping)}, of which only the pivot is among the study's `languages`")
    return chosen


def dig(record: Any, column: str) -> Any:
    """The value at a dotted path of nested mappings (`translation.de`); KeyError where there is none."""
    if isinstance(record, Mapping) and column in record:
        return record[column]
    for step in column.split("."):
        if not isinstance(record, Mapping):
            raise KeyError(column)
        record = record[step]
    return record


def entry_of_record(record: Any, columns: Mapping[str, str], key: str | None, where: str) -> Entry:
    """The entry of one JSON-like record. A missing column or a value that is not text raises `UserError`."""
    texts: dict[str, str] = {}
    for code, column in columns.items():
        try:
            value = dig(record, column)
        except KeyError:
            names = ", ".join(map(str, record)) if isinstance(record, Mapping) else type(record).__name__
            raise UserError(f"{where}: no column {column!r} (for {code}); there is: {names}") from None
        if value is None:
            continue
        if not isinstance(value, str):
            raise UserError(f"{where}: column {column!r} (for {code}) is {type(value).__name__}, expected text")
        texts[code] = value
    return Entry(str(dig(record, key)) if key is not None else "", texts)


def file_facts(kind: str, paths: list[Path], licence: str) -> dict[str, Any]:
    """What the data card says of a source of local files: kind, licence, and each file's name, size and sha256."""
    files = [
        {"name": p.name, "sha256": sha256_of_path(p), "bytes": p.stat().st_size if p.is_file() else None} for p in paths
    ]
    return {"kind": kind, "licence": licence, "files": files}
