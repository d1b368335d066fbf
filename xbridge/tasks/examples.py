"""Labelled examples as a taskdata folder holds them, read with messages that name file, language and example."""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from xbridge.core.errors import UserError
from xbridge.core.files import read_table

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
    columns = read_table(path, COLUMNS).to_pydict()  # by column: far faster than by row
    for ident, split, lang, text, label, words, tags in zip(*(columns[name] for name in COLUMNS), strict=True):
        if tags and len(words or ()) != len(tags):
            raise UserError(f"{path}: example {ident!r} ({lang}) has {len(words or ())} words and {len(tags)} tags")
        if (split, lang, ident) in seen:
            raise UserError(f"{path}: id {ident!r} occurs twice in {split} of {lang}")
        seen.add((split, lang, ident))
        example = Example(ident, lang, text, label, tuple(words or ()), tuple(tags or ()))
        groups.setdefault((split, lang), []).append(example)
    return groups


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
