"""Next words of monolingual text, for decoder-only models: one string a row, `</s>` scored at its end.

What the tokenizer puts before a text (`<s>`, or XGLM's `</s>`) is given; where it puts nothing, the first word is.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from xbridge.core.errors import ConfigError, UserError
from xbridge.data.batching import Lengths
from xbridge.data.sampling import Examples
from xbridge.data.tokens import from_rows
from xbridge.objectives.base import LossSum, Material
from xbridge.objectives.sequences import SequenceBatch, causal_batch, sequence_loss
from xbridge.objectives.text import Strings, monolingual

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Config:
    """Next words."""

    languages: tuple[str, ...] | None = None
    """Languages of the corpus to use; null = all."""
    label_smoothing: float = 0.0
    """Probability mass spread over the vocabulary."""
    smoothing: Literal["huggingface", "fairseq"] = "huggingface"
    """Convention of the spreading, see ops/linear_cross_entropy.py."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError("label_smoothing", f"must be at least 0 and below 1, got {self.label_smoothing}")


def build(config: Config, material: Material) -> "CausalLM":
    """The objective over the single strings of the corpus; `UserError` for a model that is no decoder."""
    if material.conventions.family.kind != "decoder":
        raise UserError("causal_lm needs a decoder-only model; use denoising for an encoder-decoder, masked_lm else")
    return CausalLM(config, material)


class CausalLM:
    """One part per language; a row is a string."""

    def __init__(self, config: Config, material: Material):
        self._config = config
        self._strings = Strings(material, *monolingual(material, config.languages))
        self.parts, self.shares = self._strings.parts, self._strings.shares
        self.num_dropped = self._strings.num_dropped
        before = [material.conventions.source(part.name)[0] for part in self.parts]
        after = [material.conventions.target(part.name)[1] for part in self.parts]
        self._before, self._after = from_rows(before), from_rows(after)
        self._pad, self._multiple_of = material.conventions.pad, material.multiple_of
        self.longest = material.max_tokens + max(map(len, before))

    def lengths(self, examples: Examples) -> Lengths:
        """Lengths of `examples` as `collate` will make them."""
        text = self._strings.lengths(examples)
        given, end = self._before.lengths[examples.part], self._after.lengths[examples.part]
        return Lengths(text + given + end - 1, np.zeros_like(text), text + end - (given == 0))

    def collate(self, examples: Examples, *, scored: bool = True) -> SequenceBatch:
        """The strings."""
        said = [self._strings.take(examples), self._after.take(examples.part)]
        return causal_batch([self._before.take(examples.part)], said, self._pad, self._multiple_of, scored=scored)

    def loss(self, model: "nn.Module", batch: SequenceBatch) -> LossSum:
        """Summed cross-entropy of the words after the given ones."""
        config = self._config
        return sequence_loss(model, batch, label_smoothing=config.label_smoothing, convention=config.smoothing)
