"""Batches of a fixed set of examples, epoch by epoch, for fine-tuning: a `BatchPlan` of xbridge.training.trainer.

An epoch shuffles the examples, sorts them by length within windows of `WINDOW` batches, cuts batches and shuffles
those: batches hold sentences of like length, and their order is random. All of it follows from the seed and the epoch
number, so that any step can be sought at once on any rank.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from xbridge.core.runtime import derive_seed
from xbridge.data.batching import Counts

WINDOW = 16  # batches


class EpochPlan:
    """`epochs` passes over examples 0 .. n-1. The last batch of an epoch may be smaller.

    `lengths`: tokens per example. `units`: supervised units per example (1 for a label, words for tags).
    `collate(examples, silent)` makes a batch of example numbers; with `silent` its units are not supervised.
    """

    def __init__(
        self,
        ids: Sequence[str],
        lengths: Sequence[int],
        units: Sequence[int],
        collate: Callable[[Sequence[int], bool], Any],
        *,
        batch_size: int,
        epochs: int,
        seed: int,
        micro_batch_size: int | None = None,
    ):
        assert len(ids) == len(lengths) == len(units) > 0
        self._ids, self._lengths, self._units, self._collate = ids, np.asarray(lengths), units, collate
        self._batch_size, self._seed = batch_size, seed
        self._micro_batch_size = micro_batch_size or batch_size
        self._per_epoch = -(-len(ids) // batch_size)
        self.num_steps = epochs * self._per_epoch
        self._epoch = lru_cache(maxsize=2)(self._shuffled)

    def micro_batches(self, step: int, rank: int, world_size: int) -> list[Any]:
        """This rank's share: every `world_size`-th example of the batch, cut to the micro-batch size.

        Every rank gets equally many micro-batches; where the examples do not suffice one is given again, silenced.
        """
        batch = self.examples(step)
        largest_share = -(-len(batch) // world_size)
        count = -(-largest_share // self._micro_batch_size)
        parts = [batch[rank::world_size][i::count] for i in range(count)]
        return [self._collate(part or batch[:1], not part) for part in parts]

    def counts(self, step: int) -> Counts:
        """Supervised units and tokens of the global batch."""
        batch = self.examples(step)
        lengths = self._lengths[batch]
        return Counts(
            supervised=sum(self._units[i] for i in batch),
            nonpad=int(lengths.sum()),
            padded=int(lengths.max()) * len(batch),
        )

    def digest(self, step: int) -> str:
        """Hash of the example ids in the global batch."""
        text = "\0".join(self._ids[i] for i in self.examples(step))
        return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]

    def examples(self, step: int) -> list[int]:
        """Numbers of the examples of global batch `step`."""
        epoch, position = divmod(step, self._per_epoch)
        return self._epoch(epoch)[position]

    def _shuffled(self, epoch: int) -> list[list[int]]:
        random = np.random.default_rng(derive_seed(self._seed, "epoch", epoch))
        order = random.permutation(len(self._ids))
        batches: list[list[int]] = []
        for start in range(0, len(order), WINDOW * self._batch_size):
            window = order[start : start + WINDOW * self._batch_size]
            window = window[np.argsort(self._lengths[window], kind="stable")]
            batches += [window[i : i + self._batch_size].tolist() for i in range(0, len(window), self._batch_size)]
        return [batches[i] for i in random.permutation(len(batches))]


def batches_by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """All example numbers in batches of like length, longest first (so that memory runs out at once or never)."""
    order = np.argsort(-np.asarray(lengths), kind="stable").tolist()
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
