"""Scores on resampled test sets, from per-example counts.

Every metric here is a function of sums over examples: hits, hits and examples of each class, or right, predicted and
gold spans. A bootstrap resampling of the examples is then a matrix product, and the metric is aggregated anew inside
it: macro accuracy over the classes drawn, F1 over the spans drawn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from xbridge.core.files import read_table
from xbridge.ops.spans import Span, lenient_spans, strict_spans

Array = np.ndarray


@dataclass(frozen=True)
class Counts:
    """Per-example counts (n, K) of one run on one test set, and the score (B,) of sums (B, K)."""

    ids: Sequence[str]
    counts: Array
    score: Callable[[Array], Array]

    def value(self) -> float:
        """The score on all examples."""
        return float(self.score(self.counts.sum(0, keepdims=True))[0])


def resample(counts: Sequence[Counts], weights: Array) -> list[Array]:
    """The scores of runs on one test set on each resampling, (B,) each; weights: (B, n), how often each is drawn."""
    sums = weights @ np.hstack([c.counts for c in counts])
    edges = np.cumsum([c.counts.shape[1] for c in counts])[:-1]
    return [c.score(part) for c, part in zip(counts, np.split(sums, edges, axis=1), strict=True)]


class Predictions:
    """What one run said about each example of one language: a file of an evaluate folder's predictions."""

    def __init__(self, columns: dict[str, list[Any]]):
        self.columns = columns
        self._rows: dict[tuple[str, str], list[int]] = {}
        for index, cell in enumerate(zip(columns.get("site", ()), columns.get("margin", ()), strict=True)):
            self._rows.setdefault(cell, []).append(index)

    @classmethod
    def read(cls, folder: Path, lang: str) -> "Predictions | None":
        """Predictions of one language; None where the folder has none."""
        path = folder / "predictions" / f"{lang}.parquet"
        return cls(read_table(path).to_pydict()) if path.exists() else None

    def counts(self, metric: str, site: str) -> Counts | None:
        """Counts of a metric (at a site, for retrieval); None for a metric that is not a sum over examples, as BLEU."""
        if "forward_hit" in self.columns:
            return self._retrieval(metric, site)
        if "gold" not in self.columns:
            return None
        gold, said = self.columns["gold"], self.columns["prediction"]
        ids = [str(i) for i in self.columns["id"]]
        if metric == "accuracy":
            return Counts(ids, _with_ones(np.array([g == p for g, p in zip(gold, said, strict=True)])), _ratio)
        if metric == "macro_accuracy":
            return Counts(ids, class_counts(gold, said), _mean_over_classes)
        if metric in _TAG_COUNTS and isinstance(gold[0], list):
            count = _TAG_COUNTS[metric]
            rows = np.array([count(g, p) for g, p in zip(gold, said, strict=True)]).astype(float)
            return Counts(ids, rows, _ratio if metric == "tag_accuracy" else _f1)
        return None

    def _retrieval(self, metric: str, site: str) -> Counts | None:
        rule, direction = metric, "both"
        for suffix in ("forward", "backward"):
            if metric.endswith(f"_{suffix}"):
                rule, direction = metric.removesuffix(f"_{suffix}"), suffix
        rows = self._rows.get((site, rule))
        if rows is None:
            return None
        hits = {key: np.array([self.columns[f"{key}_hit"][i] for i in rows], float) for key in ("forward", "backward")}
        hit = (hits["forward"] + hits["backward"]) / 2 if direction == "both" else hits[direction]
        return Counts([str(self.columns["id"][i]) for i in rows], _with_ones(hit), _ratio)


def class_counts(gold: Sequence[object], said: Sequence[object]) -> Array:
    """(n, 2 C): which class each example is of and was recognised as, then which class it is of."""
    classes = {label: index for index, label in enumerate(sorted({str(g) for g in gold}))}
    total = np.zeros((len(gold), len(classes)))
    total[np.arange(len(gold)), [classes[str(g)] for g in gold]] = 1
    right = total * np.array([g == p for g, p in zip(gold, said, strict=True)], dtype=float)[:, None]
    return np.hstack([right, total])


def lenient_counts(gold: Sequence[str], said: Sequence[str]) -> tuple[int, int, int]:
    """Right, predicted and gold spans of a sentence, by the rules of seqeval."""
    in_gold, predicted = _lenient(tuple(gold)), _lenient(tuple(said))
    return len(in_gold & predicted), len(predicted), len(in_gold)


def strict_counts(gold: Sequence[str], said: Sequence[str]) -> tuple[int, int, int]:
    """Right, predicted and gold spans of a sentence, IOB2."""
    in_gold, predicted = _strict(tuple(gold)), _strict(tuple(said))
    return len(in_gold & predicted), len(predicted), len(in_gold)


@lru_cache(maxsize=1 << 16)  # all runs share the gold tags
def _lenient(tags: tuple[str, ...]) -> frozenset[Span]:
    return frozenset(lenient_spans([tags]))


@lru_cache(maxsize=1 << 16)
def _strict(tags: tuple[str, ...]) -> frozenset[Span]:
    return frozenset(strict_spans(tags))


def tag_counts(gold: Sequence[str], said: Sequence[str]) -> tuple[int, int]:
    """Words with the right tag, and words."""
    return sum(g == p for g, p in zip(gold, said, strict=True)), len(gold)


def _with_ones(hits: Array) -> Array:
    return np.stack([hits.astype(float), np.ones(len(hits))], axis=1)


def _ratio(sums: Array) -> Array:
    ratio: Array = sums[:, 0] / np.maximum(sums[:, 1], 1)
    return ratio


def _f1(sums: Array) -> Array:
    """2 tp / (predicted + gold); 0 where there are no spans at all."""
    f1: Array = 2 * sums[:, 0] / np.maximum(sums[:, 1] + sums[:, 2], 1)
    return f1


def _mean_over_classes(sums: Array) -> Array:
    right, total = np.split(sums, 2, axis=1)
    recall = right / np.maximum(total, 1)
    mean: Array = recall.sum(1) / (total > 0).sum(1)
    return mean


_TAG_COUNTS: dict[str, Callable[[Sequence[str], Sequence[str]], tuple[int, ...]]] = {
    "span_f1": lenient_counts,
    "span_f1_strict": strict_counts,
    "tag_accuracy": tag_counts,
}
