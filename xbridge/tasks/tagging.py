"""One tag per word: slots and named entities (BIO spans), parts of speech."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from xbridge.tasks.base import IGNORED, Encoded
from xbridge.tasks.examples import Example
from xbridge.tasks.metrics import Score, span_f1, span_f1_strict, tag_accuracy

if TYPE_CHECKING:
    from xbridge.activations.encoder import Encoder

NEEDS = "tags"
ANSWER = pa.list_(pa.string())


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the head reads."""

    subword: Literal["first", "last"] = "first"
    """Which piece of a word stands for it."""


def features(config: Config) -> str:
    """Which feature rows the head reads."""
    return "positions"


def gold(example: Example) -> list[str]:
    """The tags."""
    return list(example.tags)


def labels(answer: Sequence[str]) -> list[str]:
    """The tags."""
    return list(answer)


def kind(label: str) -> str:
    """The type of a span's tag: I-size may be new where B-size is known. A tag without prefix is its own type."""
    prefix, _, span_type = label.partition("-")
    return span_type if prefix in ("B", "I", "E", "S") and span_type else label


def encode(
    examples: Sequence[Example], encoder: "Encoder", numbers: Mapping[str, int], config: Config
) -> list[Encoded]:
    """One feature row per word that the tokenizer gives a piece and that is not cut off."""
    rows, spans = encoder.word_rows([example.words for example in examples], examples[0].lang)
    encoded = []
    for example, row, span in zip(examples, rows, spans, strict=True):
        seen = [(word, first if config.subword == "first" else last) for word, (first, last) in span.items()]
        targets = tuple(numbers.get(example.tags[word], IGNORED) for word, _ in seen)
        positions = tuple(position for _, position in seen)
        encoded.append(Encoded(example.id, row, positions, targets, tuple(word for word, _ in seen)))
    return encoded


def answer(example: Example, encoded: Encoded, labels: Sequence[str], default: str) -> list[str]:
    """One tag per word; `default` for a word that the head did not see."""
    tags = [default] * len(example.words)
    for word, label in zip(encoded.words, labels, strict=True):
        tags[word] = label
    return tags


def constant(example: Example, label: str) -> list[str]:
    """The same tag on every word."""
    return [label] * len(example.words)


def score(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> list[Score]:
    """Span F1 as seqeval has it (official form), span F1 in strict IOB2 (corrected form), and tag accuracy."""
    return [
        Score("span_f1", span_f1(gold, predicted).f1, len(gold)),
        Score("span_f1_strict", span_f1_strict(gold, predicted).f1, len(gold)),
        Score("tag_accuracy", tag_accuracy(gold, predicted), len(gold)),
    ]
