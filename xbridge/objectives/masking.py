"""Which words are masked, and by what: BERT's 80 / 10 / 10 (Devlin et al., 2019, section 3.1).

Of a row's tokens a share is chosen, exactly so many in expectation and at least one; of the chosen, 80 % become the
mask token, 10 % a random one and 10 % stay. All of it is a pure function of (key, part, row, epoch), so that it differs
from epoch to epoch (as in RoBERTa) and not with the batch or the rank, and the number of chosen tokens is known without
making them.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xbridge.core.errors import ConfigError, UserError
from xbridge.data.sampling import Examples, random_bits, uniform
from xbridge.data.tokens import TokenTable
from xbridge.objectives.base import Material
from xbridge.objectives.seq2seq import IGNORED

IntArray = NDArray[np.int64]
PLACES, KINDS, WORDS = 1 << 20, 2 << 20, 3 << 20  # where the counters of each decision start; a row's count has 0


class Masking:
    """Masks rows of content tokens. `share`: of the tokens of a row that are to be predicted."""

    def __init__(self, material: Material, share: float, key: int):
        if material.conventions.family.kind != "encoder":
            raise UserError(
                "masked words need an encoder with its output layer (mBERT, XLM-R); "
                "for an encoder-decoder use denoising, for a decoder causal_lm"
            )
        if material.conventions.mask is None:
            raise UserError("masked words need a mask token, and this tokenizer has none")
        self._mask: int = material.conventions.mask
        self._words = ordinary_words(material)
        self._share, self._key = share, key

    def num_chosen(self, lengths: IntArray, examples: Examples) -> IntArray:
        """(n,) tokens that will be predicted, of rows of these lengths."""
        draws = uniform(self._key, *_counters(examples), np.zeros(1, dtype=np.int64))
        return np.clip(np.floor(lengths * self._share + draws).astype(np.int64), 1, lengths)

    def apply(self, text: TokenTable, examples: Examples, *, scored: bool = True) -> tuple[TokenTable, TokenTable]:
        """The masked rows and their labels."""
        lengths = text.lengths
        columns = np.arange(int(lengths.max(initial=0)))[None]
        is_text = columns < lengths[:, None]
        counters = [counter[:, None] for counter in _counters(examples)]
        places = np.where(is_text, uniform(self._key, *counters, PLACES + columns), 2.0)
        rank = np.argsort(np.argsort(places, axis=1, kind="stable"), axis=1, kind="stable")
        chosen = (rank < self.num_chosen(lengths, examples)[:, None])[is_text]
        kinds = np.broadcast_to(uniform(self._key, *counters, KINDS + columns), is_text.shape)[is_text]
        bits = np.broadcast_to(random_bits(self._key, *counters, WORDS + columns), is_text.shape)[is_text]
        others = self._words[(bits % np.uint64(len(self._words))).astype(np.int64)]
        ids = np.where(chosen & (kinds < 0.8), self._mask, text.ids)
        ids = np.where(chosen & (kinds >= 0.8) & (kinds < 0.9), others, ids)
        labels = np.where(chosen & scored, text.ids, IGNORED)
        return TokenTable(ids.astype(np.int32), text.starts), TokenTable(labels.astype(np.int32), text.starts)


def ordinary_words(material: Material) -> IntArray:
    """Ids of the vocabulary that are neither special nor language tokens."""
    special = {*material.tokenizer.all_special_ids, *material.conventions.languages.values()}
    return np.asarray(sorted(set(material.tokenizer.get_vocab().values()) - special), dtype=np.int64)


def check_share(share: float, smoothing: float) -> None:
    """`ConfigError` for a share of masked words, or a label smoothing, that makes no sense."""
    if not 0 < share < 1:
        raise ConfigError("mask_share", f"must be above 0 and below 1, got {share}")
    if not 0 <= smoothing < 1:
        raise ConfigError("label_smoothing", f"must be at least 0 and below 1, got {smoothing}")


def _counters(examples: Examples) -> Sequence[IntArray]:
    """What the noise of an example depends on."""
    return examples.part, examples.row, examples.epoch
