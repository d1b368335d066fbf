"""Labelled sentences of one's own: a TSV, CSV, JSONL or parquet file with columns id, split, lang, text, label.

For tagging, `words` and `tags` instead of `label`: lists in JSONL and parquet, separated by spaces in TSV and CSV.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xbridge.core.config import InputPath
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import read_rows
from xbridge.data.entries import file_facts
from xbridge.data.languages import from_tag, language
from xbridge.data.textfiles import read_lines
from xbridge.tasks.datasets import Sentence

REQUIRED = ("split", "lang", "text")
OPTIONAL = ("id", "label", "words", "tags", "group")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Where the file is and what its columns are called."""

    path: InputPath
    """.tsv, .csv, .jsonl (each also .gz or .zst), or .parquet."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our name to the file's, for columns that are called otherwise, for example {label: category}."""
    splits: dict[str, str] = field(default_factory=dict)
    """The file's split to train, dev or test, where it says otherwise, for example {validation: dev}."""
    licence: str = "not stated"
    """The data's licence, for the card."""

    def __post_init__(self) -> None:
        for name in self.columns:
            if name not in REQUIRED + OPTIONAL:
                raise ConfigError(f"columns.{name}", f"not a column; known: {', '.join(REQUIRED + OPTIONAL)}")
        for name, split in self.splits.items():
            if split not in ("train", "dev", "test"):
                raise ConfigError(f"splits.{name}", f"{split!r} is not one of train, dev, test")


def read(config: Config, languages: tuple[str, ...], source_lang: str, corpus: Path | None) -> Iterator[Sentence]:
    """The file's rows in `languages`, in file order. A row that does not fit raises `UserError` with its number."""
    path = Path(config.path)
    for number, (where, record) in enumerate(_records(path), start=1):
        sentence = _sentence(config, record, where, number)
        if sentence.lang in languages:
            yield sentence


def describe(config: Config) -> dict[str, Any]:
    """Kind, licence and file hash, for the card."""
    return file_facts("table", [Path(config.path)], config.licence)


def _records(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    kind = path.with_suffix("").suffix if path.suffix in (".gz", ".zst") else path.suffix
    if kind == ".parquet":
        for number, row in enumerate(read_rows(path), start=1):
            yield f"{path}: row {number}", row
    elif kind == ".jsonl":
        for number, line in enumerate(read_lines(path), start=1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}:{number}: not valid JSON ({error.msg})") from None
            if not isinstance(record, dict):
                raise UserError(f"{path}:{number}: expected a JSON object, got {type(record).__name__}")
            yield f"{path}:{number}", record
    elif kind in (".tsv", ".csv"):
        yield from _separated(path, is_csv=kind == ".csv")
    else:
        raise UserError(f"{path}: cannot tell its format; name it .tsv, .csv, .jsonl or .parquet")


def _separated(path: Path, *, is_csv: bool) -> Iterator[tuple[str, Mapping[str, Any]]]:
    lines = (line + "\n" for line in read_lines(path))
    reader = csv.reader(lines, strict=True) if is_csv else csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    header: list[str] | None = None
    try:
        for cells in reader:
            if header is None:
                header = cells
                continue
            if len(cells) != len(header):
                raise UserError(f"{path}:{reader.line_num}: {len(cells)} cells, the header has {len(header)}")
            yield f"{path}:{reader.line_num}", dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not valid CSV ({error})") from None


def _sentence(config: Config, record: Mapping[str, Any], where: str, number: int) -> Sentence:
    values: dict[str, Any] = {name: record.get(config.columns.get(name, name)) for name in REQUIRED + OPTIONAL}
    for name in REQUIRED:
        if not isinstance(values[name], str) or not values[name].strip():
            raise UserError(f"{where}: no {config.columns.get(name, name)!r}; there is: {', '.join(record)}")
    split = config.splits.get(values["split"], values["split"])
    if split not in ("train", "dev", "test"):
        raise UserError(f"{where}: split {split!r} is not one of train, dev, test; map it with `splits`")
    words, tags = _listed(values["words"]), _listed(values["tags"])
    if len(words) != len(tags):
        raise UserError(f"{where}: {len(words)} words and {len(tags)} tags")
    label = values["label"] or None
    if label is None and not tags:
        raise UserError(f"{where}: neither a label nor words and tags")
    return Sentence(
        id=str(values["id"] if values["id"] not in (None, "") else number),
        split=split,
        lang=_code(values["lang"], where),
        text=values["text"],
        label=None if label is None else str(label),
        words=words,
        tags=tags,
        group=str(values["group"] or ""),
    )


def _listed(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(value.split()) if isinstance(value, str) else tuple(map(str, value))


def _code(name: str, where: str) -> str:
    known = from_tag(name)
    return known.code if known is not None else language(name, where).code
