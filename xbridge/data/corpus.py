"""The corpus stage: sources -> clean, split, leak-free tables and a data card.

Writes bitext.parquet, mono.parquet, nway.parquet, retrieval.parquet, near_duplicates.parquet, entries.parquet and
card.json. All tables are sorted by content, so they do not depend on the order of the sources' rows.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa

from xbridge.core.config import Plugin
from xbridge.core.console import log
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import write_json, write_table
from xbridge.data.bitext import MIN_NWAY, Bitext, build
from xbridge.data.card import make_card
from xbridge.data.cleaning import Cleaning, judge
from xbridge.data.entries import Entry, Pool
from xbridge.data.languages import language
from xbridge.data.splitting import Split, max_jaccard

VERSION = 1
NUM_NEAR_DUPLICATES = 5000
"""Held-out strings that are searched for near-duplicates in the training text: the search is quadratic."""

ENTRIES = pa.schema([("key", pa.string()), ("lang", pa.string()), ("text", pa.string())])
BITEXT = pa.schema([(name, pa.string()) for name in ("id", "split", "source_lang", "target_lang", "source", "target")])
RETRIEVAL = pa.schema([(name, pa.string()) for name in ("id", "source_lang", "target_lang", "source", "target")])
MONO = pa.schema([("split", pa.string()), ("lang", pa.string()), ("text", pa.string())])
NWAY = pa.schema([("id", pa.string()), ("lang", pa.string()), ("text", pa.string())])
NEAR = pa.schema([("id", pa.string()), ("split", pa.string()), ("text", pa.string()), ("jaccard", pa.float64())])


@dataclass(frozen=True, kw_only=True)
class Config:
    """Languages, where their text comes from, and how it is cleaned and split."""

    languages: tuple[str, ...]
    """Language codes; the first is the pivot, which every pair has on its source side."""
    sources: tuple[Annotated[Plugin, "xbridge.data.sources"], ...]
    """Kinds of parallel text with their settings; their rows are pooled."""
    cleaning: Cleaning = field(default_factory=Cleaning)
    """What counts as usable text."""
    split: Split = field(default_factory=Split)
    """Shares held out."""
    retrieval_pool: int = 300
    """Overlap-free test pairs per language that sentence retrieval ranks (fewer where there are fewer)."""

    def __post_init__(self) -> None:
        for i, code in enumerate(self.languages):
            language(code, f"languages.{i}")
        if len(self.languages) < 2:
            raise ConfigError("languages", "name the pivot and at least one other language")
        if len(set(self.languages)) < len(self.languages):
            raise ConfigError("languages", "names a language twice")
        if not self.sources:
            raise ConfigError("sources", "name at least one source of parallel text")
        if self.retrieval_pool < 2:
            raise ConfigError("retrieval_pool", "must be at least 2")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The corpus reads no other stage."""


def run(config: Config, inputs: Inputs, out: Path) -> None:
    """Build the corpus in `out`; raises `UserError` where a language ends up without training or test pairs."""
    pool = Pool(dropped={code: Counter() for code in config.languages})
    for number, source in enumerate(config.sources):
        before = len(pool.entries)
        _read_source(config, source, pool)
        if len(pool.entries) == before:
            raise UserError(f"sources.{number} ({source.type}): holds no usable text in {', '.join(config.languages)}")
        log("read", source=source.type, entries=len(pool.entries) - before)
    bitext = build(pool.entries, config.languages, config.cleaning, config.split, config.retrieval_pool, pool.dropped)
    _check_languages(config, bitext, pool)
    near = _near_duplicates(bitext, config.languages[0])
    _write(out, pool, bitext, near)
    sources = [source.load().describe(source.config) for source in config.sources]
    jaccard = [row["jaccard"] for row in near if row["split"] == "test"]
    card = make_card(config.languages, pool, bitext, jaccard, sources)
    write_json(out / "card.json", card)
    if bitext.num_nway < MIN_NWAY:
        log("nway", strings_in_all_languages=bitext.num_nway, compared_instead="the test pairs of each language")
    log("split", train=len(bitext.train), held_out=len(bitext.held_out), nway=card["nway"])


def _read_source(config: Config, source: Plugin, pool: Pool) -> None:
    """Clean every text of a source, and count what its language loses to which filter."""
    for entry in source.load().read(source.config, config.languages, config.languages[0]):
        kept: dict[str, str] = {}
        for code, raw in entry.texts.items():
            pool.num_read[code] += 1
            text, reason = judge(raw, code, config.cleaning)
            if reason is None:
                kept[code] = text
            else:
                pool.dropped[code][reason] += 1
        if kept:
            pool.entries.append(Entry(entry.key, kept))


def _check_languages(config: Config, bitext: Bitext, pool: Pool) -> None:
    """Every language needs training and test pairs; else say which filter took most."""
    for code in config.languages[1:]:
        for split, rows in (("train", bitext.train), ("test", [r for r in bitext.held_out if r["split"] == "test"])):
            if any(row["target_lang"] == code for row in rows):
                continue
            lost = pool.dropped[code].most_common(1)
            why = (
                f"the filter {lost[0][0]!r} removed most ({lost[0][1]})"
                if lost and lost[0][1]
                else "no filter removed any"
            )
            name = f"{code} ({language(code).name})"
            raise UserError(
                f"languages: {name} has no {split} pair: of {pool.num_read[code]} texts read, {why}; "
                "add text, loosen `cleaning` or `split`, or leave the language out"
            )


def _near_duplicates(bitext: Bitext, pivot: str) -> list[dict[str, Any]]:
    """For every held-out pivot string, its highest word Jaccard with a training pivot string.

    Of more than `NUM_NEAR_DUPLICATES` strings, those that are retrieved or compared come first.
    """
    used = {row["id"] for row in bitext.retrieval} | {row["id"] for row in bitext.nway}
    texts = {row["id"]: (row["split"], row["source"]) for row in bitext.held_out}
    first = sorted(texts, key=lambda id_: (id_ not in used, id_))[:NUM_NEAR_DUPLICATES]
    held_out = {id_: texts[id_] for id_ in sorted(first)}
    train = [row["text"] for row in bitext.mono if row["lang"] == pivot and row["split"] == "train"]
    scores = max_jaccard([text for _, text in held_out.values()], train)
    return [
        {"id": id_, "split": split, "text": text, "jaccard": float(score)}
        for (id_, (split, text)), score in zip(held_out.items(), scores, strict=True)
    ]


def _write(out: Path, pool: Pool, bitext: Bitext, near: list[dict[str, Any]]) -> None:
    keyed = sorted((e.key, code, text) for e in pool.entries if e.key for code, text in e.texts.items())
    keys, codes, texts = zip(*keyed, strict=True) if keyed else ((), (), ())
    write_table(
        out / "entries.parquet",
        pa.Table.from_arrays([pa.array(c, pa.string()) for c in (keys, codes, texts)], schema=ENTRIES),
    )
    write_table(out / "bitext.parquet", bitext.train + bitext.held_out, BITEXT)
    write_table(out / "mono.parquet", bitext.mono, MONO)
    write_table(out / "nway.parquet", bitext.nway, NWAY)
    write_table(out / "retrieval.parquet", bitext.retrieval, RETRIEVAL)
    write_table(out / "near_duplicates.parquet", near, NEAR)
