"""A weighted mixture of objectives in one run, e.g. translation with denoising against forgetting.

A batch may hold rows of several objectives; the loss is summed over all their target tokens, so an objective's weight
is its share of the examples drawn. Weights may have phases, e.g. denoising first and translation later.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from xbridge.core.config import Plugin
from xbridge.core.errors import ConfigError
from xbridge.data.batching import Lengths
from xbridge.data.sampling import Examples, Part, Schedule, Shares, check_schedule
from xbridge.objectives.base import LossSum, Material, Objective

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Component:
    """One objective of the mixture."""

    objective: Annotated[Plugin, "xbridge.objectives"]
    """The objective, e.g. {type: translation}."""
    weight: Schedule = 1.0
    """Share of the examples drawn from it, relative to the other weights, or phases of it such as
    [{until: 0.2, value: 1}, {until: 1, value: 0.1}], `until` in shares of the budget; 0 = none in this phase."""

    def __post_init__(self) -> None:
        check_schedule("weight", self.weight, lowest=0)
        if self.weight == 0:
            raise ConfigError("weight", "must be above 0; leave the objective out, or give phases")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A mixture."""

    components: tuple[Component, ...]
    """The objectives and their weights; one objective may come twice with other settings."""

    def __post_init__(self) -> None:
        if not self.components:
            raise ConfigError("components", "a mixture needs at least one objective")
        shares = Shares.scheduled([part.weight for part in self.components], lambda *weights: np.asarray(weights))
        for until, weights in zip(shares.until, shares.values, strict=True):
            if not weights.any():
                raise ConfigError("components", f"all weights are 0 in the phase that ends at {until:g}")


def build(config: Config, material: Material) -> "Mixture":
    """The mixture of the objectives built from the same material."""
    objectives = [part.objective.load().build(part.objective.config, material) for part in config.components]
    names = [part.objective.type for part in config.components]
    return Mixture(names, objectives, [part.weight for part in config.components])


_FIRST_ROW = Examples(*(np.zeros(1, dtype=np.int64) for _ in Examples._fields))


class Mixture:
    """The parts of all objectives, one after the other; a batch is a list of (objective number, its batch)."""

    def __init__(self, names: Sequence[str], objectives: Sequence[Objective], weights: Sequence[Schedule]):
        self._objectives = objectives
        parts: list[Part] = []
        owner: list[int] = []
        for index, (name, objective) in enumerate(zip(names, objectives, strict=True)):
            label = name if names.count(name) == 1 else f"{name}.{index}"
            parts += [Part(name=f"{label}/{part.name}", size=part.size) for part in objective.parts]
            owner += [index] * len(objective.parts)
        self.parts: Sequence[Part] = parts
        share = Shares.scheduled(weights, lambda *values: np.asarray(values) / sum(values))
        self.shares = Shares.joined(share, [objective.shares for objective in objectives])
        self._owner = np.asarray(owner)
        self._first = np.asarray([owner.index(index) for index in range(len(objectives))])
        self.longest = max(objective.longest for objective in objectives)
        self.num_dropped = sum(objective.num_dropped for objective in objectives)

    def lengths(self, examples: Examples) -> Lengths:
        """Lengths of `examples` as `collate` will make them."""
        result = Lengths(*(np.zeros(len(examples.row), dtype=np.int64) for _ in Lengths._fields))
        for index, mine, own in self._split(examples):
            for column, values in zip(result, self._objectives[index].lengths(own), strict=True):
                column[mine] = values
        return result

    def collate(self, examples: Examples, *, scored: bool = True) -> list[tuple[int, Any]]:
        """One batch per objective. One without rows here gets an unscored row: all ranks then make the same forward
        passes, without which ZeRO 3 would wait for ever."""
        own = {index: mine for index, _, mine in self._split(examples)}
        return [
            (index, objective.collate(own.get(index, _FIRST_ROW), scored=scored and index in own))
            for index, objective in enumerate(self._objectives)
        ]

    def loss(self, model: "nn.Module", batch: Sequence[tuple[int, Any]]) -> LossSum:
        """The sum over the objectives' sums."""
        losses = [self._objectives[index].loss(model, own) for index, own in batch]
        total = losses[0].sum
        for loss in losses[1:]:
            total = total + loss.sum
        return LossSum(total, sum(loss.count for loss in losses))

    def _split(self, examples: Examples) -> list[tuple[int, Any, Examples]]:
        owner = self._owner[examples.part]
        result = []
        for index in range(len(self._objectives)):
            mine = np.flatnonzero(owner == index)
            if len(mine):
                own = examples.take(mine)
                result.append((index, mine, Examples(own.part - self._first[index], own.row, own.epoch)))
        return result
