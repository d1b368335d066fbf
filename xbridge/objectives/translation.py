"""Translation along any graph of directions, and its control on randomly re-paired sentences.

A corpus pairs every language with a pivot. Directions from or to the pivot use its pairs as they are; a direction
between two other languages joins their pairs on the pivot's string. With `shuffle_pairs` the targets of a language
pair are re-paired at random: the same strings, the same objective, and no translation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from xbridge.core.errors import ConfigError, UserError
from xbridge.core.runtime import derive_seed
from xbridge.data.batching import Lengths
from xbridge.data.sampling import Examples, Part, permutation, random_bits, temperature_schedule
from xbridge.data.token_store import Store
from xbridge.data.tokens import TokenTable, starts_of
from xbridge.objectives.base import LossSum, Material
from xbridge.objectives.seq2seq import Layouts, Seq2SeqBatch, fits
from xbridge.objectives.sequences import CausalLayouts, SequenceBatch
from xbridge.objectives.text import store_of

if TYPE_CHECKING:
    from torch import nn

IntArray = NDArray[np.int64]
Graph = Literal["many_to_many", "one_to_many", "many_to_one"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Translation."""

    directions: Graph | tuple[str, ...] = "many_to_many"
    """From and to the pivot (many_to_many), only from it, only to it, or a list such as [eng_Latn-deu_Latn]."""
    shuffle_pairs: bool = False
    """Re-pair the sentences of each language pair at random: the control without translation signal."""
    label_smoothing: float = 0.0
    """Probability mass spread over the vocabulary."""
    smoothing: Literal["huggingface", "fairseq"] = "huggingface"
    """Convention of the spreading, see ops/linear_cross_entropy.py."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError("label_smoothing", f"must be at least 0 and below 1, got {self.label_smoothing}")
        listed = self.directions if isinstance(self.directions, tuple) else ()
        for index, direction in enumerate(listed):
            source, hyphen, target = direction.partition("-")
            if not hyphen or not source or not target or source == target:
                raise ConfigError(f"directions.{index}", f"{direction!r} is not like eng_Latn-deu_Latn")
        if isinstance(self.directions, tuple) and not listed:
            raise ConfigError("directions", "the list is empty")


@dataclass(frozen=True)
class Pairs:
    """One language pair of the corpus as numbers of unique strings: `source` and `target`: (n,), equal = same text."""

    source_lang: str
    target_lang: str
    source: NDArray[np.int32]
    target: NDArray[np.int32]


def build(config: Config, material: Material) -> "Translation":
    """The objective over the pairs of the corpus; `UserError` for a direction that it has none for."""
    return from_store(config, material, store_of(material))


def from_store(config: Config, material: Material, store: Store) -> "Translation":
    """The objective over the pairs of an opened store; errors as of `build`."""
    if material.conventions.family.kind == "encoder":
        raise UserError("translation needs a decoder; set attach_decoder to give this encoder one")
    return Translation(config, material, PairRows(material, config.directions, store, shuffle=config.shuffle_pairs))


class Translation:
    """One part per direction; a row is a pair."""

    def __init__(self, config: Config, material: Material, pairs: "PairRows"):
        self._config, self._pairs = config, pairs
        self.num_dropped, self.parts, self.shares = pairs.num_dropped, pairs.parts, pairs.shares
        layouts = CausalLayouts if material.conventions.family.kind == "decoder" else Layouts
        self._layouts: Any = layouts(material.conventions, pairs.directions, material.multiple_of)
        self.longest: int = self._layouts.longest(material.max_tokens)

    def lengths(self, examples: Examples) -> Lengths:
        """Lengths of `examples` as `collate` will make them."""
        lengths: Lengths = self._layouts.lengths(*self._pairs.lengths(examples), examples.part)
        return lengths

    def collate(self, examples: Examples, *, scored: bool = True) -> Seq2SeqBatch | SequenceBatch:
        """Sources and targets."""
        batch: Seq2SeqBatch | SequenceBatch = self._layouts.batch(
            *self._pairs.take(examples), examples.part, scored=scored
        )
        return batch

    def loss(self, model: "nn.Module", batch: Seq2SeqBatch | SequenceBatch) -> LossSum:
        """Summed cross-entropy of the targets."""
        loss: LossSum = self._layouts.loss(model, batch, self._config.label_smoothing, self._config.smoothing)
        return loss


class PairRows:
    """The pairs of some directions that are not too long, as parts of an objective: one per direction."""

    def __init__(self, material: Material, directions: Graph | tuple[str, ...], store: Store, *, shuffle: bool = False):
        pairs = read_pairs(store, material)
        fit = fits(store.tokens.lengths, material.max_tokens)
        kept = [
            _fitting(pair, fit, material.max_tokens) for pair in pairs
        ]  # before re-pairing: the control has MT's text
        self.num_dropped = sum(len(pair.source) for pair in pairs) - sum(len(pair.source) for pair in kept)
        if shuffle:
            seed = derive_seed(material.seed, "repair", material.split)
            kept = [repaired(pair, derive_seed(seed, pair.target_lang)) for pair in kept]
        chosen = [_direction(kept, name, material.corpus) for name in _names(directions, kept)]
        self.directions = [(pair.source_lang, pair.target_lang) for pair in chosen]
        self.parts = [
            Part(name="-".join(way), size=len(p.source)) for way, p in zip(self.directions, chosen, strict=True)
        ]
        self.shares = temperature_schedule([part.size for part in self.parts], material.temperature)
        self._sides = [
            np.concatenate([pair.source for pair in chosen]),
            np.concatenate([pair.target for pair in chosen]),
        ]
        self._first = starts_of(np.asarray([part.size for part in self.parts]))
        self._tokens = store.tokens

    def lengths(self, examples: Examples) -> list[IntArray]:
        """Content tokens of the sources and of the targets: (n,) each."""
        rows = self._first[examples.part] + examples.row
        return [self._tokens.lengths_of(side[rows]) for side in self._sides]

    def take(self, examples: Examples) -> list[TokenTable]:
        """Content tokens of the sources, and of the targets."""
        rows = self._first[examples.part] + examples.row
        return [self._tokens.take(side[rows]) for side in self._sides]


def read_pairs(store: Store, material: Material) -> list[Pairs]:
    """The language pairs of the material's split; `UserError` where there are none."""
    pairs = [
        Pairs(source_lang, target_lang, columns["source"], columns["target"])
        for (split, source_lang, target_lang), columns in store.tables.get("bitext", {}).items()
        if split == material.split
    ]
    if not pairs:
        raise UserError(f"{material.corpus}: holds no {material.split} pairs")
    return pairs


def repaired(pairs: Pairs, key: int) -> Pairs:
    """The same sources and the same targets, paired at random so that no true pair is left.

    A pair counts as true where the two strings are paired anywhere in `pairs`, or are equal. `UserError` where too few
    distinct strings leave no such pairing.
    """
    n = len(pairs.source)
    source = pairs.source.astype(np.int64) * (int(max(pairs.source.max(), pairs.target.max())) + 1)
    true = np.unique(source + pairs.target)
    target = pairs.target[permutation(key, n)]
    for attempt in range(1, 200):
        wrong = np.flatnonzero(np.isin(source + target, true) | (pairs.source == target))
        if not len(wrong):
            return Pairs(pairs.source_lang, pairs.target_lang, pairs.source, target)
        others = (random_bits(key, np.asarray([attempt]), wrong) % np.uint64(n)).astype(np.int64)
        for row, other in zip(wrong.tolist(), others.tolist(), strict=True):
            target[row], target[other] = target[other], target[row]
    raise UserError(
        f"shuffle_pairs: {pairs.source_lang}-{pairs.target_lang} has too few distinct pairs to re-pair ({n}); "
        "use more text or leave the language out"
    )


def _fitting(pairs: Pairs, fit: NDArray[np.bool_], max_tokens: int) -> Pairs:
    keep = fit[pairs.source] & fit[pairs.target]
    if not keep.any():
        name = f"{pairs.source_lang}-{pairs.target_lang}"
        raise UserError(f"max_tokens: no {name} pair has at most {max_tokens} tokens a side")
    return Pairs(pairs.source_lang, pairs.target_lang, pairs.source[keep], pairs.target[keep])


def _names(directions: Graph | tuple[str, ...], pairs: Sequence[Pairs]) -> list[str]:
    if isinstance(directions, tuple):
        return list(dict.fromkeys(directions))
    out = [f"{pair.source_lang}-{pair.target_lang}" for pair in pairs]
    back = [f"{pair.target_lang}-{pair.source_lang}" for pair in pairs]
    graph = {"many_to_many": out + back, "one_to_many": out, "many_to_one": back}[directions]
    return list(dict.fromkeys(graph))


def _direction(pairs: Sequence[Pairs], name: str, corpus: Path) -> Pairs:
    """The pairs of direction `name`: as they are, turned round, or joined on the pivot."""
    source_lang, target_lang = name.split("-")
    from_pivot = {pair.target_lang: pair for pair in pairs}
    for pair in pairs:
        if (pair.source_lang, pair.target_lang) == (source_lang, target_lang):
            return pair
        if (pair.target_lang, pair.source_lang) == (source_lang, target_lang):
            return Pairs(source_lang, target_lang, pair.target, pair.source)
    if source_lang not in from_pivot or target_lang not in from_pivot:
        known = ", ".join(sorted({pair.source_lang for pair in pairs} | set(from_pivot)))
        raise UserError(f"directions: {name}: the corpus {corpus} has no such language; it has {known}")
    columns = _joined(from_pivot[source_lang], from_pivot[target_lang])
    if not len(columns):
        raise UserError(f"directions: {name}: no string of {corpus} is translated into both languages")
    return Pairs(source_lang, target_lang, columns[:, 0], columns[:, 1])


def _joined(left: Pairs, right: Pairs) -> NDArray[np.int32]:
    """(m, 2) distinct pairs of targets that share a pivot string, in the order of `left`, then of `right`."""
    order = np.argsort(right.source, kind="stable")
    pivots = right.source[order]
    first = np.searchsorted(pivots, left.source, side="left")
    matches = np.searchsorted(pivots, left.source, side="right") - first
    place = np.arange(matches.sum()) + np.repeat(first - (np.cumsum(matches) - matches), matches)
    columns = np.stack([np.repeat(left.target, matches), right.target[order[place]]], axis=1)
    _, once = np.unique(columns, axis=0, return_index=True)
    return columns[np.sort(once)]
