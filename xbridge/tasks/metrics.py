"""Scores of predictions, in the form the benchmarks print and, where the two differ, in a corrected form.

| official-parity     | corrected        | why they differ                                                  |
|---------------------|------------------|------------------------------------------------------------------|
| `accuracy`          | `macro_accuracy` | a frequent class hides the others                                |
| `span_f1` (seqeval) | `span_f1_strict` | seqeval lets any I- tag open a span; in IOB2 only a B- does      |

`tag_accuracy` is the share of words with the right tag, for tag sets without spans. All are in [0, 1]. Scores of
translations are in training/translation_metrics.py. An empty set of examples is an error of ours, not a score.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from xbridge.ops.spans import lenient_spans, strict_spans

Tags = Sequence[Sequence[str]]  # one list of tags per sentence, one tag per word
S = TypeVar("S")


class Score(NamedTuple):
    """One number of one metric over `n` examples."""

    metric: str
    value: float
    n: int


class F1(NamedTuple):
    """Micro-averaged precision, recall and their harmonic mean; each is 0 where its denominator is 0."""

    precision: float
    recall: float
    f1: float


def accuracy(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """Share of examples whose prediction is the gold label."""
    assert len(gold) == len(predicted) > 0
    return sum(g == p for g, p in zip(gold, predicted, strict=True)) / len(gold)


def macro_accuracy(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """Mean over the classes that occur in `gold` of the share of their examples that are right (mean recall)."""
    assert len(gold) == len(predicted) > 0
    total = Counter(gold)
    right = Counter(g for g, p in zip(gold, predicted, strict=True) if g == p)
    return sum(right[label] / count for label, count in sorted(total.items())) / len(total)


def tag_accuracy(gold: Tags, predicted: Tags) -> float:
    """Share of words whose tag is right, over all sentences together."""
    assert [len(tags) for tags in gold] == [len(tags) for tags in predicted]
    return accuracy([t for tags in gold for t in tags], [t for tags in predicted for t in tags])


def span_f1(gold: Tags, predicted: Tags) -> F1:
    """Span precision, recall and F1 as seqeval 1.2.2 computes them by default (the form of XGLUE and XTREME)."""
    assert [len(tags) for tags in gold] == [len(tags) for tags in predicted]
    return _f1(set(lenient_spans(gold)), set(lenient_spans(predicted)))


def span_f1_strict(gold: Tags, predicted: Tags) -> F1:
    """Span precision, recall and F1 where a span is a B- tag and the I- tags of its type that follow (IOB2)."""
    assert [len(tags) for tags in gold] == [len(tags) for tags in predicted]
    in_gold = {(i, span) for i, tags in enumerate(gold) for span in strict_spans(tags)}
    in_predicted = {(i, span) for i, tags in enumerate(predicted) for span in strict_spans(tags)}
    return _f1(in_gold, in_predicted)


def _f1(gold: set[S], predicted: set[S]) -> F1:
    right = len(gold & predicted)
    precision = right / len(predicted) if predicted else 0.0
    recall = right / len(gold) if gold else 0.0
    return F1(precision, recall, 2 * precision * recall / (precision + recall) if right else 0.0)


def most_frequent(counts: dict[str, int]) -> str:
    """The label that a constant predictor says: the commonest in training, the first in the alphabet among equals."""
    return min(counts, key=lambda label: (-counts[label], label))


def retrieval_accuracy(forward_hits: Sequence[bool], backward_hits: Sequence[bool]) -> float:
    """Mean of the accuracies of the two directions."""
    assert len(forward_hits) == len(backward_hits) > 0
    return (sum(forward_hits) + sum(backward_hits)) / (2 * len(forward_hits))
