"""Sentences whose states are extracted, from the tables of a corpus or taskdata folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from xbridge.core.errors import UserError
from xbridge.core.files import read_rows
from xbridge.core.runtime import derive_seed

Table: TypeAlias = Literal["nway", "examples"]
FILES = {"nway": "nway.parquet", "examples": "examples.parquet"}
STAGES = {"nway": "corpus", "examples": "taskdata"}


class Sentences(NamedTuple):
    """Sentences of one language. `labels` is None where there are none."""

    ids: list[str]
    texts: list[str]
    labels: list[str] | None


def load_sentences(
    folder: Path, table: Table, languages: Sequence[str] | None, max_sentences: int | None
) -> dict[str, Sentences]:
    """Sentences by language, in the order of `languages` (None: all that the table has)."""
    path = table_path(folder, table)
    columns = ("id", "lang", "text") if table == "nway" else ("id", "lang", "text", "split", "label")
    groups: dict[str, list[Mapping[str, str | None]]] = {}
    for row in read_rows(path, columns):
        if row.get("split", "test") == "test":
            groups.setdefault(row["lang"], []).append(row)
    languages = languages or tuple(groups)
    for lang in languages:
        if lang not in groups:
            raise UserError(f"{path}: has no sentences in {lang}; it has {', '.join(groups) or 'none at all'}")
    if not languages:
        raise UserError(f"{path}: has no sentences")
    if table == "nway":
        groups = {lang: sorted(groups[lang], key=lambda row: str(row["id"])) for lang in languages}
    found = {lang: _sample(groups[lang], max_sentences) for lang in languages}
    if table == "nway":
        found[languages[0]] = _partners(groups[languages[0]], found, languages)
    return found


def translations(folder: Path, lang: str, ids: Sequence[str], of: str) -> list[str]:
    """The sentences of `lang` with these ids; `UserError` names an id of language `of` that it does not have."""
    path = table_path(folder, "nway")
    texts = {str(row["id"]): str(row["text"]) for row in read_rows(path, ("id", "lang", "text")) if row["lang"] == lang}
    for id_ in ids:
        if id_ not in texts:
            raise UserError(
                f"{path}: sentence {id_} of {of} has no translation in {lang}, which the decoder is to read"
            )
    return [texts[id_] for id_ in ids]


def table_path(folder: Path, table: Table) -> Path:
    """The table's file; `UserError` where the folder has none."""
    path = folder / FILES[table]
    if not path.exists():
        raise UserError(f"{folder}: has no {path.name}; table {table} is written by `xbridge {STAGES[table]}`")
    return path


def _partners(
    rows: Sequence[Mapping[str, str | None]], found: Mapping[str, Sentences], languages: Sequence[str]
) -> Sentences:
    """Of the first language (the pivot), the rows whose translations were sampled, where it has all of those.

    In an n-way table they are its own sample; in a table of pairs it has the sentences of every other language.
    """
    wanted = {id_ for lang in languages[1:] for id_ in found[lang].ids}
    if not wanted or not wanted <= {str(row["id"]) for row in rows}:
        return found[languages[0]]
    return _sample([row for row in rows if row["id"] in wanted], None)


def _sample(rows: Sequence[Mapping[str, str | None]], max_sentences: int | None) -> Sentences:
    """Rows by the order of a hash of their id: a sample has the same ids in every language that has the same ids."""
    if max_sentences is not None and len(rows) > max_sentences:
        kept = {
            str(row["id"]) for row in sorted(rows, key=lambda r: derive_seed("sample", str(r["id"])))[:max_sentences]
        }
        rows = [row for row in rows if row["id"] in kept]
    labels = [row.get("label") for row in rows]
    known = [label for label in labels if label is not None]
    return Sentences(
        [str(row["id"]) for row in rows],
        [str(row["text"]) for row in rows],
        known if len(known) == len(labels) else None,
    )
