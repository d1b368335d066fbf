"""One label per sentence: intents, topics, and (with paired sentences in one text) inference and paraphrase."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from xbridge.tasks.base import IGNORED, Encoded
from xbridge.tasks.examples import Example
from xbridge.tasks.metrics import Score, accuracy, macro_accuracy

if TYPE_CHECKING:
    from xbridge.activations.encoder import Encoder

NEEDS = "label"
ANSWER = pa.string()


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the head reads."""

    features: Literal["mean", "first", "decoder_end"] = "mean"
    """mean: encoder states averaged over content positions (no language code, no </s>, no padding); first: the
    encoder's first position; decoder_end: the decoder's last position when it reads the sentence again (the default of
    mBART's own classification head)."""


def features(config: Config) -> str:
    """Which feature rows the head reads."""
    return config.features


def gold(example: Example) -> str:
    """The label."""
    assert example.label is not None
    return example.label


def labels(answer: str) -> list[str]:
    """The label alone."""
    return [answer]


def kind(label: str) -> str:
    """The label."""
    return label


def encode(
    examples: Sequence[Example], encoder: "Encoder", numbers: Mapping[str, int], config: Config
) -> list[Encoded]:
    """One feature row per sentence."""
    rows = encoder.rows([example.text for example in examples], examples[0].lang)
    return [
        Encoded(example.id, row, None, (numbers.get(example.label or "", IGNORED),))
        for example, row in zip(examples, rows, strict=True)
    ]


def answer(example: Example, encoded: Encoded, labels: Sequence[str], default: str) -> str:
    """The label of the only row."""
    return labels[0]


def constant(example: Example, label: str) -> str:
    """The label itself."""
    return label


def score(gold: Sequence[str], predicted: Sequence[str]) -> list[Score]:
    """Accuracy (official form) and macro accuracy over the classes in `gold` (corrected form)."""
    return [
        Score("accuracy", accuracy(gold, predicted), len(gold)),
        Score("macro_accuracy", macro_accuracy(gold, predicted), len(gold)),
    ]
