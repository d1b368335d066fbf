"""Which example comes when: counter-based random numbers, temperature sampling, epochs without repetition.

Every random decision is a hash of a key and counters (splitmix64: Steele, Lea and Flood, 2014), never the state of a
generator. Draw number t can be computed without draws 0..t-1, on any rank, with any version of any library.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbridge.core.errors import ConfigError
from xbridge.core.runtime import derive_seed

IntArray = NDArray[np.int64]
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, splitmix64's increment


@dataclass(frozen=True, kw_only=True)
class Part:
    """One language or direction of an objective, sampled as a whole."""

    name: str
    """`deu_Latn`, or `eng_Latn-deu_Latn` for a direction; in a mixture `translation/eng_Latn-deu_Latn`."""
    size: int
    """Number of examples."""


class Examples(NamedTuple):
    """Examples by number. `part`, `row`, `epoch`: (n,) int64."""

    part: IntArray
    row: IntArray
    epoch: IntArray

    def take(self, index: "IntArray | slice") -> "Examples":
        """The examples at `index`."""
        return Examples(self.part[index], self.row[index], self.epoch[index])


def random_bits(key: int, *counters: IntArray) -> NDArray[np.uint64]:
    """Uniform 64-bit words, a pure function of `key` and of broadcast counters."""
    with np.errstate(over="ignore"):
        bits = _mix(np.array(key, dtype=np.uint64) + GOLDEN)
        for counter in counters:
            bits = _mix((bits ^ np.asarray(counter).astype(np.uint64)) + GOLDEN)
    return bits


def uniform(key: int, *counters: IntArray) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) with 53 random bits."""
    numbers: NDArray[np.float64] = (random_bits(key, *counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers


def permutation(key: int, n: int) -> IntArray:
    """A random order of 0..n-1."""
    return np.argsort(random_bits(key, np.arange(n)), kind="stable")


def temperature_shares(sizes: Sequence[int], temperature: float) -> NDArray[np.float64]:
    """p_i proportional to size_i^(1 / T) (Arivazhagan et al., 2019): T = 1 as the data are, larger = more even."""
    if temperature < 1:
        raise ConfigError("temperature", f"must be at least 1 (1 = in proportion to the data), got {temperature}")
    powers = np.asarray(sizes, dtype=np.float64) ** (1 / temperature)
    shares: NDArray[np.float64] = powers / powers.sum()
    return shares


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of a run with one value of a setting."""

    until: float
    """The share of the budget at which the phase ends; the last phase ends at 1."""
    value: float
    """The setting within it."""


Schedule = float | tuple[Phase, ...]
"""One value for the whole run, or phases of it."""


def value_before(schedule: Schedule, end: float) -> float:
    """The value in force just before `end` of the budget is reached."""
    if not isinstance(schedule, tuple):
        return schedule
    return next(phase.value for phase in schedule if end <= phase.until)


def check_schedule(path: str, schedule: Schedule, *, lowest: float) -> None:
    """`ConfigError` where a value is below `lowest`, or the phases do not rise to 1."""
    phases = schedule if isinstance(schedule, tuple) else (Phase(until=1.0, value=schedule),)
    for index, phase in enumerate(phases):
        before = phases[index - 1].until if index else 0.0
        where = f"{path}.{index}" if isinstance(schedule, tuple) else path
        if not before < phase.until <= 1:
            raise ConfigError(f"{where}.until", f"must be above {before:g} and at most 1, got {phase.until:g}")
        if not phase.value >= lowest:
            raise ConfigError(
                f"{where}.value" if isinstance(schedule, tuple) else where,
                f"must be at least {lowest:g}, got {phase.value:g}",
            )
    if not phases or phases[-1].until != 1:
        raise ConfigError(path, "the last phase must end at 1, the end of the run")


@dataclass(frozen=True, eq=False)
class Shares:
    """How often each part is drawn, constant within each phase of a run.

    until: the share of the budget at which each phase ends, rising to 1; values: (phases, parts), rows sum to 1.
    """

    until: tuple[float, ...]
    values: NDArray[np.float64]

    @classmethod
    def constant(cls, values: NDArray[np.float64]) -> "Shares":
        """The same shares for the whole run."""
        return cls((1.0,), np.asarray(values, dtype=np.float64)[None])

    @classmethod
    def scheduled(cls, schedules: Sequence[Schedule], shares: Callable[..., NDArray[np.float64]]) -> "Shares":
        """`shares(*values)` of the values that the schedules have in each phase."""
        ends = sorted({1.0, *(phase.until for item in schedules if isinstance(item, tuple) for phase in item)})
        rows = [shares(*(value_before(schedule, end) for schedule in schedules)) for end in ends]
        return cls(tuple(ends), np.stack(rows))

    @classmethod
    def joined(cls, weights: "Shares", components: Sequence["Shares"]) -> "Shares":
        """Parts of several components, one after the other: a component's share times the shares within it."""
        ends = sorted({*weights.until, *(end for component in components for end in component.until)})
        rows = [
            np.concatenate([
                weight * component.before(end)
                for weight, component in zip(weights.before(end), components, strict=True)
            ])
            for end in ends
        ]  # fmt: skip
        return cls(tuple(ends), np.stack(rows))

    def before(self, end: float) -> NDArray[np.float64]:
        """(parts,) the shares in force just before `end` of the budget is reached."""
        shares: NDArray[np.float64] = self.values[int(np.searchsorted(self.until, end, side="left"))]
        return shares

    def phase(self, progress: float) -> int:
        """Number of the phase in force when `progress` (0 to 1) of the budget is reached."""
        return min(int(np.searchsorted(self.until, progress, side="right")), len(self.until) - 1)


def temperature_schedule(sizes: Sequence[int], temperature: Schedule) -> Shares:
    """`temperature_shares` of every phase of a schedule."""
    return Shares.scheduled([temperature], lambda value: temperature_shares(sizes, value))


class Sampler:
    """An endless sequence of examples: parts by their shares, and within a part every row once per epoch.

    The part of draw t comes from a golden-ratio sequence, which keeps each part's number of draws within a few of its
    share times t. Draws are asked for in order, block by block; the counts of the blocks before are all the state.
    """

    def __init__(self, parts: Sequence[Part], seed: int):
        self._parts, self._seed = parts, seed
        self._drawn = np.zeros(len(parts), dtype=np.int64)
        self._next = 0
        self._offset = np.uint64(derive_seed(seed, "parts"))
        self._orders: dict[tuple[int, int], NDArray[np.int32]] = {}

    def draw(self, count: int, shares: NDArray[np.float64]) -> Examples:
        """The next `count` examples, parts by `shares`: (parts,), which may differ from block to block."""
        examples, counts = self._following(count, shares)
        self._next += count
        self._drawn += counts
        return examples

    def peek(self, count: int, shares: NDArray[np.float64]) -> Examples:
        """What `draw` would give, without drawing it."""
        return self._following(count, shares)[0]

    def _following(self, count: int, shares: NDArray[np.float64]) -> tuple[Examples, IntArray]:
        with np.errstate(over="ignore"):
            points = np.arange(self._next, self._next + count).astype(np.uint64) * GOLDEN + self._offset
        edges = np.cumsum(shares)[:-1]
        part = np.searchsorted(edges, (points >> np.uint64(11)) * 2.0**-53, side="right").astype(np.int64)
        counts = np.bincount(part, minlength=len(self._parts))
        row, epoch = np.empty_like(part), np.empty_like(part)
        for index in np.flatnonzero(counts).tolist():
            mine = part == index
            place = self._drawn[index] + np.arange(counts[index])
            epoch[mine] = place // self._parts[index].size
            row[mine] = self._rows(index, place)
        return Examples(part, row, epoch), counts

    def _rows(self, index: int, place: IntArray) -> IntArray:
        size = self._parts[index].size
        rows = np.empty_like(place)
        for epoch in range(int(place[0]) // size, int(place[-1]) // size + 1):
            here = place // size == epoch
            rows[here] = self._order(index, epoch)[place[here] % size]
        return rows

    def _order(self, index: int, epoch: int) -> NDArray[np.int32]:
        key = (index, epoch)
        if key not in self._orders:
            part = self._parts[index]
            self._orders.pop((index, epoch - 1), None)
            order = permutation(derive_seed(self._seed, "order", part.name, epoch), part.size)
            self._orders[key] = order.astype(np.int32)
        return self._orders[key]


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
