"""One objective over several corpora: how often each corpus is drawn, by its size, by hand, or changing over the run.

The parts of a corpus carry its name (`opus/eng_Latn-deu_Latn`); a pair's own temperature acts within its corpus.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from xbridge.core.config import Plugin
from xbridge.core.errors import ConfigError
from xbridge.data.sampling import Schedule, Shares, check_schedule, temperature_schedule
from xbridge.objectives.base import Material, Objective
from xbridge.objectives.mixture import Mixture


@dataclass(frozen=True, kw_only=True)
class Corpora:
    """Sampling over the corpora of a training whose input `corpus` names several."""

    temperature: Schedule = 1.0
    """Corpora are drawn in proportion to size^(1/temperature), or phases of it; the size is in examples."""
    weights: dict[str, Schedule] | None = None
    """Instead: how often each corpus is drawn, relative to the others; a number, or phases of it."""

    def __post_init__(self) -> None:
        check_schedule("temperature", self.temperature, lowest=1)
        for name, weight in (self.weights or {}).items():
            check_schedule(f"weights.{name}", weight, lowest=0)


def build_over(objective: Plugin, materials: Mapping[str, Material], corpora: Corpora) -> Objective:
    """The objective over the corpus of the one material, or over those of several by name.

    `ConfigError` where weights do not name the corpora, or are all 0 at some time.
    """
    built: list[Objective] = [objective.load().build(objective.config, material) for material in materials.values()]
    if len(materials) == 1:
        return built[0]
    names = list(materials)
    mixture = Mixture(names, built, [1.0] * len(names))
    share = _share(names, [sum(part.size for part in own.parts) for own in built], corpora)
    mixture.shares = Shares.joined(share, [own.shares for own in built])
    return mixture


def _share(names: list[str], sizes: list[int], corpora: Corpora) -> Shares:
    """(phases, corpora) how often each is drawn."""
    if corpora.weights is None:
        return temperature_schedule(sizes, corpora.temperature)
    if set(corpora.weights) != set(names):
        raise ConfigError("corpora.weights", f"must name the corpora of inputs.corpus: {', '.join(names)}")

    def normalised(*weights: float) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        if not sum(weights) > 0:
            raise ConfigError("corpora.weights", "are all 0 at some time of the run")
        return np.asarray(weights, dtype=np.float64) / sum(weights)

    return Shares.scheduled([corpora.weights[name] for name in names], normalised)
