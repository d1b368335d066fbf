"""Held-out loss per language or direction, on the same examples with the same noise every time."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from xbridge.core.runtime import derive_seed
from xbridge.data.batching import cut, snake_order
from xbridge.data.sampling import Examples, permutation
from xbridge.objectives.base import Objective


class Validation:
    """Call it with a model: mean natural-log loss per supervised token, by part name. It polls after each batch.

    rows: examples per part, chosen at random once; batch_tokens: padded tokens per forward pass.
    """

    def __init__(self, objective: Objective, *, rows: int, batch_tokens: int):
        self._objective = objective
        self._batches: dict[str, list[Any]] = {}
        for index, part in enumerate(objective.parts):
            chosen = permutation(derive_seed("validation", part.name), part.size)[:rows]
            examples = Examples(np.full_like(chosen, index), chosen, np.zeros_like(chosen))
            lengths = objective.lengths(examples)
            order = snake_order(lengths.source, lengths.target)
            starts = cut(lengths.source[order], lengths.target[order], batch_tokens)
            self._batches[part.name] = [
                objective.collate(examples.take(order[start:end]))
                for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
            ]

    def __call__(self, model: nn.Module, poll: Callable[[], None] = lambda: None) -> dict[str, float]:
        losses: dict[str, float] = {}
        with torch.no_grad():
            for name, batches in self._batches.items():
                total, count = 0.0, 0
                for batch in batches:
                    part = self._objective.loss(model, batch)
                    total, count = total + float(part.sum), count + part.count
                    poll()
                losses[name] = total / count
        return losses
