"""Batches and loss of objectives on one sequence: masked words of an encoder, and next words of a decoder.

A causal batch is shifted already: `labels[t]` is what follows `input_ids[t]`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xbridge.core.errors import UserError
from xbridge.data.batching import Lengths
from xbridge.data.tokens import TokenTable, from_rows, padded, side_by_side, starts_of
from xbridge.objectives.base import LossSum
from xbridge.objectives.seq2seq import IGNORED

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xbridge.models.families import Conventions
    from xbridge.ops.linear_cross_entropy import Smoothing

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class SequenceBatch:
    """Tensors of one micro-batch, all int64 and (batch, width)."""

    input_ids: "Tensor"
    attention_mask: "Tensor"
    """1 on tokens, 0 on padding"""
    labels: "Tensor"
    """-100 = not scored"""
    second: "Tensor | None"
    """1 from the second text of a row on, for models with two token types"""
    positions: "Tensor | None"
    """Counted from 0, where they do not simply run on"""
    count: int
    """Labels that are scored."""


class CausalLayouts:
    """Directions of a decoder-only model: `source_prefix X between Y </s>`, of which `Y </s>` is scored."""

    def __init__(self, conventions: "Conventions", directions: Sequence[tuple[str, str]], multiple_of: int):
        if conventions.family.kind != "decoder":
            raise UserError("this layout is for a decoder-only model")
        self.pad, self.multiple_of = conventions.pad, multiple_of
        self._before = from_rows([conventions.source(source, target)[0] for source, target in directions])
        self._between = from_rows([conventions.between()] * len(directions))
        self._after = from_rows([conventions.target(target)[1] for _, target in directions])
        self._extra: IntArray = self._before.lengths + self._between.lengths + self._after.lengths - 1

    def longest(self, max_tokens: int) -> int:
        """The longest sequence with two texts of `max_tokens`."""
        return 2 * max_tokens + int(self._extra.max())

    def lengths(self, source: IntArray, target: IntArray, direction: IntArray) -> Lengths:
        """Lengths of the rows that `batch` makes of texts of these lengths."""
        return Lengths(
            source + target + self._extra[direction], np.zeros_like(source), target + self._after.lengths[direction]
        )

    def batch(
        self, source: TokenTable, target: TokenTable, direction: IntArray, *, scored: bool = True
    ) -> SequenceBatch:
        """Lay out content tokens; the directions are numbers, (n,)."""
        given = [self._before.take(direction), source, self._between.take(direction)]
        return causal_batch(given, [target, self._after.take(direction)], self.pad, self.multiple_of, scored=scored)

    def loss(self, model: "nn.Module", batch: SequenceBatch, smoothing: float, convention: "Smoothing") -> LossSum:
        """Summed cross-entropy of the targets."""
        return sequence_loss(model, batch, label_smoothing=smoothing, convention=convention)


def causal_batch(
    given: Sequence[TokenTable], said: Sequence[TokenTable], pad: int, multiple_of: int = 1, *, scored: bool = True
) -> SequenceBatch:
    """Rows of what is given and what is said, side by side; the latter is scored, except a row's very first token."""
    whole = side_by_side([*given, *said])
    num_given = sum((table.lengths for table in given), np.zeros(len(whole), dtype=np.int64))
    ids = padded(whole, pad, multiple_of=multiple_of, more=1)
    columns = np.arange(ids.shape[1])
    is_scored = (columns >= num_given[:, None]) & (columns < whole.lengths[:, None])
    labels = np.where(is_scored & scored, ids, IGNORED)[:, 1:]
    attention = columns[:-1] < whole.lengths[:, None] - 1
    return _batch(np.where(attention, ids[:, :-1], pad), attention, labels)


def masked_batch(
    rows: Sequence[tuple[TokenTable, TokenTable]],
    pad: int,
    multiple_of: int = 1,
    *,
    second: int = 0,
    reset: bool = False,
) -> SequenceBatch:
    """Rows of pieces side by side, each with its labels. From piece `second` on, when not 0, it is the second text,
    whose positions begin at 0 again with `reset`."""
    whole, said = (side_by_side([piece[side] for piece in rows]) for side in (0, 1))
    ids, labels = (padded(table, fill, multiple_of=multiple_of) for table, fill in ((whole, pad), (said, IGNORED)))
    columns = np.arange(ids.shape[1])
    attention = columns < whole.lengths[:, None]
    if not second:
        return _batch(ids, attention, labels)
    begin = sum((piece[0].lengths for piece in rows[:second]), np.zeros(len(whole), dtype=np.int64))[:, None]
    is_second = columns >= begin
    positions = np.where(is_second, columns - begin, columns) if reset else None
    return _batch(ids, attention, labels, is_second & attention, positions)


def sequence_loss(
    model: "nn.Module", batch: SequenceBatch, *, label_smoothing: float = 0.0, convention: "Smoothing" = "huggingface"
) -> LossSum:
    """Summed cross-entropy of the scored positions; no others reach the output layer."""
    from xbridge.models.output_layer import output_layer
    from xbridge.ops.linear_cross_entropy import linear_cross_entropy

    whole: Any = model
    device = whole.get_input_embeddings().weight.device
    inputs = {"input_ids": batch.input_ids.to(device), "attention_mask": batch.attention_mask.to(device)}
    if batch.second is not None and getattr(whole.config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = batch.second.to(device)
    if batch.positions is not None:
        inputs["position_ids"] = batch.positions.to(device) + _first_position(whole)
    states = whole.base_model(**inputs).last_hidden_state
    labels = batch.labels.to(device)
    is_scored = labels != IGNORED
    layer = output_layer(model, states[is_scored])
    total = linear_cross_entropy(
        layer.states,
        layer.weight,
        labels[is_scored],
        bias=layer.bias,
        label_smoothing=label_smoothing,
        convention=convention,
        ignore_index=IGNORED,
    )
    return LossSum(total, batch.count)


def unlabelled(table: TokenTable) -> tuple[TokenTable, TokenTable]:
    """A piece none of whose tokens is scored."""
    return table, TokenTable(np.full_like(table.ids, IGNORED), table.starts)


def split_rows(table: TokenTable, first: IntArray) -> tuple[TokenTable, TokenTable]:
    """Each row cut after its first `first` tokens: (n,)."""
    lengths = table.lengths
    place = np.arange(len(table.ids)) - np.repeat(table.starts[:-1], lengths)
    is_first = place < np.repeat(first, lengths)
    return TokenTable(table.ids[is_first], starts_of(first)), TokenTable(
        table.ids[~is_first], starts_of(lengths - first)
    )


def _first_position(model: Any) -> int:
    """RoBERTa's embeddings of positions begin after the padding's."""
    embeddings = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    reserved = getattr(embeddings, "padding_idx", None)
    return 0 if reserved is None else reserved + 1


def _batch(
    ids: IntArray,
    attention: NDArray[np.bool_],
    labels: IntArray,
    second: NDArray[np.bool_] | None = None,
    positions: IntArray | None = None,
) -> SequenceBatch:
    import torch

    def tensor(matrix: NDArray[Any]) -> "Tensor":
        return torch.from_numpy(np.ascontiguousarray(matrix, dtype=np.int64))

    return SequenceBatch(
        tensor(ids),
        tensor(attention),
        tensor(labels),
        None if second is None else tensor(second),
        None if positions is None else tensor(positions),
        int((labels != IGNORED).sum()),
    )
