"""Does a sentence find its translation among all others by the similarity of their representations?

Every encoder layer is scored in one pass, in both directions, by four rules:

    cosine            nearest by cosine (XTREME's Tatoeba)
    centred_cosine    the same after subtracting each language's mean from its states
    margin            best margin (Artetxe and Schwenk 2019), which discounts sentences that are near to everything
    centred_margin    both

The pairs are those of a corpus folder's retrieval.parquet: no two share a string, and the two
sides of a pair share no word, digit or longer run of characters, so that a model that knows nothing stays near chance,
1/n, which is the constant predictor's row. Short subword pieces may recur; the random control shows what they give.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pyarrow as pa

from xbridge.core.console import progress
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import read_rows
from xbridge.tasks.base import LanguageResult, ScoreRow
from xbridge.tasks.metrics import retrieval_accuracy

if TYPE_CHECKING:
    from torch import Tensor

PAIRS = "retrieval.parquet"
PREDICTIONS = pa.schema(
    [("id", pa.string()), ("site", pa.string()), ("margin", pa.string()), ("forward_hit", pa.bool_()),
     ("backward_hit", pa.bool_())]
)  # fmt: skip
Rule = Literal["cosine", "centred_cosine", "margin", "centred_margin"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """How sentences are represented and compared."""

    rules: tuple[Rule, ...] = ("cosine", "centred_cosine", "margin", "centred_margin")
    """Scoring rules."""
    margin: Literal["ratio", "distance"] = "ratio"
    """Margin: cosine over, or less, the mean cosine to the nearest neighbours."""
    neighbors: int = 4
    """Nearest neighbours on either side in the margin."""
    pooling: Literal["mean", "first", "last"] = "mean"
    """Sentence vector: mean over content positions, the first position or the last one."""
    sites: tuple[str, ...] | None = None
    """Layers, e.g. [encoder.0, encoder.3]; null = all."""
    max_pairs: int | None = None
    """Use the first so many pairs of a language; null = all."""

    def __post_init__(self) -> None:
        if not self.rules:
            raise ConfigError("rules", "give at least one rule")
        if self.neighbors < 1:
            raise ConfigError("neighbors", "must be at least 1")
        if self.max_pairs is not None and self.max_pairs < 2:
            raise ConfigError("max_pairs", "must be at least 2")


class Pairs(NamedTuple):
    """Sentences and their translations, row by row."""

    ids: list[str]
    source_lang: str
    source: list[str]
    target: list[str]


def evaluate(
    config: Config, model: Path, data: Path, languages: Sequence[str] | None, batch_size: int
) -> Iterator[LanguageResult]:
    """Score every target language at every site."""
    from xbridge.activations.encoder import Encoder

    groups = load_pairs(data, languages, config.max_pairs)
    encoder = Encoder.open(model)
    encoder.check_languages(groups)
    sites = encoder.choose_sites(config.sites)
    with progress("retrieval", total=len(groups), unit="language") as bar:
        for lang, pairs in groups.items():
            source = encoder.pooled(encoder.rows(pairs.source, pairs.source_lang), sites, config.pooling, batch_size)
            target = encoder.pooled(encoder.rows(pairs.target, lang), sites, config.pooling, batch_size)
            yield score_language(config, lang, pairs, source, target)
            bar.update(1, language=lang)


def score_language(
    config: Config, lang: str, pairs: Pairs, source: dict[str, "Tensor"], target: dict[str, "Tensor"]
) -> LanguageResult:
    """Hits and accuracies of one language. source, target: (n, d) by site, row i translates row i."""
    n = len(pairs.ids)
    scores: list[ScoreRow] = []
    rows: list[dict[str, Any]] = []
    for site in source:
        for rule in config.rules:
            forward, backward = hits(source[site], target[site], rule, config.margin, config.neighbors)
            values = {
                rule: retrieval_accuracy(forward, backward),
                f"{rule}_forward": sum(forward) / n,
                f"{rule}_backward": sum(backward) / n,
            }
            for metric, value in values.items():
                scores.append(ScoreRow(metric, "model", pairs.source_lang, lang, site, value, n))
                scores.append(ScoreRow(metric, "constant", pairs.source_lang, lang, site, 1 / n, n))
            rows += [
                {"id": i, "site": site, "margin": rule, "forward_hit": f, "backward_hit": b}
                for i, f, b in zip(pairs.ids, forward, backward, strict=True)
            ]
    return LanguageResult(lang, scores, pa.Table.from_pylist(rows, schema=PREDICTIONS), {"chance": 1 / n})


def hits(
    source: "Tensor", target: "Tensor", rule: Rule, margin: Literal["ratio", "distance"], neighbors: int
) -> tuple[list[bool], list[bool]]:
    """Whether row i of either side finds row i of the other: forward (source to target) and backward, each (n,)."""
    import torch

    from xbridge.ops.margin_topk import margin_scores

    if rule.startswith("centred"):
        source, target = source - source.mean(dim=0), target - target.mean(dim=0)
    found = margin_scores(source, target, neighbors, margin if rule.endswith("margin") else "absolute")
    right = torch.arange(len(source))
    return (found.forward_index.cpu() == right).tolist(), (found.backward_index.cpu() == right).tolist()


def load_pairs(data: Path, languages: Sequence[str] | None, max_pairs: int | None) -> dict[str, Pairs]:
    """Pairs by target language, in the file's order; `UserError` for a language without at least two."""
    path = data / PAIRS
    if not path.exists():
        raise UserError(f"{data}: has no {PAIRS}; sentence_retrieval reads a corpus folder")
    groups: dict[str, Pairs] = {}
    for row in read_rows(path, ("id", "source_lang", "target_lang", "source", "target")):
        pairs = groups.setdefault(row["target_lang"], Pairs([], row["source_lang"], [], []))
        if max_pairs is None or len(pairs.ids) < max_pairs:
            pairs.ids.append(row["id"])
            pairs.source.append(row["source"])
            pairs.target.append(row["target"])
    pivots = {pairs.source_lang for pairs in groups.values()}
    wanted = list(groups) if languages is None else [lang for lang in languages if lang not in pivots]
    for lang in wanted:
        if lang not in groups:
            raise UserError(f"{path}: has no pairs with {lang}; it has {', '.join(groups) or 'no pairs at all'}")
        if len(groups[lang].ids) < 2:
            raise UserError(f"{path}: {lang} has a single pair; retrieval needs at least two")
    if not wanted:
        raise UserError(f"{path}: has no target language to score")
    return {lang: groups[lang] for lang in wanted}
