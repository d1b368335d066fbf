"""Scores of translations during training: held-out pairs are translated by search and scored, direction by direction.

The pairs are the dev split of the corpus folders' bitext.parquet, a fixed sample per direction, the same at every
validation and in every training on the corpus. A direction between two languages that are paired with the pivot only
joins their pairs on the pivot's string. Each validation leaves translations/step-000500.parquet beside metrics.jsonl.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import pyarrow.compute as pc

from xbridge.core.config import InputPath, Plugin, undigested
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import read_table, write_table
from xbridge.core.runtime import derive_seed
from xbridge.training.translation_metrics import Metric, Scorer, check_metrics, score

if TYPE_CHECKING:
    from torch import nn

    from xbridge.models.families import Conventions
    from xbridge.training.validation import Scores, Signatures

BITEXT = "bitext.parquet"


@dataclass(frozen=True, kw_only=True)
class TranslationScores:
    """What is translated and scored while a model trains."""

    every: int = 0
    """Updates between two scorings, a multiple of validate_every; 0 = only before and after."""
    directions: tuple[str, ...] | None = None
    """Such as [eng_Latn-deu_Latn]; null = those that are trained."""
    rows: int = 200
    """Held-out pairs per direction, a fixed sample."""
    max_new_tokens: int = 48
    """Longest translation, in tokens; sources are cut there too."""
    num_beams: int = 1
    """Beams of the search; 1 = greedy."""
    metrics: tuple[Metric, ...] = ("chrf++", "bleu")
    """chrf, chrf++, bleu and spbleu."""
    pieces: InputPath | None = None
    """A sentencepiece model for spbleu; null = FLORES-200's in sacrebleu's own folder."""
    scorers: tuple[Annotated[Plugin, "xbridge.training.scorers"], ...] = ()
    """Other metrics, e.g. {type: comet, model: path/to/checkpoint} or a module of yours."""
    batch_tokens: int = undigested(8192)
    """Tokens per forward pass: rows x beams x (source + translation)."""

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ConfigError("every", f"must be 0 (only before and after) or more, got {self.every}")
        for name in ("rows", "max_new_tokens", "num_beams", "batch_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(name, f"must be at least 1, got {getattr(self, name)}")
        if not self.metrics and not self.scorers:
            raise ConfigError("metrics", "give at least one of chrf, chrf++, bleu and spbleu, or a scorer")
        for index, direction in enumerate(self.directions or ()):
            if not is_direction(direction):
                raise ConfigError(f"directions.{index}", f"{direction!r} is not like eng_Latn-deu_Latn")

    def names(self) -> list[str]:
        """What the scores are called, as far as the settings tell."""
        return [*self.metrics, *(plugin.type.rsplit(".", 1)[-1] for plugin in self.scorers)]


class HeldOut(NamedTuple):
    """Held-out pairs of one direction."""

    ids: list[str]
    sources: list[str]
    references: list[str]


def is_direction(name: str) -> bool:
    """True of `eng_Latn-deu_Latn`."""
    source, hyphen, target = name.partition("-")
    return bool(hyphen and source and target and source != target)


def directions_of(config: TranslationScores, parts: Sequence[str]) -> list[str]:
    """The directions to score: those given, else those among the parts of the objective; `ConfigError` for none."""
    names = [part.rsplit("/", 1)[-1] for part in parts]
    found = config.directions or list(dict.fromkeys(name for name in names if is_direction(name)))
    if not found:
        raise ConfigError(
            "translation_scores.directions", "the objective has no directions; name them, e.g. [eng_Latn-deu_Latn]"
        )
    return list(found)


class TranslationValidation:
    """Call it with a step and a model on all ranks together. Every rank gets the scores; rank 0 keeps the texts.

    Errors: `UserError` for a metric or a direction that is not there, before anything is trained.
    """

    def __init__(
        self,
        config: TranslationScores,
        directions: Sequence[str],
        corpora: Sequence[Path],
        folder: Path,
        tokenizer: Any,
        conventions: "Conventions",
    ):
        check_metrics(config.metrics, config.pieces)
        self._config, self._folder = config, folder
        self._tokenizer, self._conventions = tokenizer, conventions
        self._scorers: list[Scorer] = [plugin.load().build(plugin.config) for plugin in config.scorers]
        self._held_out = held_out_pairs(corpora, directions, config.rows)
        for lang in dict.fromkeys(lang for direction in directions for lang in direction.split("-")):
            conventions.check_language(lang)

    def __call__(
        self, step: int, model: "nn.Module", poll: Callable[[], None] = lambda: None
    ) -> tuple["Scores", "Signatures"]:
        from xbridge.models.encoding import max_positions
        from xbridge.models.generation import Request, Search, first_rank_says, translate

        requests = [
            Request(text, *direction.split("-"))
            for direction, pairs in self._held_out.items()
            for text in pairs.sources
        ]
        room = max_positions(model) - self._conventions.num_around()
        search = Search(
            max_new_tokens=min(self._config.max_new_tokens, room),
            num_beams=self._config.num_beams,
            batch_tokens=self._config.batch_tokens,
        )
        texts = iter(translate(model, self._tokenizer, self._conventions, requests, search, between=poll))
        said = {direction: [next(texts) for _ in pairs.ids] for direction, pairs in self._held_out.items()}
        found: tuple[Scores, Signatures] = first_rank_says(lambda: self._keep_and_score(step, said))
        return found

    def _keep_and_score(self, step: int, said: Mapping[str, list[str]]) -> tuple["Scores", "Signatures"]:
        write_table(
            self._folder / f"step-{step:06d}.parquet",
            [
                {"id": i, "direction": direction, "source": source, "reference": reference, "hypothesis": hypothesis}
                for direction, texts in said.items()
                for i, source, reference, hypothesis in zip(*self._held_out[direction], texts, strict=True)
            ],
        )
        scores: dict[str, dict[str, float]] = {}
        signatures: dict[str, dict[str, list[str]]] = {}
        for direction, texts in said.items():
            for name, value, signature in self._judged(direction, texts):
                scores.setdefault(direction, {})[name] = value
                signatures.setdefault(name, {}).setdefault(signature, []).append(direction)
        return scores, signatures

    def _judged(self, direction: str, texts: list[str]) -> Iterator[tuple[str, float, str]]:
        """Name, score and signature of every metric."""
        pairs, target_lang = self._held_out[direction], direction.split("-")[1]
        for metric in self._config.metrics:
            yield (metric, *score(metric, texts, pairs.references, target_lang, pieces=self._config.pieces))
        for scorer in self._scorers:
            yield scorer.name, scorer.score(pairs.sources, texts, pairs.references), scorer.signature


def held_out_pairs(corpora: Sequence[Path], directions: Sequence[str], rows: int) -> dict[str, HeldOut]:
    """At most `rows` dev pairs of each direction, chosen by their ids, from the first corpus that has any.

    `UserError` where none has.
    """
    tables = [_dev_pairs(corpus) for corpus in corpora]
    found = {}
    for direction in directions:
        pairs = next(filter(None, (_of_direction(table, *direction.split("-")) for table in tables)), None)
        if pairs is None:
            where = " or ".join(str(corpus / BITEXT) for corpus in corpora)
            raise UserError(f"translation_scores.directions: no dev pairs for {direction} in {where}")
        chosen = sorted(pairs, key=lambda pair: derive_seed("sample", pair[0]))[:rows]
        found[direction] = HeldOut(*(list(column) for column in zip(*sorted(chosen), strict=True)))
    return found


def _dev_pairs(corpus: Path) -> dict[tuple[str, str], list[tuple[str, str, str]]]:
    """(id, source, target) by source and target language."""
    if not (corpus / BITEXT).exists():
        raise UserError(f"translation_scores: {corpus} has no {BITEXT} to take held-out text from; leave scores out")
    columns = ["id", "source_lang", "target_lang", "source", "target"]
    found: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
    for row in read_table(corpus / BITEXT, columns, where=pc.field("split") == "dev").to_pylist():
        key = (row["source_lang"], row["target_lang"])
        found.setdefault(key, []).append((row["id"], row["source"], row["target"]))
    return found


def _of_direction(
    pairs: Mapping[tuple[str, str], list[tuple[str, str, str]]], source: str, target: str
) -> list[tuple[str, str, str]]:
    """Pairs (id, source, target) as they are, turned round, or joined on a pivot's string."""
    if (source, target) in pairs:
        return pairs[source, target]
    if (target, source) in pairs:
        return [(i, theirs, ours) for i, ours, theirs in pairs[target, source]]
    joined = []
    for pivot in dict.fromkeys(first for first, _ in pairs):
        others: dict[str, tuple[str, str]] = {}
        for i, text, theirs in pairs.get((pivot, target), ()):
            others.setdefault(text, (i, theirs))
        for i, text, ours in pairs.get((pivot, source), ()):
            if text in others:
                joined.append((f"{i}+{others[text][0]}", ours, others[text][1]))
    return joined
