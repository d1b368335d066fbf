"""Batches and loss of encoder-decoder objectives: what translation and denoising share.

Layout, for mBART-50's family: source `[lang] X </s>`, decoder input `</s> [lang] Y`, labels `[lang] Y </s>` with the
label at the language code not scored, because generation is given that token and never has to predict it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xbridge.data.batching import Lengths
from xbridge.data.tokens import TokenTable, from_rows, padded, side_by_side
from xbridge.objectives.base import LossSum

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xbridge.models.families import Conventions
    from xbridge.ops.linear_cross_entropy import Smoothing

IntArray = NDArray[np.int64]
IGNORED = -100


@dataclass(frozen=True)
class Seq2SeqBatch:
    """Tensors of one micro-batch, all int64."""

    input_ids: "Tensor"
    """(batch, source_len)"""
    attention_mask: "Tensor"
    """(batch, source_len), 1 on tokens, 0 on padding"""
    decoder_input_ids: "Tensor"
    """(batch, target_len)"""
    labels: "Tensor"
    """(batch, target_len), -100 = not scored"""
    count: int
    """Labels that are scored."""


class Layouts:
    """What stands around the texts of each direction: pairs of source and target language, in their order."""

    def __init__(self, conventions: "Conventions", directions: Sequence[tuple[str, str]], multiple_of: int = 1):
        self.pad, self.multiple_of = conventions.pad, multiple_of
        sources = [conventions.source(source, target) for source, target in directions]
        targets = [conventions.target(target) for _, target in directions]
        self.before_source, self.after_source = (from_rows([pair[side] for pair in sources]) for side in (0, 1))
        self.before_target, self.after_target = (from_rows([pair[side] for pair in targets]) for side in (0, 1))
        self.source_extra: IntArray = self.before_source.lengths + self.after_source.lengths
        """(directions,) special tokens per source."""
        self.target_extra: IntArray = self.before_target.lengths + self.after_target.lengths - 1
        """(directions,) special tokens per decoder input: the whole sequence without its last token."""
        self.scored_extra: IntArray = self.after_target.lengths
        """(directions,) scored special tokens per target: `</s>`."""

    def longest(self, max_tokens: int) -> int:
        """The longest sequence around a text of `max_tokens`."""
        return max_tokens + int(max(self.source_extra.max(), self.target_extra.max()))

    def lengths(self, source: IntArray, target: IntArray, direction: IntArray) -> Lengths:
        """Lengths of the rows that `batch` makes of texts of these lengths."""
        return Lengths(
            source + self.source_extra[direction],
            target + self.target_extra[direction],
            target + self.scored_extra[direction],
        )

    def batch(
        self, source: TokenTable, target: TokenTable, direction: IntArray, *, scored: bool = True
    ) -> Seq2SeqBatch:
        """Lay out content tokens; the directions are numbers, (n,)."""
        import torch

        sources = side_by_side([self.before_source.take(direction), source, self.after_source.take(direction)])
        targets = side_by_side([self.before_target.take(direction), target, self.after_target.take(direction)])
        input_ids = padded(sources, self.pad, multiple_of=self.multiple_of)
        whole = padded(targets, self.pad, multiple_of=self.multiple_of, more=1)
        columns = np.arange(whole.shape[1])
        end = (target.lengths + self.target_extra[direction] + 1)[:, None]
        is_scored = (columns >= self.before_target.lengths[direction][:, None]) & (columns < end)
        labels = np.where(is_scored & scored, whole, IGNORED)
        decoder_input_ids = np.where(columns[:-1] < end - 1, whole[:, :-1], self.pad)
        return Seq2SeqBatch(
            torch.from_numpy(input_ids),
            torch.from_numpy((np.arange(input_ids.shape[1]) < sources.lengths[:, None]).astype(np.int64)),
            torch.from_numpy(decoder_input_ids),
            torch.from_numpy(np.ascontiguousarray(labels[:, 1:])),
            int((labels[:, 1:] != IGNORED).sum()),
        )

    def loss(self, model: "nn.Module", batch: Seq2SeqBatch, smoothing: float, convention: "Smoothing") -> LossSum:
        """Summed cross-entropy of the targets."""
        return seq2seq_loss(model, batch, label_smoothing=smoothing, convention=convention)


def seq2seq_loss(
    model: "nn.Module", batch: Seq2SeqBatch, *, label_smoothing: float = 0.0, convention: "Smoothing" = "huggingface"
) -> LossSum:
    """Summed cross-entropy of the decoder's predictions; the full logits are never stored."""
    from xbridge.models.output_layer import decoder_states, output_layer
    from xbridge.ops.linear_cross_entropy import linear_cross_entropy

    whole: Any = model
    device = whole.get_input_embeddings().weight.device
    inputs = (batch.input_ids, batch.attention_mask, batch.decoder_input_ids)
    layer = output_layer(model, decoder_states(model, *(tensor.to(device) for tensor in inputs)))
    total = linear_cross_entropy(
        layer.states,
        layer.weight,
        batch.labels.to(device),
        bias=layer.bias,
        label_smoothing=label_smoothing,
        convention=convention,
        ignore_index=IGNORED,
    )
    return LossSum(total, batch.count)


def fits(lengths: NDArray[np.int64], max_tokens: int) -> NDArray[np.bool_]:
    """Which strings are trained on: not empty, and not longer than `max_tokens`."""
    return (lengths > 0) & (lengths <= max_tokens)
