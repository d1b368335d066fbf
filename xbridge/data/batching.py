"""Batches filled to a token budget, planned ahead for a whole run."""

from typing import NamedTuple


class Counts(NamedTuple):
    """Tokens of a batch, or of a run so far."""

    supervised: int
    """Units that the loss counts: target tokens, examples or tagged words."""
    nonpad: int
    """Source and target tokens, special tokens included, padding not."""
    padded: int
    """Source and target tokens with padding, as one process would pad the whole global batch."""
