"""What a head reads, and a model with its head.

| features      | rows                                                                         |
|---------------|------------------------------------------------------------------------------|
| `mean`        | per sentence: last encoder layer, averaged over content positions            |
| `first`       | per sentence: last encoder layer at the first position                       |
| `decoder_end` | per sentence: last decoder layer at </s>, the decoder reading the sentence   |
| `positions`   | per word: last encoder layer at one of the word's pieces                     |
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from xbridge.activations.encoder import Encoder, TokenBatch
from xbridge.models.heads import Head
from xbridge.objectives.base import LossSum
from xbridge.ops.masked_pool import masked_pool, take_positions
from xbridge.tasks.base import IGNORED, Encoded, cross_entropy_sum


class TaskBatch(NamedTuple):
    """Examples for a model with a head. N rows over all sentences, in order."""

    tokens: TokenBatch
    sequences: Tensor
    positions: Tensor | None
    targets: Tensor


class FeatureBatch(NamedTuple):
    """Features that were computed before. features: (n, d), target: (n,) int64."""

    features: Tensor
    targets: Tensor


def collate(encoder: Encoder, encoded: Sequence[Encoded], *, silent: bool = False) -> TaskBatch:
    """Pad to the longest. With `silent` no target counts."""
    positions = [p for e in encoded if e.positions is not None for p in e.positions]
    targets = [IGNORED if silent else t for e in encoded for t in e.targets]
    return TaskBatch(
        tokens=encoder.batch([e.row for e in encoded]),
        sequences=torch.tensor([i for i, e in enumerate(encoded) for _ in e.targets], dtype=torch.int64),
        positions=None if encoded[0].positions is None else torch.tensor(positions, dtype=torch.int64),
        targets=torch.tensor(targets, dtype=torch.int64),
    )


def feature_rows(encoder: Encoder, batch: TaskBatch, features: str) -> Tensor:
    """The head's input: (n, d). Differentiable in the model."""
    if features == "decoder_end":
        return encoder.decoder_end(batch.tokens)
    states_BTD = encoder.states(batch.tokens)[-1]
    device = states_BTD.device
    if features == "positions":
        assert batch.positions is not None
        return take_positions(states_BTD, batch.sequences.to(device), batch.positions.to(device))
    if features == "first":
        return masked_pool(states_BTD, batch.tokens.attention.to(device), "first")
    assert features == "mean", features
    return masked_pool(states_BTD, batch.tokens.content.to(device), "mean")


class TaskModel(nn.Module):
    """A backbone with a head: TaskBatch -> scores (n, labels)."""

    def __init__(self, encoder: Encoder, head: Head, features: str):
        super().__init__()
        self.backbone, self.head = encoder.model, head
        self._encoder, self._features = encoder, features

    def forward(self, batch: TaskBatch) -> Tensor:
        scores: Tensor = self.head(feature_rows(self._encoder, batch, self._features))
        return scores


def task_loss(model: nn.Module, batch: TaskBatch) -> LossSum:
    """Cross-entropy of a TaskModel."""
    scores_NC = model(batch)
    return cross_entropy_sum(scores_NC, batch.targets.to(scores_NC.device))


def probe_loss(head: nn.Module, batch: FeatureBatch) -> LossSum:
    """Cross-entropy of a head on features computed before."""
    scores_NC = head(batch.features.to(next(head.parameters()).device))
    return cross_entropy_sum(scores_NC, batch.targets.to(scores_NC.device))


def freeze_unused(encoder: Encoder, features: str) -> None:
    """Take parameters that `features` does not reach out of training, so that no rank waits for their gradients."""
    used = encoder.parameters_used(with_decoder=features == "decoder_end")
    for parameter in encoder.model.parameters():
        parameter.requires_grad_(id(parameter) in used)
