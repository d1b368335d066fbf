"""Translation of held-out pairs, from the pivot and into it, scored by sacrebleu.

The pairs are the test split of a corpus folder's bitext.parquet. The floor beside the model's scores is `copy`: the
source text as the hypothesis, which is worth something wherever names and numbers stay as they are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from xbridge.core.console import progress
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import read_table
from xbridge.core.runtime import derive_seed
from xbridge.tasks.base import LanguageResult, ScoreRow
from xbridge.training.translation_metrics import Metric, check_metrics, score

BITEXT = "bitext.parquet"
COLUMNS = ("id", "split", "source_lang", "target_lang", "source", "target")
PREDICTIONS = pa.schema(
    [("id", pa.string()), ("direction", pa.string()), ("source", pa.string()), ("reference", pa.string()),
     ("hypothesis", pa.string())]
)  # fmt: skip
Direction = Literal["from_pivot", "to_pivot"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is translated, and how."""

    directions: tuple[Direction, ...] = ("from_pivot", "to_pivot")
    """Translate the pivot into each language, each language into the pivot, or both."""
    max_pairs: int | None = 200
    """A fixed sample of so many pairs per language; null = all."""
    max_new_tokens: int = 48
    """Longest hypothesis, in tokens; sources are cut there too."""
    num_beams: int = 1
    """Beams of the search; 1 = greedy."""
    metrics: tuple[Metric, ...] = ("chrf", "bleu")
    """chrf, chrf++, bleu and spbleu; spbleu needs FLORES-200's sentencepiece model on disk."""
    lowercase: bool = False
    """Score without regard to case: fair where the tokenizer folds case, so that no model could get it right."""

    def __post_init__(self) -> None:
        if not self.directions:
            raise ConfigError("directions", "give from_pivot, to_pivot or both")
        if not self.metrics:
            raise ConfigError("metrics", "give at least one of chrf, chrf++, bleu and spbleu")
        for name in ("max_pairs", "max_new_tokens", "num_beams"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(name, f"must be at least 1, got {value}")


class Pairs(NamedTuple):
    """Held-out pairs with one language."""

    ids: list[str]
    pivot: str
    pivot_texts: list[str]
    texts: list[str]


def evaluate(
    config: Config, model: Path, data: Path, languages: Sequence[str] | None, batch_size: int
) -> Iterator[LanguageResult]:
    """Translate and score every language."""
    from xbridge.activations.encoder import Encoder
    from xbridge.models.generation import Request, Search, translate

    check_metrics(config.metrics)
    groups = load_pairs(data, languages, config.max_pairs)
    encoder = Encoder.open(model, with_decoder=True)
    if not encoder.model.config.is_encoder_decoder:
        raise UserError(f"{model}: has no decoder, so it cannot translate")
    encoder.check_languages(groups)
    max_tokens = min(config.max_new_tokens, encoder.max_tokens)
    longest = 2 * max_tokens + encoder.conventions.num_around()
    search = Search(
        max_new_tokens=max_tokens, num_beams=config.num_beams, batch_tokens=batch_size * config.num_beams * longest
    )
    with progress("translate", total=len(groups) * len(config.directions), unit="direction") as bar:
        for lang, pairs in groups.items():
            hypotheses: dict[Direction, list[str]] = {}
            for direction in config.directions:
                source_lang, target_lang, sources, _ = oriented(pairs, lang, direction)
                requests = [Request(text, source_lang, target_lang) for text in sources]
                hypotheses[direction] = translate(
                    encoder.model, encoder.tokenizer, encoder.conventions, requests, search
                )
                bar.update(1, language=lang)
            yield score_language(lang, pairs, hypotheses, config.metrics, lowercase=config.lowercase)


def oriented(pairs: Pairs, lang: str, direction: Direction) -> tuple[str, str, list[str], list[str]]:
    """Source language, target language, sources and references of a direction."""
    if direction == "from_pivot":
        return pairs.pivot, lang, pairs.pivot_texts, pairs.texts
    return lang, pairs.pivot, pairs.texts, pairs.pivot_texts


def score_language(
    lang: str,
    pairs: Pairs,
    hypotheses: dict[Direction, list[str]],
    metrics: Sequence[Metric],
    *,
    lowercase: bool = False,
) -> LanguageResult:
    """Scores of each direction, which is the metric's suffix, with signatures. Rows name the pivot as source."""
    scores: list[ScoreRow] = []
    rows: list[dict[str, str]] = []
    signatures: dict[str, str] = {}
    for direction, said in hypotheses.items():
        _, target_lang, sources, references = oriented(pairs, lang, direction)
        for predictor, candidates in (("model", said), ("copy", sources)):
            for metric in metrics:
                result = score(metric, candidates, references, target_lang, lowercase=lowercase)
                name = f"{metric}_{direction}"
                scores.append(ScoreRow(name, predictor, pairs.pivot, lang, "", result.value, len(references)))
                signatures[name] = result.signature
        rows += [
            {"id": i, "direction": direction, "source": s, "reference": r, "hypothesis": h}
            for i, s, r, h in zip(pairs.ids, sources, references, said, strict=True)
        ]
    return LanguageResult(lang, scores, pa.Table.from_pylist(rows, schema=PREDICTIONS), {"signatures": signatures})


def load_pairs(data: Path, languages: Sequence[str] | None, max_pairs: int | None) -> dict[str, Pairs]:
    """A fixed sample of the test pairs by language (the same for every model); `UserError` where there are none."""
    path = data / BITEXT
    if not path.exists():
        raise UserError(f"{data}: has no {BITEXT}; generation reads a corpus folder")
    table = read_table(path, COLUMNS)
    groups: dict[str, list[dict[str, str]]] = {}
    for row in table.filter(pc.equal(table["split"], "test")).to_pylist():
        groups.setdefault(row["target_lang"], []).append(row)
    pivots = {row["source_lang"] for rows in groups.values() for row in rows[:1]}
    wanted = list(groups) if languages is None else [lang for lang in languages if lang not in pivots]
    for lang in wanted:
        if lang not in groups:
            raise UserError(f"{path}: has no test pairs with {lang}; it has {', '.join(groups) or 'none at all'}")
    if not wanted:
        raise UserError(f"{path}: has no target language to translate")
    return {lang: _sample(groups[lang], max_pairs) for lang in wanted}


def _sample(rows: list[dict[str, str]], max_pairs: int | None) -> Pairs:
    rows = sorted(rows, key=lambda row: derive_seed("sample", row["id"]))[:max_pairs]
    rows.sort(key=lambda row: row["id"])
    return Pairs(
        [row["id"] for row in rows],
        rows[0]["source_lang"],
        [row["source"] for row in rows],
        [row["target"] for row in rows],
    )
