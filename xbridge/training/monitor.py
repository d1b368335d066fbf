"""Which validation was the best so far, and whether the training still improves.

A validation is a mapping of names to numbers: `loss` (mean over the parts), `<part>/loss`, and where translations are
scored `macro_<metric>` (mean over the directions) and `<direction>/<metric>`. One of them is watched. Best checkpoint
and early stopping follow from the same state, which is a pure function of the numbers seen, so that a resumed run
decides as an uninterrupted one does and all ranks decide alike.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from xbridge.core.errors import ConfigError

Mode = Literal["min", "max"]


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Which number says that a model is better, and how long to wait for a better one."""

    metric: str = "loss"
    """`loss`, `macro_chrf++`, or one part's: `eng_Latn-deu_Latn/loss`, `eng_Latn-deu_Latn/chrf++`."""
    patience: int = 0
    """Stop after so many validations in a row without a better one; 0 = never stop early."""
    min_delta: float = 0.0
    """A better one differs by more than this, in the metric's own units."""

    def __post_init__(self) -> None:
        if not self.metric:
            raise ConfigError("metric", "is empty; give loss, macro_chrf++ or a part's, eng_Latn-deu_Latn/chrf++")
        if self.patience < 0:
            raise ConfigError("patience", f"must be 0 (never stop) or more, got {self.patience}")
        if not 0 <= self.min_delta < math.inf:
            raise ConfigError("min_delta", f"must be 0 or more, got {self.min_delta}")


class Verdict(NamedTuple):
    """What one validation means for the run."""

    is_best: bool
    should_stop: bool


def mode_of(metric: str) -> Mode:
    """Losses should fall, scores should rise."""
    return "min" if metric.rsplit("/", 1)[-1] == "loss" else "max"


class Monitor:
    """Watch `metric`; validations that lack it do not count. A number that is not finite is never the best."""

    def __init__(self, metric: str, mode: Mode, patience: int = 0, min_delta: float = 0.0):
        self.metric, self._mode, self._patience, self._min_delta = metric, mode, patience, min_delta
        self.best: float | None = None
        self.best_step: int | None = None
        self._since_best = 0

    @classmethod
    def of(cls, config: EarlyStopping) -> "Monitor":
        """The monitor of a training's settings."""
        return cls(config.metric, mode_of(config.metric), config.patience, config.min_delta)

    @property
    def should_stop(self) -> bool:
        """True once `patience` validations in a row were not better; a resumed run may start like this."""
        return 0 < self._patience <= self._since_best

    def update(self, step: int, scores: Mapping[str, float]) -> Verdict:
        """Take the validation after `step` updates."""
        if self.metric not in scores:
            return Verdict(False, self.should_stop)
        value = scores[self.metric]
        is_best = math.isfinite(value) and (self.best is None or self._gain(value, self.best) > self._min_delta)
        if is_best:
            self.best, self.best_step, self._since_best = value, step, 0
        else:
            self._since_best += 1
        return Verdict(is_best, self.should_stop)

    def reason(self) -> str | None:
        """Why the run stopped early, in a sentence; None where it did not."""
        if not self.should_stop:
            return None
        standing = "was never finite" if self.best is None else f"was best at step {self.best_step} ({self.best:.6g})"
        return f"{self.metric} {standing}; validations since then, none better: {self._since_best}"

    def state(self) -> dict[str, Any]:
        """What `load` needs, as JSON."""
        return {
            "metric": self.metric,
            "best": self.best,
            "best_step": self.best_step,
            "since_best": self._since_best,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; one of another metric says nothing about this one and is left."""
        if state["metric"] == self.metric:
            self.best, self.best_step = state["best"], state["best_step"]
            self._since_best = state["since_best"]

    def _gain(self, value: float, best: float) -> float:
        return best - value if self._mode == "min" else value - best
