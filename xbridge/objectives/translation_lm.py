"""Masked words of a sentence and its translation side by side (Conneau and Lample, 2019, section 3.3).

A word of either side may be predicted from the other. With `reset_positions` the translation's positions begin at 0
again, as in XLM; mBERT and XLM-R, which were trained on running positions, allow both.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from xbridge.core.runtime import derive_seed
from xbridge.data.batching import Lengths
from xbridge.data.sampling import Examples
from xbridge.data.tokens import from_rows, side_by_side
from xbridge.objectives.base import LossSum, Material
from xbridge.objectives.masking import Masking, check_share
from xbridge.objectives.sequences import SequenceBatch, masked_batch, sequence_loss, split_rows, unlabelled
from xbridge.objectives.text import store_of
from xbridge.objectives.translation import Graph, PairRows

if TYPE_CHECKING:
    from torch import nn

SECOND = 3  # the piece with which the second text begins: before, source, between, target, after


@dataclass(frozen=True, kw_only=True)
class Config:
    """Masked words of pairs."""

    directions: Graph | tuple[str, ...] = "one_to_many"
    """Which pairs, and which language stands first; one_to_many = every pair once, the pivot first."""
    mask_share: float = 0.15
    """Share of a pair's tokens that is predicted; at least one."""
    reset_positions: bool = True
    """Count the positions of the second text from 0."""
    label_smoothing: float = 0.0
    """Probability mass spread over the vocabulary."""
    smoothing: Literal["huggingface", "fairseq"] = "huggingface"
    """Convention of the spreading, see ops/linear_cross_entropy.py."""

    def __post_init__(self) -> None:
        check_share(self.mask_share, self.label_smoothing)


def build(config: Config, material: Material) -> "TranslationLM":
    """The objective over the pairs of the corpus; `UserError` for a model that is no encoder."""
    masking = Masking(material, config.mask_share, derive_seed(material.seed, "pair masks", material.split))
    return TranslationLM(config, material, masking)


class TranslationLM:
    """One part per pair of languages; a row is a pair."""

    def __init__(self, config: Config, material: Material, masking: Masking):
        self._config, self._masking = config, masking
        self._pairs = PairRows(material, config.directions, store_of(material))
        self.parts, self.shares, self.num_dropped = self._pairs.parts, self._pairs.shares, self._pairs.num_dropped
        around = [material.conventions.source(source) for source, _ in self._pairs.directions]
        between = [material.conventions.between()] * len(around)
        self._around = [from_rows([pair[0] for pair in around]), from_rows(between), from_rows([p[1] for p in around])]
        self._extra = sum((table.lengths for table in self._around), np.zeros(len(around), dtype=np.int64))
        self._pad, self._multiple_of = material.conventions.pad, material.multiple_of
        self.longest = 2 * material.max_tokens + int(self._extra.max())

    def lengths(self, examples: Examples) -> Lengths:
        """Lengths of `examples` as `collate` will make them."""
        source, target = self._pairs.lengths(examples)
        text = source + target
        chosen = self._masking.num_chosen(text, examples)
        return Lengths(text + self._extra[examples.part], np.zeros_like(text), chosen)

    def collate(self, examples: Examples, *, scored: bool = True) -> SequenceBatch:
        """The masked pairs."""
        source, target = self._pairs.take(examples)
        masked = self._masking.apply(side_by_side([source, target]), examples, scored=scored)
        ids, labels = (split_rows(table, source.lengths) for table in masked)
        before, between, after = (unlabelled(table.take(examples.part)) for table in self._around)
        rows = [before, (ids[0], labels[0]), between, (ids[1], labels[1]), after]
        return masked_batch(rows, self._pad, self._multiple_of, second=SECOND, reset=self._config.reset_positions)

    def loss(self, model: "nn.Module", batch: SequenceBatch) -> LossSum:
        """Summed cross-entropy of the masked words."""
        config = self._config
        return sequence_loss(model, batch, label_smoothing=config.label_smoothing, convention=config.smoothing)
