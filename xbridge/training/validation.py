"""Held-out loss per language or direction, on the same examples with the same noise every time; and what a validation
found. The batches are shared out over the ranks, and the losses are the same on any number of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import nn

from xbridge.core.runtime import derive_seed
from xbridge.data.batching import cut, snake_order
from xbridge.data.sampling import Examples, permutation
from xbridge.models.generation import is_sharded, rank_and_size
from xbridge.objectives.base import Objective, PartLosses

Scores = Mapping[str, Mapping[str, float]]
"""Score by direction and metric."""
Signatures = Mapping[str, Mapping[str, list[str]]]
"""By metric: signature -> the directions that were scored so."""
Poll = Callable[[], None]
"""Called between batches, equally often on all ranks; it may raise."""
Translations = Callable[[int, nn.Module, Poll], tuple[Scores, Signatures]]
"""`translations(step, model, poll)`, see training/translation_scores.py."""


@dataclass(frozen=True)
class Findings:
    """What one validation found."""

    losses: PartLosses
    scores: Scores = field(default_factory=dict)
    """Empty where no translations were due."""
    signatures: Signatures = field(default_factory=dict)

    def macro(self) -> dict[str, float]:
        """Mean over the directions, by metric."""
        metrics = dict.fromkeys(metric for scores in self.scores.values() for metric in scores)
        return {metric: fmean(scores[metric] for scores in self.scores.values()) for metric in metrics}

    def numbers(self) -> dict[str, float]:
        """All of it by the names that training/monitor.py knows."""
        numbers = {"loss": fmean(self.losses.values())} if self.losses else {}
        numbers |= {f"{part}/loss": loss for part, loss in self.losses.items()}
        numbers |= {f"macro_{metric}": value for metric, value in self.macro().items()}
        for direction, scores in self.scores.items():
            numbers |= {f"{direction}/{metric}": value for metric, value in scores.items()}
        return numbers

    def line(self) -> dict[str, Any]:
        """Its entries in metrics.jsonl and in summary.json."""
        line: dict[str, Any] = {"validation": dict(self.losses)}
        if self.scores:
            line |= {"translation": self.scores, "macro": self.macro(), "signatures": self.signatures}
        return line

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> "Findings":
        """Read back what `line` wrote."""
        return cls(line["validation"], line.get("translation", {}), line.get("signatures", {}))


def numbers_of(parts: Sequence[str], directions: Sequence[str], metrics: Sequence[str]) -> list[str]:
    """The names of all numbers that a validation can find."""
    losses = ["loss", *(f"{part}/loss" for part in parts)] if parts else []
    macros = [f"macro_{metric}" for metric in metrics]
    return losses + macros + [f"{direction}/{metric}" for direction in directions for metric in metrics]


class Validator:
    """The validation of a training: losses every time, scores of translations where `is_due(step)`."""

    def __init__(self, losses: "Validation | None", translations: Translations | None, is_due: Callable[[int], bool]):
        self._losses, self._translations, self._is_due = losses, translations, is_due

    def __call__(self, step: int, model: nn.Module, poll: Poll) -> Findings:
        losses = self._losses(model, poll) if self._losses else {}
        if self._translations is None or not self._is_due(step):
            return Findings(losses)
        return Findings(losses, *self._translations(step, model, poll))


class Validation:
    """Call it with a model: mean natural-log loss per supervised token, by part name. It polls before each batch.

    rows: examples per part, chosen at random once; batch_tokens: padded tokens per forward pass.
    """

    def __init__(self, objective: Objective, *, rows: int, batch_tokens: int):
        self._objective = objective
        self._batches: list[tuple[str, Any]] = []
        for index, part in enumerate(objective.parts):
            chosen = permutation(derive_seed("validation", part.name), part.size)[:rows]
            examples = Examples(np.full_like(chosen, index), chosen, np.zeros_like(chosen))
            lengths = objective.lengths(examples)
            order = snake_order(lengths.source, lengths.target)
            starts = cut(lengths.source[order], lengths.target[order], batch_tokens)
            self._batches += [
                (part.name, objective.collate(examples.take(order[start:end])))
                for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
            ]

    def __call__(self, model: nn.Module, poll: Poll = lambda: None) -> dict[str, float]:
        sums = self._sums(model, poll)
        losses: dict[str, float] = {}
        for part in self._objective.parts:
            mine = [row for row, (name, _) in zip(sums.tolist(), self._batches, strict=True) if name == part.name]
            losses[part.name] = sum(total for total, _ in mine) / sum(count for _, count in mine)
        return losses

    def _sums(self, model: nn.Module, poll: Poll) -> torch.Tensor:
        """(batches, 2) float64: summed loss and supervised units of every batch, each computed by one rank."""
        rank, world_size = rank_and_size()
        sums = torch.zeros(len(self._batches), 2, dtype=torch.float64, device=next(model.parameters()).device)
        with torch.no_grad():
            for first in range(0, len(self._batches), world_size):
                poll()
                has_batch = first + rank < len(self._batches)
                if has_batch or is_sharded(model):
                    _, batch = self._batches[first + rank if has_batch else -1]
                    part = self._objective.loss(model, batch)
                    if has_batch:
                        sums[first + rank, 0], sums[first + rank, 1] = part.sum, part.count
        if world_size > 1:
            torch.distributed.all_reduce(sums)
        return sums
