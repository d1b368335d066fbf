"""Batches filled to a token budget, planned ahead for a whole run.

The plan draws examples in pools, sorts a pool by length, cuts it into batches that each fit the budget, and shuffles
the batches. It ends at the step where the cumulative count that is being equalised reaches its amount, so that the
number of steps is known before the first one. It holds 10 bytes per drawn example; batch `step` is a slice of it, the
same on every rank and for every world size.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from xbridge.core.errors import ConfigError, UserError
from xbridge.core.runtime import derive_seed
from xbridge.data.sampling import Examples, Part, Sampler, Shares, permutation
from xbridge.data.tokens import rounded_up, starts_of

IntArray = NDArray[np.int64]
POOL_BATCHES = 128  # batches per pool: enough that a pool has many rows of every length
POOL_BATCHES_ROUNDED = 512  # the same where widths are rounded up: it takes more to fill whole batches of one width
FIRST_POOL = 1024  # examples; the least that a whole pool has, and what tells how long examples are
TALLY_ROWS = 1 << 18
SMALLEST_POOL = 64  # examples; a pool that would run past the end of a phase is cut to it, but not below this


class Counts(NamedTuple):
    """Tokens of a batch, or of a run so far."""

    supervised: int
    """Units that the loss counts: target tokens, examples or tagged words."""
    nonpad: int
    """Source and target tokens, special tokens included, padding not."""
    padded: int
    """Source and target tokens with padding, as one process would pad the whole global batch."""

    @property
    def padding_share(self) -> float:
        """Share of the padded tokens that are padding; 0 without any."""
        return round(1 - self.nonpad / self.padded, 4) if self.padded else 0.0


class Lengths(NamedTuple):
    """Tokens per example, special tokens included: `source`, `target`, `supervised`: (n,) int64."""

    source: IntArray
    target: IntArray
    supervised: IntArray


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a run is, in the count that its study equalises between arms."""

    unit: Literal["steps", "nonpad_tokens", "padded_tokens", "supervised_tokens"] = "nonpad_tokens"
    """`steps` or which tokens to count; tokens are source + target, `supervised_tokens` scored target tokens."""
    amount: int
    """The run ends at the step where the count reaches this. 0 = no training."""

    def __post_init__(self) -> None:
        if self.amount < 0:
            raise ConfigError("amount", f"must be 0 or more, got {self.amount}")


class Source(Protocol):
    """Where the plan gets lengths and batches from: an objective."""

    parts: Sequence[Part]

    def lengths(self, examples: Examples) -> Lengths:
        """Lengths of `examples` as `collate` will make them."""

    def collate(self, examples: Examples, *, scored: bool = True) -> Any:
        """The padded batch; with `scored` false no unit of it counts in the loss."""


class TokenPlan:
    """All global batches of a run over `source`; see the module's text.

    batch_tokens: the largest padded source + target tokens of a global batch. shares: how often each part is drawn.
    Where the shares change during the run, a phase's last pool ends about where the phase does. accumulation:
    micro-batches per rank; it changes memory, not results. multiple_of: what widths are padded to.
    """

    def __init__(
        self,
        source: Source,
        *,
        seed: int,
        budget: Budget,
        batch_tokens: int,
        shares: Shares,
        accumulation: int = 1,
        multiple_of: int = 1,
    ):
        self._source, self._accumulation = source, accumulation
        self._seed, self._batch_tokens, self._multiple = seed, batch_tokens, multiple_of
        steps = _Steps()
        if budget.amount:
            self._fill(steps, budget, Sampler(source.parts, seed), shares)
        self._examples, self._starts, counts = steps.joined()
        totals = np.cumsum(counts, axis=0)
        self.num_steps = min(budget.amount, len(counts))
        if budget.unit != "steps" and budget.amount:
            column = Counts._fields.index(budget.unit.removesuffix("_tokens"))
            self.num_steps = int(np.searchsorted(totals[:, column], budget.amount)) + 1
        self._counts = counts[: self.num_steps]
        self._tally = _Tally(source, self._examples)

    def examples(self, step: int) -> Examples:
        """The examples of global batch `step`."""
        if not 0 <= step < self.num_steps:
            raise IndexError(f"step {step} of {self.num_steps}")
        chosen = self._examples.take(slice(int(self._starts[step]), int(self._starts[step + 1])))
        return Examples(*(column.astype(np.int64) for column in chosen))

    def counts(self, step: int) -> Counts:
        """Tokens of global batch `step`."""
        return Counts(*self._counts[step].tolist())

    def totals(self) -> Counts:
        """Tokens of the whole run."""
        return Counts(*self._counts.sum(axis=0).tolist())

    def digest(self, step: int) -> str:
        """16 hex digits that name the examples of global batch `step`, their epochs and order."""
        examples = self.examples(step)
        return hashlib.blake2b(np.stack(examples).astype("<i8").tobytes(), digest_size=8).hexdigest()

    def micro_batches(self, step: int, rank: int, world_size: int) -> list[Any]:
        """This rank's `accumulation` batches of global batch `step`; a share without rows gets one unscored row."""
        examples = self.examples(step)
        pieces = world_size * self._accumulation
        edges = np.arange(pieces + 1) * len(examples.row) // pieces
        batches = []
        for piece in range(rank * self._accumulation, (rank + 1) * self._accumulation):
            rows = slice(int(edges[piece]), int(edges[piece + 1]))
            has_rows = rows.stop > rows.start
            batches.append(self._source.collate(examples.take(rows if has_rows else slice(1)), scored=has_rows))
        return batches

    def ledger(self, num_steps: int | None = None) -> dict[str, dict[str, float]]:
        """Per part, by the first `num_steps` batches (None = all): examples drawn, epochs (draws / size), source and
        target tokens, and those of them that are scored."""
        self._tally.count_to(int(self._starts[self.num_steps if num_steps is None else num_steps]))
        return {
            part.name: {
                "examples": int(examples), "epochs": round(float(examples / part.size), 4), "tokens": int(tokens),
                "supervised_tokens": int(supervised),
            }
            for part, (examples, tokens, supervised) in zip(self._source.parts, self._tally.sums, strict=True)
        }  # fmt: skip

    def _rows_of(self, budget: Budget, amount: float, lengths: Lengths) -> int:
        """About how many rows like those of `lengths` take `amount` of the budget."""
        whole = lengths.source + lengths.target
        per_row = {
            "steps": float(whole.mean()) / self._batch_tokens,
            "supervised_tokens": float(lengths.supervised.mean()),
        }
        return max(int(amount / per_row.get(budget.unit, float(whole.mean()))), SMALLEST_POOL)

    def _fill(self, steps: "_Steps", budget: Budget, sampler: Sampler, shares: Shares) -> None:
        """Draw, sort and cut pools until the budget is reached."""
        left_over: Examples | None = None
        lengths = self._source.lengths(sampler.peek(FIRST_POOL, shares.values[0]))
        mean = float((lengths.source + lengths.target).mean())
        pool_batches = POOL_BATCHES if self._multiple == 1 else POOL_BATCHES_ROUNDED
        pool_rows = max(int(pool_batches * self._batch_tokens / mean), FIRST_POOL)
        number = 0
        while (reached := steps.reached(budget)) < budget.amount:
            phase = shares.phase(reached / budget.amount)
            left = self._rows_of(budget, shares.until[phase] * budget.amount - reached, lengths)
            rows = pool_rows if number else FIRST_POOL
            ends_phase = left <= rows and phase < len(shares.until) - 1
            pool = sampler.draw(left if ends_phase else rows, shares.values[phase])
            if left_over is not None:
                pool = Examples(*(np.concatenate(pair) for pair in zip(left_over, pool, strict=True)))
            lengths = self._source.lengths(pool)
            order = snake_order(*(-(-side // self._multiple) for side in lengths[:2]))
            pool, lengths = pool.take(order), Lengths(*(column[order] for column in lengths))
            starts = cut(lengths.source, lengths.target, self._batch_tokens, self._multiple)
            if len(starts) > 2 and not ends_phase:  # the last batch is rarely full: its rows go into the next pool
                left_over, starts = pool.take(slice(int(starts[-2]), None)), starts[:-1]
            else:
                left_over = None
            shuffled = permutation(derive_seed(self._seed, "batches", number), len(starts) - 1)
            steps.add(pool, lengths, starts, shuffled, self._multiple)
            number += 1


class _Tally:
    """Examples, tokens and supervised tokens per part of the rows so far; it goes on from where it was asked last."""

    def __init__(self, source: Source, examples: Examples):
        self._source, self._examples = source, examples
        self._end = 0
        self.sums = np.zeros((len(source.parts), 3), dtype=np.int64)

    def count_to(self, end: int) -> None:
        """Bring `sums`, (parts, 3), to the rows before `end`."""
        if end < self._end:
            self._end, self.sums = 0, np.zeros_like(self.sums)
        while self._end < end:
            rows = slice(self._end, min(self._end + TALLY_ROWS, end))
            examples = Examples(*(column.astype(np.int64) for column in self._examples.take(rows)))
            lengths = self._source.lengths(examples)
            for column, weights in enumerate((None, lengths.source + lengths.target, lengths.supervised)):
                counts = np.bincount(examples.part, weights=weights, minlength=len(self.sums))
                self.sums[:, column] += counts.astype(np.int64)
            self._end = rows.stop


class _Steps:
    """Batches planned so far."""

    def __init__(self) -> None:
        self._examples: list[Examples] = []
        self._rows: list[IntArray] = []
        self._counts: list[NDArray[np.int64]] = []
        self._total = np.zeros(3, dtype=np.int64)
        self._number = 0

    def reached(self, budget: Budget) -> int:
        if budget.unit == "steps":
            return self._number
        return int(self._total[Counts._fields.index(budget.unit.removesuffix("_tokens"))])

    def add(self, pool: Examples, lengths: Lengths, starts: IntArray, order: IntArray, multiple: int) -> None:
        """Append the batches of a sorted pool in the order given."""
        first, rows = starts[:-1], np.diff(starts)
        end = int(starts[-1])
        nonpad = np.add.reduceat((lengths.source + lengths.target)[:end], first)
        supervised = np.add.reduceat(lengths.supervised[:end], first)
        width = rounded_up(np.maximum.reduceat(lengths.source[:end], first), multiple)
        width = width + rounded_up(np.maximum.reduceat(lengths.target[:end], first), multiple)
        counts = np.stack([supervised, nonpad, rows * width], axis=1)[order]
        rows = rows[order]
        index = np.arange(rows.sum()) + np.repeat(first[order] - (np.cumsum(rows) - rows), rows)
        chosen = pool.take(index)
        self._examples.append(
            Examples(chosen.part.astype(np.int16), chosen.row.astype(np.int32), chosen.epoch.astype(np.int32))
        )
        self._rows.append(rows)
        self._counts.append(counts)
        self._total += counts.sum(axis=0)
        self._number += len(rows)

    def joined(self) -> tuple[Examples, IntArray, NDArray[np.int64]]:
        if not self._rows:
            empty = np.zeros(0, dtype=np.int64)
            return Examples(empty, empty, empty), np.zeros(1, dtype=np.int64), np.zeros((0, 3), dtype=np.int64)
        starts = starts_of(np.concatenate(self._rows))
        examples = Examples(*(np.concatenate(columns) for columns in zip(*self._examples, strict=True)))
        return examples, starts, np.concatenate(self._counts)


def snake_order(source: IntArray, target: IntArray) -> IntArray:
    """Order by source length and, within one length, by target length, up and down in turn.

    Neighbours then differ little in both lengths, also where one length ends and the next begins.
    """
    downward = source % 2 == 1
    return np.lexsort((np.where(downward, -target, target), source))


def cut(source: IntArray, target: IntArray, batch_tokens: int, multiple: int = 1) -> IntArray:
    """Cut sorted rows into batches of at most `batch_tokens` = rows x (longest source + longest target).

    Returns the starts and the end, (num_batches + 1,). `UserError` where a single row is larger than the budget.
    """
    source, target = rounded_up(source, multiple), rounded_up(target, multiple)
    largest = int((source + target).max(initial=0))
    if largest > batch_tokens:
        raise UserError(f"batch_tokens: {batch_tokens} is less than one example of {largest} source + target tokens")
    starts = [0]
    while starts[-1] < len(source):
        start = starts[-1]
        window = slice(start, start + batch_tokens // int(source[start] + target[start]))
        widths = np.maximum.accumulate(source[window]) + np.maximum.accumulate(target[window])
        cost = widths * np.arange(1, len(widths) + 1)
        starts.append(start + int(np.searchsorted(cost, batch_tokens, side="right")))
    return np.asarray(starts, dtype=np.int64)
