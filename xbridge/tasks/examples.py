"""Labelled examples as a taskdata folder holds them, read with messages that name file, language and example."""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from xbridge.core.errors import UserError
from xbridge.core.files import read_rows

EXAMPLES = "examples.parquet"
COLUMNS = ("id", "split", "lang", "text", "label", "words", "tags")


class Example(NamedTuple):
    """One labelled sentence. `label` is None in tagging data; `words` and `tags` are empty in classification data."""

    id: str
    lang: str
    text: str
    label: str | None
    words: tuple[str, ...]
    tags: tuple[str, ...]


def load_examples(folder: Path, split: str, lang: str) -> list[Example]:
    """Examples of one split and language, in file order. `UserError` where there are none."""
    path = folder / EXAMPLES
    if not path.exists():
        raise UserError(f"{folder}: has no {EXAMPLES}, so it is not a task's data; run `xbridge taskdata` first")
    groups = _groups(path, path.stat().st_mtime_ns)
    examples = groups.get((split, lang))
    if not examples:
        languages = sorted({found for _, found in groups})
        if lang not in languages:
            raise UserError(f"{path}: has no examples in {lang}; it has {', '.join(languages) or 'no examples'}")
        splits = sorted(name for name, found in groups if found == lang)
        raise UserError(f"{path}: split {split!r} has no examples in {lang}; there are: {', '.join(splits)}")
    return examples


def languages_of(folder: Path, split: str) -> tuple[str, ...]:
    """Languages with examples in a split, in order of appearance."""
    path = folder / EXAMPLES
    if not path.exists():
        raise UserError(f"{folder}: has no {EXAMPLES}, so it is not a task's data; run `xbridge taskdata` first")
    return tuple(lang for found, lang in _groups(path, path.stat().st_mtime_ns) if found == split)


@lru_cache(maxsize=4)  # a study's worker fine-tunes and evaluates many times on the same few files
def _groups(path: Path, _modified: int) -> dict[tuple[str, str], list[Example]]:
    groups: dict[tuple[str, str], list[Example]] = {}
    seen: set[tuple[str, str, str]] = set()
    for row in read_rows(path, COLUMNS):
        example = _example(path, row)
        key = (row["split"], example.lang, example.id)
        if key in seen:
            raise UserError(f"{path}: id {example.id!r} occurs twice in {row['split']} of {example.lang}")
        seen.add(key)
        groups.setdefault((row["split"], example.lang), []).append(example)
    return groups


def _example(path: Path, row: dict[str, Any]) -> Example:
    words, tags = tuple(row["words"] or ()), tuple(row["tags"] or ())
    if len(words) != len(tags) and tags:
        raise UserError(f"{path}: example {row['id']!r} ({row['lang']}) has {len(words)} words and {len(tags)} tags")
    return Example(row["id"], row["lang"], row["text"], row["label"], words, tags)


def require(examples: Iterable[Example], field: str, folder: Path) -> None:
    """Raise `UserError` for the first example without `field` (label or tags)."""
    for example in examples:
        if not getattr(example, field):
            raise UserError(f"{folder / EXAMPLES}: example {example.id!r} ({example.lang}) has no {field}")


def check_known(golds: Iterable[str], known: Iterable[str], lang: str, folder: Path) -> None:
    """Raise `UserError` when gold labels occur that the head was not trained on."""
    unknown = sorted(set(golds) - set(known))
    if unknown:
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise UserError(
            f"{folder / EXAMPLES}: {lang} has {len(unknown)} labels that the head does not know ({shown}); "
            "evaluate on the data it was fine-tuned on, or set unknown_labels: wrong to count them as errors"
        )
