"""Train, dev and test without leaks: the hash of the normalised pivot string decides, whatever the order of rows.

A string that recurs, in another component, with other digits or punctuation, always falls on the same side. What
still leaks, held-out items whose *target* is also a training target, is removed; near-duplicates stay and are counted.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xbridge.core.errors import ConfigError
from xbridge.data.cleaning import PLACEHOLDER, normalise
from xbridge.data.languages import LANGUAGES

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True, kw_only=True)
class Split:
    """Shares of distinct pivot strings that are held out."""

    dev: float = 0.01
    """Share for validation losses, 0 to 1."""
    test: float = 0.06
    """Share for retrieval, translation and comparison, 0 to 1."""
    seed: int = 0
    """Another seed draws another split."""

    def __post_init__(self) -> None:
        if not (0 <= self.dev < 1 and 0 < self.test < 1 and self.dev + self.test < 1):
            raise ConfigError(
                "test", f"dev {self.dev:g} and test {self.test:g} must be shares that leave some to train on"
            )


def pivot_id(normalised: str) -> str:
    """The name of a pivot string: 16 hex digits of the sha256 of its normalised form."""
    return hashlib.sha256(normalised.encode("utf-8")).hexdigest()[:16]


def split_of(normalised: str, split: Split) -> str:
    """train, dev or test for a normalised pivot string; a pure function of the string and the settings."""
    digest = hashlib.sha256(f"{split.seed}\0{normalised}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < split.test:
        return "test"
    return "dev" if place < split.test + split.dev else "train"


# --- near-duplicates ---------------------------------------------------------------------------------------------


def words_of(text: str) -> frozenset[str]:
    """The distinct words of the normalised text (of a script without spaces: its characters)."""
    normalised = normalise(text)
    return frozenset(normalised.split() if normalised.isascii() or " " in normalised else normalised)


def max_jaccard(held_out: Sequence[str], train: Iterable[str]) -> npt.NDArray[np.float64]:
    """Highest word Jaccard |A & B| / |A | B| of each held-out text with any training text.

    Returns (len(held_out),). An inverted index from words to training texts: one bincount per held-out text.
    """
    bags = sorted({words_of(text) for text in train}, key=sorted)
    sizes = np.array([len(bag) for bag in bags], dtype=np.int64)
    postings: dict[str, list[int]] = {}
    for number, bag in enumerate(bags):
        for word in bag:
            postings.setdefault(word, []).append(number)
    index = {word: np.array(numbers, dtype=np.int64) for word, numbers in postings.items()}
    return np.array([_best_jaccard(words_of(text), index, sizes) for text in held_out], dtype=np.float64)


def _best_jaccard(
    words: frozenset[str], index: dict[str, npt.NDArray[np.int64]], sizes: npt.NDArray[np.int64]
) -> float:
    found = [index[word] for word in sorted(words) if word in index]
    if not found:
        return 0.0
    shared = np.bincount(np.concatenate(found), minlength=len(sizes))
    return float((shared / (len(words) + sizes - shared)).max())


# --- pairs that cannot be matched by their surface ---------------------------------------------------------------

ANCHOR_CHARACTERS = (3, 4)
RETRIEVAL_RULE = (
    f"no placeholder or digit; no common word, mark or run of {ANCHOR_CHARACTERS[0]} characters (a word boundary "
    f"counts as one), of {ANCHOR_CHARACTERS[1]} where that leaves too few pairs; no Latin run in another script's "
    "target; marks at the ends of both sides stripped"
)
"""What a retrieval pool holds, for the data card."""
_END_MARKS = " .,:;!?…¡¿。、،؟।"
_LATIN_RUN = re.compile(r"[A-Za-z\u00c0-\u024f]{2,}")
_DIGIT = re.compile(r"\d")


def strip_marks(text: str) -> str:
    """The text without punctuation at its ends: whether a full stop is there tells half of all pairs apart."""
    return text.strip(_END_MARKS)


def is_overlap_free(source: str, target: str, target_lang: str, anchor: int = ANCHOR_CHARACTERS[-1]) -> bool:
    """True where nothing in the spelling gives the pair away (`RETRIEVAL_RULE`); both sides come from `strip_marks`.

    The tokenizer is not known yet, so runs of `anchor` characters stand in for its pieces: at 4, a common beginning
    or end of 3 letters excludes a pair, and so do 4 letters inside a word. On the default study that leaves a common
    piece of two characters or more in 0-7 % of pairs, and a bag-of-pieces retriever within .02 of chance;
    what remains is what the random encoder's row in every retrieval table shows.
    """
    for text in (source, target):
        if PLACEHOLDER in text or _DIGIT.search(text) or not text:
            return False
    if LANGUAGES[target_lang].script != "Latn" and _LATIN_RUN.search(target):
        return False
    return not (_marks(source) & _marks(target)) and not (_anchors(source, anchor) & _anchors(target, anchor))


def _marks(text: str) -> set[str]:
    return {character for character in text if not character.isalnum() and not character.isspace()}


def _anchors(text: str, length: int) -> set[str]:
    padded = [f"_{word}_" for word in normalise(text).split()]
    runs = {word[i : i + length] for word in padded for i in range(len(word) - length + 1)}
    return runs | {word for word in padded if len(word) > 3}
