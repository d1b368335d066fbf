"""Which example comes when: counter-based random numbers, temperature sampling, epochs without repetition.

Every random decision is a hash of a key and counters (splitmix64: Steele, Lea and Flood, 2014), never the state of a
generator. Draw number t can be computed without draws 0..t-1, on any rank, with any version of any library.
"""

from collections.abc import Sequence
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


class Sampler:
    """An endless sequence of examples: parts by their shares, and within a part every row once per epoch.

    The part of draw t comes from a golden-ratio sequence, which keeps each part's number of draws within a few of its
    share times t. Draws are asked for in order, block by block; the counts of the blocks before are all the state.
    """

    def __init__(self, parts: Sequence[Part], shares: NDArray[np.float64], seed: int):
        self._parts, self._seed = parts, seed
        self._edges = np.cumsum(shares)[:-1]
        self._drawn = np.zeros(len(parts), dtype=np.int64)
        self._next = 0
        self._offset = np.uint64(derive_seed(seed, "parts"))
        self._orders: dict[tuple[int, int], IntArray] = {}

    def draw(self, count: int) -> Examples:
        """The next `count` examples."""
        with np.errstate(over="ignore"):
            points = np.arange(self._next, self._next + count).astype(np.uint64) * GOLDEN + self._offset
        part = np.searchsorted(self._edges, (points >> np.uint64(11)) * 2.0**-53, side="right").astype(np.int64)
        self._next += count
        row, epoch = np.empty_like(part), np.empty_like(part)
        for index in np.unique(part):
            mine = part == index
            place = self._drawn[index] + np.arange(mine.sum())
            self._drawn[index] += len(place)
            epoch[mine] = place // self._parts[index].size
            row[mine] = self._rows(int(index), place)
        return Examples(part, row, epoch)

    def _rows(self, index: int, place: IntArray) -> IntArray:
        size = self._parts[index].size
        rows = np.empty_like(place)
        for epoch in range(int(place[0]) // size, int(place[-1]) // size + 1):
            here = place // size == epoch
            rows[here] = self._order(index, epoch)[place[here] % size]
        return rows

    def _order(self, index: int, epoch: int) -> IntArray:
        key = (index, epoch)
        if key not in self._orders:
            part = self._parts[index]
            self._orders.pop((index, epoch - 2), None)
            self._orders[key] = permutation(derive_seed(self._seed, "order", part.name, epoch), part.size)
        return self._orders[key]


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
