"""The task-data stage: labelled sentences for fine-tuning in one language and zero-shot evaluation in others.

Writes examples.parquet and card.json. What would make a score too good is dropped and counted: a sentence with two
labels, a test sentence that is also a training sentence or stands in the pretraining corpus, a test label or tag
that training never shows.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa

from xbridge.core.config import Plugin
from xbridge.core.console import log
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import read_table, write_json, write_table
from xbridge.data.cleaning import normalise
from xbridge.data.languages import LANGUAGES, language
from xbridge.tasks.datasets import Sentence

VERSION = 1

EXAMPLES = pa.schema(
    [(name, pa.string()) for name in ("id", "split", "lang", "text", "label")]
    + [("words", pa.list_(pa.string())), ("tags", pa.list_(pa.string())), ("group", pa.string())]
)
_ORDER = {"train": 0, "dev": 1, "test": 2}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Where labelled sentences come from and which languages to keep."""

    source: Annotated[Plugin, "xbridge.tasks.datasets"]
    """Kind of data set with its settings."""
    languages: tuple[str, ...]
    """Languages to evaluate in, with the source language among them."""
    source_lang: str = "eng_Latn"
    """The language that is trained on."""
    drop_overlaps: bool = True
    """Drop ambiguous, repeated and seen sentences as above; false keeps a published benchmark as it is."""

    def __post_init__(self) -> None:
        for i, code in enumerate(self.languages):
            language(code, f"languages.{i}")
        language(self.source_lang, "source_lang")
        if self.source_lang not in self.languages:
            raise ConfigError("source_lang", f"{self.source_lang} is not among `languages`")
        if len(set(self.languages)) < len(self.languages):
            raise ConfigError("languages", "names a language twice")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the stage reads."""

    corpus: Path | None = None
    """A corpus folder: fills slots, and its texts are kept out of the test sets."""


def run(config: Config, inputs: Inputs, out: Path) -> None:
    """Write the examples, sorted by split, language and source order."""
    module = config.source.load()
    sentences = list(module.read(config.source.config, config.languages, config.source_lang, inputs.corpus))
    _check_ids(sentences)
    dropped: dict[str, Counter[str]] = {code: Counter() for code in config.languages}
    if config.drop_overlaps:
        corpus = _corpus_forms(inputs.corpus, config.languages)
        sentences = drop_overlaps(sentences, config.source_lang, corpus, dropped)
    sentences = drop_unseen(sentences, config.source_lang, dropped)
    _check_languages(sentences, config)
    place = {code: i for i, code in enumerate(config.languages)}
    sentences.sort(key=lambda s: (_ORDER[s.split], place[s.lang]))
    write_table(out / "examples.parquet", [sentence._asdict() for sentence in sentences], EXAMPLES)
    write_json(out / "card.json", _card(config, sentences, dropped, module.describe(config.source.config)))
    log("drawn", **{split: sum(s.split == split for s in sentences) for split in _ORDER})


def drop_overlaps(
    sentences: Iterable[Sentence], source_lang: str, corpus: dict[str, set[str]], dropped: dict[str, Counter[str]]
) -> list[Sentence]:
    """Sentences without those that are ambiguous, or held out and also in training or in the corpus' text."""
    sentences = list(sentences)
    labels: dict[tuple[str, str], set[str | None]] = {}
    train: dict[str, set[str]] = {}
    for s in sentences:
        labels.setdefault((s.lang, normalise(s.text)), set()).add(s.label)
        if s.split == "train":
            train.setdefault(s.lang, set()).add(normalise(s.text))
    kept = []
    for s in sentences:
        form = normalise(s.text)
        if len(labels[s.lang, form]) > 1:
            dropped[s.lang]["two labels"] += 1
        elif s.split != "train" and (form in train.get(s.lang, ()) or form in train.get(source_lang, ())):
            dropped[s.lang]["in training data"] += 1
        elif s.split != "train" and form in corpus.get(s.lang, ()):
            dropped[s.lang]["in the corpus"] += 1
        else:
            kept.append(s)
    return kept


def drop_unseen(sentences: list[Sentence], source_lang: str, dropped: dict[str, Counter[str]]) -> list[Sentence]:
    """Sentences without those held out whose label, or one of whose tags, the source's training data never shows."""
    train = [s for s in sentences if s.split == "train" and s.lang == source_lang]
    labels = {s.label for s in train}
    tags = {tag for s in train for tag in s.tags} | {"I-" + tag[2:] for s in train for tag in s.tags if tag != "O"}
    kept = []
    for s in sentences:
        if s.label not in labels:
            dropped[s.lang]["label not in training data"] += 1
        elif not tags.issuperset(s.tags):
            dropped[s.lang]["tag not in training data"] += 1
        else:
            kept.append(s)
    return kept


def _corpus_forms(corpus: Path | None, languages: tuple[str, ...]) -> dict[str, set[str]]:
    """{language: normalised texts of the corpus}."""
    forms: dict[str, set[str]] = {code: set() for code in languages}
    if corpus is not None:
        table = read_table(corpus / "mono.parquet", ["lang", "text"])
        for code, text in zip(table["lang"].to_pylist(), table["text"].to_pylist(), strict=True):
            if code in forms:
                forms[code].add(normalise(text))
    return forms


def _check_ids(sentences: list[Sentence]) -> None:
    seen: set[tuple[str, str, str]] = set()
    for s in sentences:
        if (s.split, s.lang, s.id) in seen:
            raise UserError(f"source: id {s.id!r} occurs twice in {s.split} of {s.lang}; ids must be unique there")
        seen.add((s.split, s.lang, s.id))


def _check_languages(sentences: list[Sentence], config: Config) -> None:
    present = {(s.lang, s.split) for s in sentences}
    if (config.source_lang, "train") not in present:
        raise UserError(f"source: no training sentence in {config.source_lang}, the source language")
    for code in config.languages:
        if (code, "test") not in present:
            raise UserError(f"languages: {code} ({LANGUAGES[code].name}) has no test sentence in the data set")


def _card(
    config: Config, sentences: list[Sentence], dropped: dict[str, Counter[str]], source: dict[str, Any]
) -> dict[str, Any]:
    languages = {}
    for code in config.languages:
        own = [s for s in sentences if s.lang == code]
        test = [s for s in own if s.split == "test"]
        languages[code] = {
            "name": LANGUAGES[code].name,
            "examples": {split: sum(s.split == split for s in own) for split in _ORDER},
            "test_labels": len({s.label for s in test if s.label is not None}),
            "test_slot_types": len({tag[2:] for s in test for tag in s.tags if tag != "O"}),
            "test_share_with_slots": sum(any(t != "O" for t in s.tags) for s in test) / len(test),
            "dropped": dict(sorted(dropped[code].items())),
        }
    train = [s for s in sentences if s.split == "train"]
    return {
        "source_lang": config.source_lang,
        "num_labels": len({s.label for s in train if s.label is not None}),
        "num_slot_types": len({tag[2:] for s in train for tag in s.tags if tag != "O"}),
        "languages": languages,
        "source": source,
    }
