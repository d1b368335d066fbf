"""Denoising of monolingual text: mBART's text infilling (Liu et al., 2020, section 2.1; Lewis et al., 2020).

Of a string's tokens a share is removed in spans of Poisson length, each span is replaced by one mask token, and the
decoder writes the whole string. A span of length 0 inserts a mask. Spans are separated by at least one kept token, so
masks and spans correspond one to one. The noise of an example is a pure function of (seed, language, row, epoch):
neither the batch it is in nor the rank matters, and its length is known without making it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from xbridge.core.errors import ConfigError, UserError
from xbridge.core.runtime import derive_seed
from xbridge.data.batching import Lengths
from xbridge.data.sampling import Examples, uniform
from xbridge.data.tokens import Selection, TokenTable, starts_of
from xbridge.objectives.base import LossSum, Material
from xbridge.objectives.seq2seq import Layouts, Seq2SeqBatch
from xbridge.objectives.text import Strings, monolingual

if TYPE_CHECKING:
    from torch import nn

IntArray = NDArray[np.int64]
SLOT_COUNTER = 1 << 20  # counters of slots start here, those of span lengths at 1


@dataclass(frozen=True, kw_only=True)
class Config:
    """Text infilling."""

    mask_share: float = 0.35
    """Share of a string's tokens that is removed, exact in expectation."""
    mean_span: float = 3.5
    """Mean of the Poisson distribution of span lengths, in tokens."""
    languages: tuple[str, ...] | None = None
    """Languages of the corpus to use; null = all."""
    label_smoothing: float = 0.0
    """Probability mass spread over the vocabulary."""
    smoothing: Literal["huggingface", "fairseq"] = "huggingface"
    """Convention of the spreading, see ops/linear_cross_entropy.py."""

    def __post_init__(self) -> None:
        if not 0 <= self.mask_share < 1:
            raise ConfigError("mask_share", f"must be at least 0 and below 1, got {self.mask_share}")
        if not self.mean_span > 0:
            raise ConfigError("mean_span", f"must be above 0, got {self.mean_span}")
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError("label_smoothing", f"must be at least 0 and below 1, got {self.label_smoothing}")


def build(config: Config, material: Material) -> "Denoising":
    """The objective over mono.parquet of the corpus; `UserError` where a language has no text."""
    if material.conventions.family.kind != "encoder-decoder":
        raise UserError("denoising needs an encoder-decoder; use masked_lm for an encoder, causal_lm for a decoder")
    if material.conventions.mask is None:
        raise UserError("denoising needs a mask token, and this tokenizer has none; train one with the tokenizer stage")
    languages, texts = monolingual(material, config.languages)
    return Denoising(config, material, languages, texts)


class Denoising:
    """One part per language; a row is a string. `texts`: content tokens by language."""

    def __init__(self, config: Config, material: Material, languages: tuple[str, ...], texts: Sequence[Selection]):
        self._strings = Strings(material, languages, texts)
        self.parts, self.shares = self._strings.parts, self._strings.shares
        self.num_dropped = self._strings.num_dropped
        self._config = config
        self._layouts = Layouts(
            material.conventions, [(language, language) for language in languages], material.multiple_of
        )
        assert material.conventions.mask is not None
        self._mask: int = material.conventions.mask
        self.longest = self._layouts.longest(material.max_tokens)
        self._key = derive_seed(material.seed, "noise", material.split)

    def lengths(self, examples: Examples) -> Lengths:
        """Lengths of `examples` as `collate` will make them."""
        text = self._strings.lengths(examples)
        removed, spans = self._spans(examples, text)
        return self._layouts.lengths(text - removed + (spans >= 0).sum(axis=1), text, examples.part)

    def collate(self, examples: Examples, *, scored: bool = True) -> Seq2SeqBatch:
        """The noisy strings and the whole ones."""
        return self._layouts.batch(self.noisy(examples), self._strings.take(examples), examples.part, scored=scored)

    def loss(self, model: "nn.Module", batch: Seq2SeqBatch) -> LossSum:
        """Summed cross-entropy of the whole strings."""
        return self._layouts.loss(model, batch, self._config.label_smoothing, self._config.smoothing)

    def noisy(self, examples: Examples) -> TokenTable:
        """Content tokens of the noisy sources."""
        text = self._strings.take(examples)
        removed, spans = self._spans(examples, text.lengths)
        slots = uniform(
            self._key, examples.part[:, None], examples.row[:, None], examples.epoch[:, None],
            SLOT_COUNTER + np.arange(int((text.lengths - removed).max()) + 1)[None],
        )  # fmt: skip
        return infill(text, removed, spans, slots, self._mask)

    def _spans(self, examples: Examples, lengths: IntArray) -> tuple[IntArray, IntArray]:
        counters = (examples.part, examples.row, examples.epoch)
        exact = lengths * self._config.mask_share
        removed = np.floor(exact + uniform(self._key, *counters, np.zeros(1, dtype=np.int64))).astype(np.int64)
        columns: list[IntArray] = []
        covered = np.zeros_like(removed)
        table = poisson_cumulative(self._config.mean_span)
        while (covered < removed).any():
            draws = uniform(self._key, *counters, np.asarray([len(columns) + 1]))
            length = np.minimum(np.searchsorted(table, draws, side="right"), removed - covered)
            columns.append(np.where(covered < removed, length, -1))
            covered = covered + np.maximum(columns[-1], 0)
        spans = np.stack(columns, axis=1) if columns else np.full((len(lengths), 1), -1)
        return removed, _fitted(spans, lengths - removed + 1)


def infill(text: TokenTable, removed: IntArray, spans: IntArray, slots: NDArray[np.float64], mask: int) -> TokenTable:
    """Replace spans by masks.

    removed: (n,) tokens to remove; spans: (n, s) lengths that sum to it, -1 = no span; slots: (n, k) random numbers
    that choose the places: slot j lies before kept token j, the last one after the end. At most one span per slot.
    """
    kept = text.lengths - removed
    columns = np.arange(slots.shape[1])
    order = np.argsort(np.where(columns <= kept[:, None], slots, 2.0), axis=1, kind="stable")
    masks_at = np.zeros(slots.shape, dtype=np.int64)
    skipped = np.zeros(slots.shape, dtype=np.int64)
    row, number = np.nonzero(spans >= 0)
    place = order[row, number]
    masks_at[row, place] = 1
    skipped[row, place] = spans[row, number]
    num_before, skipped_before = masks_at.cumsum(axis=1), skipped.cumsum(axis=1)
    starts = starts_of(kept + num_before[:, -1])
    noisy = np.full(int(starts[-1]), mask, dtype=np.int32)
    row, token = np.nonzero(columns < kept[:, None])
    noisy[starts[row] + token + num_before[row, token]] = text.ids[
        text.starts[row] + token + skipped_before[row, token]
    ]
    return TokenTable(noisy, starts)


def poisson_cumulative(mean: float) -> NDArray[np.float64]:
    """P(X <= k) for k = 0, 1, ... as far as double precision tells it from 1."""
    terms = [math.exp(-mean)]
    while sum(terms) < 1 - 1e-15 and len(terms) < 10 * mean + 50:
        terms.append(terms[-1] * mean / len(terms))
    return np.cumsum(terms)


def _fitted(spans: IntArray, num_slots: IntArray) -> IntArray:
    """Where there are more spans than slots, drop the last ones and lengthen the last that stays."""
    count = (spans >= 0).sum(axis=1)
    excess = np.flatnonzero(count > num_slots)
    for row in excess:
        limit = int(num_slots[row])
        spans[row, limit - 1] += spans[row, limit : count[row]].sum()
        spans[row, limit:] = -1
    return spans
