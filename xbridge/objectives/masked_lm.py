"""Masked words of monolingual text (Devlin et al., 2019; with new masks every epoch as in Liu et al., 2019).

For encoders with their output layer. See masking.py for the noise.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from xbridge.core.runtime import derive_seed
from xbridge.data.batching import Lengths
from xbridge.data.sampling import Examples
from xbridge.data.tokens import from_rows
from xbridge.objectives.base import LossSum, Material
from xbridge.objectives.masking import Masking, check_share
from xbridge.objectives.sequences import SequenceBatch, masked_batch, sequence_loss, unlabelled
from xbridge.objectives.text import Strings, monolingual

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Config:
    """Masked words."""

    mask_share: float = 0.15
    """Share of a string's tokens that is predicted; at least one."""
    languages: tuple[str, ...] | None = None
    """Languages of the corpus to use; null = all."""
    label_smoothing: float = 0.0
    """Probability mass spread over the vocabulary."""
    smoothing: Literal["huggingface", "fairseq"] = "huggingface"
    """Convention of the spreading, see ops/linear_cross_entropy.py."""

    def __post_init__(self) -> None:
        check_share(self.mask_share, self.label_smoothing)


def build(config: Config, material: Material) -> "MaskedLM":
    """The objective over the single strings of the corpus; `UserError` for a model that is no encoder."""
    masking = Masking(material, config.mask_share, derive_seed(material.seed, "masks", material.split))
    return MaskedLM(config, material, masking)


class MaskedLM:
    """One part per language; a row is a string."""

    def __init__(self, config: Config, material: Material, masking: Masking):
        self._config, self._masking = config, masking
        self._strings = Strings(material, *monolingual(material, config.languages))
        self.parts, self.shares = self._strings.parts, self._strings.shares
        self.num_dropped = self._strings.num_dropped
        around = [material.conventions.source(part.name) for part in self.parts]
        self._before, self._after = (from_rows([pair[side] for pair in around]) for side in (0, 1))
        self._pad, self._multiple_of = material.conventions.pad, material.multiple_of
        self.longest = material.max_tokens + material.conventions.num_around()

    def lengths(self, examples: Examples) -> Lengths:
        """Lengths of `examples` as `collate` will make them."""
        text = self._strings.lengths(examples)
        extra = (self._before.lengths + self._after.lengths)[examples.part]
        return Lengths(text + extra, np.zeros_like(text), self._masking.num_chosen(text, examples))

    def collate(self, examples: Examples, *, scored: bool = True) -> SequenceBatch:
        """The masked strings."""
        text = self._masking.apply(self._strings.take(examples), examples, scored=scored)
        before, after = (unlabelled(side.take(examples.part)) for side in (self._before, self._after))
        return masked_batch([before, text, after], self._pad, self._multiple_of)

    def loss(self, model: "nn.Module", batch: SequenceBatch) -> LossSum:
        """Summed cross-entropy of the masked words."""
        config = self._config
        return sequence_loss(model, batch, label_smoothing=config.label_smoothing, convention=config.smoothing)
