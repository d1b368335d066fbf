"""What a task is. A task kind is one module of this package, or one of the user's own, named in a config by `type`.

Two protocols. A `HeadTask` (classification, tagging) has labelled examples and needs a head: `finetune` trains it and
`evaluate` scores it. A `ZeroShotTask` (sentence_retrieval, generation) scores a model as it is. Beside the functions
below, each has a `Config`: what a user may choose about the task itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from xbridge.objectives.base import LossSum
from xbridge.tasks.examples import Example
from xbridge.tasks.metrics import Score

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from xbridge.activations.encoder import Encoder, Row

IGNORED = -100  # a target that the loss leaves out

Answer = str | list[str]
"""A gold answer or a prediction: a label, or the tags of the words."""


class Encoded(NamedTuple):
    """An example as numbers. The head makes one row of scores per target."""

    id: str
    row: "Row"
    positions: tuple[int, ...] | None
    """Positions in `row` whose states the head reads, one per word; None = the head reads one vector per sentence."""
    targets: tuple[int, ...]
    """Label numbers, one per row of scores; `IGNORED` where the label is not known to the head."""
    words: tuple[int, ...] = ()
    """For each position the number of its word; words that were cut off have none."""


class HeadTask(Protocol):
    """A task kind with a head. `config` is the module's `Config`."""

    NEEDS: str
    """The field of an `Example` that holds the gold answer: label or tags."""
    ANSWER: "pa.DataType"
    """Parquet type of gold and prediction."""

    def features(self, config: Any) -> str:
        """Which feature rows the head reads; see `xbridge.tasks.features`."""

    def gold(self, example: Example) -> Answer:
        """The gold answer."""

    def labels(self, answer: Answer) -> Sequence[str]:
        """Labels in an answer."""

    def kind(self, label: str) -> str:
        """What must have occurred in training for a label to be fair to ask for: itself, or the type of its span."""

    def encode(
        self, examples: Sequence[Example], encoder: "Encoder", numbers: Mapping[str, int], config: Any
    ) -> list[Encoded]:
        """Examples of one language as numbers; unknown labels become `IGNORED`."""

    def answer(self, example: Example, encoded: Encoded, labels: Sequence[str], default: str) -> Answer:
        """The prediction that the labels of an example's rows stand for; `default` where the head saw nothing."""

    def constant(self, example: Example, label: str) -> Answer:
        """The answer of a predictor that always says `label`."""

    def score(self, gold: Sequence[Any], predicted: Sequence[Any]) -> list[Score]:
        """Scores of all examples of one language, official form first."""


class ScoreRow(NamedTuple):
    """A row of scores.parquet, less the task."""

    metric: str
    predictor: str
    source_lang: str
    target_lang: str
    site: str
    value: float
    n: int


class LanguageResult(NamedTuple):
    """Everything about one target language."""

    lang: str
    scores: list[ScoreRow]
    predictions: "pa.Table"
    facts: dict[str, Any]
    """For summary.json, e.g. metric signatures."""


class ZeroShotTask(Protocol):
    """A task kind that needs no head."""

    def evaluate(
        self, config: Any, model: Path, data: Path, languages: Sequence[str] | None, batch_size: int
    ) -> Iterator[LanguageResult]:
        """Score every target language; None = all that the data has."""


def cross_entropy_sum(scores_NC: "Tensor", targets_N: "Tensor") -> LossSum:
    """Cross-entropy in nats, summed over the targets that are not `IGNORED`."""
    from torch.nn import functional as F

    loss = F.cross_entropy(scores_NC, targets_N, ignore_index=IGNORED, reduction="sum")
    return LossSum(loss, int((targets_N != IGNORED).sum()))
