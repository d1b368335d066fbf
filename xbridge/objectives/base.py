"""What an objective is: a loss as a sum and a count, examples by number, and batches made from them.

An objective owns *parts* (a language, or a direction such as `eng_Latn-deu_Latn`). The plan of data/batching.py decides
which examples of which parts form global batch `step`; the objective turns their numbers into tensors. Nothing here
depends on the rank: the same numbers give the same batch anywhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class LossSum:
    """A loss that is not divided yet: sums and counts add over micro-batches and ranks, means do not."""

    sum: "Tensor"
    """Scalar, natural logarithm, requires grad: the loss summed over the supervised units."""
    count: int
    """Supervised units (target tokens, examples or tagged words) in the sum."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One language or direction of an objective, sampled as a whole."""

    name: str
    """`deu_Latn`, or `eng_Latn-deu_Latn` for a direction; in a mixture `translation/eng_Latn-deu_Latn`."""
    size: int
    """Number of examples."""


class Example(NamedTuple):
    """Examples by number. `part`, `row`, `epoch`: (n,) int64."""

    part: IntArray
    row: IntArray
    epoch: IntArray


class Lengths(NamedTuple):
    """Tokens per example, special tokens included: `source`, `target`, `supervised`: (n,) int64."""

    source: IntArray
    target: IntArray
    supervised: IntArray


class Objective(Protocol):
    """What a module in this package builds. `split` is `train` or `dev`; both have the same parts."""

    parts: Sequence[Part]

    def lengths(self, examples: Example) -> Lengths:
        """Lengths of `examples` as `collate` will make them, without making them."""

    def collate(self, examples: Example) -> Any:
        """The batch of `examples`, padded to its longest row: what `loss` takes."""

    def loss(self, model: "nn.Module", batch: Any) -> LossSum:
        """Loss of a batch."""


PartLosses = Mapping[str, float]
"""Mean loss per supervised token, by part name."""
