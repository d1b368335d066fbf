"""Stage: representations of held-out sentences at every encoder layer, one vector per sentence, for later analysis.

Rows are aligned by id: in the table `nway` (strings that all languages have) row i is the same string in every
language; in the table `examples` (a task's test sentences) each language has its own, with labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from xbridge.core.config import undigested
from xbridge.core.console import progress
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import read_rows
from xbridge.core.runtime import derive_seed

VERSION = 1
FILES = {"nway": "nway.parquet", "examples": "examples.parquet"}
STAGES = {"nway": "corpus", "examples": "taskdata"}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which sentences, which layers, which vector."""

    table: Literal["nway", "examples"] = "nway"
    """nway: a corpus folder's nway.parquet; examples: the test split of a taskdata folder's examples.parquet."""
    languages: tuple[str, ...] | None = None
    """Languages; null = all that the table has."""
    sites: tuple[str, ...] | None = None
    """Layers, e.g. [encoder.0, encoder.3]; null = all."""
    pooling: Literal["mean", "first", "last"] = "mean"
    """Sentence vector: mean over content positions (no language code, no </s>), the first or the last position."""
    max_sentences: int | None = None
    """A fixed sample of so many sentences per language, the same ids in every language; null = all."""
    batch_size: int = undigested(128)
    """Sentences per forward pass."""

    def __post_init__(self) -> None:
        for name in ("max_sentences", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(name, f"must be at least 1, got {value}")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the stage reads."""

    model: Path
    """A train folder."""
    sentences: Path
    """A corpus or taskdata folder."""


class Sentences(NamedTuple):
    """Sentences of one language. `labels` is None where there are none."""

    ids: list[str]
    texts: list[str]
    labels: list[str] | None


def run(config: Config, inputs: Inputs, out: Path) -> None:
    """Write `out`/<lang>/<site>.safetensors and, last, index.json."""
    from xbridge.activations.encoder import Encoder
    from xbridge.activations.store import shard_path, write_index, write_states

    sentences = load_sentences(inputs.sentences, config)
    encoder = Encoder.open(inputs.model)
    encoder.check_languages(sentences)
    sites = encoder.choose_sites(config.sites)
    with progress("encode", total=sum(len(s.ids) for s in sentences.values()), unit="sentence") as bar:
        for lang, (ids, texts, _) in sentences.items():
            pooled = encoder.pooled(encoder.rows(texts, lang), sites, config.pooling, config.batch_size)
            for site, states in pooled.items():
                write_states(shard_path(out, lang, site), states)
            bar.update(len(ids), language=lang)
    labels = {lang: s.labels for lang, s in sentences.items() if s.labels is not None}
    write_index(
        out,
        sites=sites,
        dim=encoder.dim,
        pooling=config.pooling,
        ids={lang: s.ids for lang, s in sentences.items()},
        labels=labels if len(labels) == len(sentences) else None,
    )


def load_sentences(folder: Path, config: Config) -> dict[str, Sentences]:
    """Sentences by language, in the config's order of languages."""
    path = folder / FILES[config.table]
    if not path.exists():
        raise UserError(
            f"{folder}: has no {path.name}; table {config.table} is written by `xbridge {STAGES[config.table]}`"
        )
    columns = ("id", "lang", "text") if config.table == "nway" else ("id", "lang", "text", "split", "label")
    groups: dict[str, list[Mapping[str, str | None]]] = {}
    for row in read_rows(path, columns):
        if row.get("split", "test") == "test":
            groups.setdefault(row["lang"], []).append(row)
    languages = config.languages or tuple(groups)
    for lang in languages:
        if lang not in groups:
            raise UserError(f"{path}: has no sentences in {lang}; it has {', '.join(groups) or 'none at all'}")
    if not languages:
        raise UserError(f"{path}: has no sentences")
    if config.table == "nway":
        groups = {lang: sorted(groups[lang], key=lambda row: str(row["id"])) for lang in languages}
    found = {lang: _sample(groups[lang], config.max_sentences) for lang in languages}
    if config.table == "nway":
        found[languages[0]] = _partners(groups[languages[0]], found, languages)
    return found


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
