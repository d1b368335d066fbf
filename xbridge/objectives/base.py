"""What an objective is: a loss as a sum and a count, examples by number, and batches made from them.

An objective owns *parts* (a language, or a direction such as `eng_Latn-deu_Latn`). The plan of data/batching.py decides
which examples of which parts form global batch `step`; the objective turns their numbers into tensors. Nothing here
depends on the rank: the same numbers give the same batch anywhere.

A module of this package has a `Config` and `build(config, material) -> Objective`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from xbridge.data.batching import Lengths
from xbridge.data.sampling import Examples, Part, Schedule, Shares

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xbridge.models.families import Conventions

__all__ = ["Examples", "Lengths", "LossSum", "Material", "Objective", "Part", "PartLosses"]

PartLosses = Mapping[str, float]
"""Mean loss per supervised token, by part name."""


@dataclass(frozen=True)
class LossSum:
    """A loss that is not divided yet: sums and counts add over micro-batches and ranks, means do not."""

    sum: "Tensor"
    """Scalar, natural logarithm, requires grad: the loss summed over the supervised units."""
    count: int
    """Supervised units (target tokens, examples or tagged words) in the sum."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """What an objective is built from."""

    corpus: Path
    """A corpus stage's folder."""
    tokens: Path | None = None
    """Where token stores are kept; null = in memory, for this objective alone."""
    split: Literal["train", "dev"]
    """Which rows of it."""
    tokenizer: Any
    """A Hugging Face tokenizer."""
    conventions: "Conventions"
    """How the model's family marks languages and lays out sequences."""
    max_tokens: int
    """Strings of more tokens (special ones not counted) are left out."""
    seed: int
    """Seed of noise and re-pairing."""
    multiple_of: int = 1
    """What the widths of batches are rounded up to."""
    temperature: Schedule = 1.0
    """Temperature of the sampling over languages or directions, or phases of it."""


class Objective(Protocol):
    """What a module in this package builds."""

    parts: Sequence[Part]
    shares: Shares
    """How often each part is drawn."""
    longest: int
    """Tokens of the longest sequence that it can make: what the model must have positions for."""
    num_dropped: int
    """Strings or pairs left out because they are longer than `max_tokens`."""

    def lengths(self, examples: Examples) -> Lengths:
        """Lengths of `examples` as `collate` will make them, without making them."""

    def collate(self, examples: Examples, *, scored: bool = True) -> Any:
        """The batch of `examples`, padded to its longest row: what `loss` takes. Unscored: no unit of it counts."""

    def loss(self, model: "nn.Module", batch: Any) -> LossSum:
        """Loss of a batch."""
