"""Which rows a sentence gives: one, or one for each of its words or tokens, found by character offsets.

Words are defined by the text alone (`data/words.py`), so that models with different tokenizers have the same ones:
what stands between spaces, and in scripts without spaces single characters. A word's row is the mean over all pieces
that cover one of its characters; a bare word-boundary mark beside other pieces is none of the word's.
"""

from collections.abc import Container, Sequence
from typing import Literal, NamedTuple, TypeAlias

from xbridge.activations.encoder import Encoder, Row, Units
from xbridge.core.errors import UserError
from xbridge.data.languages import language
from xbridge.data.words import Span, word_spans

RowKind: TypeAlias = Literal["mean", "first", "last", "words", "tokens"]
PER_SENTENCE = ("mean", "first", "last")
BOUNDARY_MARKS = ("▁", "Ġ")


class Reading(NamedTuple):
    """A sentence as a model reads it."""

    row: Row
    """What it reads; without tokens where nothing of the sentence gives a row."""
    numbers: tuple[int, ...]
    """Number of each word or token that gives a row; (0,) where the whole sentence does."""
    units: Units
    """The positions of each."""
    is_cut: bool
    """True where the model cannot read the whole sentence."""


def read(encoder: Encoder, texts: Sequence[str], lang: str, kind: RowKind) -> list[Reading]:
    """Tokenise texts of one language and find their rows. `UserError` for words without a fast tokenizer."""
    if kind == "words":
        return _read_words(encoder, texts, lang)
    pieces: list[list[int]] = encoder.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    if kind == "tokens":
        numbers = [tuple(range(min(len(ids), encoder.max_tokens))) for ids in pieces]
        return [
            _reading(encoder, ids, lang, own, [(n,) for n in own]) for ids, own in zip(pieces, numbers, strict=True)
        ]
    return [Reading(encoder.row(ids, lang), (0,), (), len(ids) > encoder.max_tokens) for ids in pieces]


def restrict(reading: Reading, wanted: Container[int]) -> Reading:
    """The reading with only those of its rows whose number is wanted."""
    kept = [(n, unit) for n, unit in zip(reading.numbers, reading.units, strict=True) if n in wanted]
    return reading._replace(numbers=tuple(n for n, _ in kept), units=[unit for _, unit in kept])


def pieces_of_words(
    words: Sequence[Span], offsets: Sequence[Span], marks: Container[int] = ()
) -> list[tuple[int, ...]]:
    """Positions of the pieces of each word, by (start, stop) in characters; () for a word without any.

    `marks`: positions of bare boundary marks, which count only for a word that has no other piece. Both lists ascend.
    """
    found: list[tuple[int, ...]] = []
    first = 0
    for start, stop in words:
        while first < len(offsets) and offsets[first][1] <= start:
            first += 1
        inside: list[int] = []
        for position in range(first, len(offsets)):
            if offsets[position][0] >= stop:
                break
            if offsets[position][1] > max(start, offsets[position][0]):
                inside.append(position)
        found.append(tuple([p for p in inside if p not in marks] or inside))
    return found


def _read_words(encoder: Encoder, texts: Sequence[str], lang: str) -> list[Reading]:
    if not encoder.tokenizer.is_fast:
        raise UserError(
            f"{encoder.folder}: pooling words needs to know which characters a piece stands for, which "
            f"{type(encoder.tokenizer).__name__} does not tell; give a fast tokenizer (tokenizer.json), or pool tokens"
        )
    encoded = encoder.tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
    mark_ids = set(encoder.tokenizer.convert_tokens_to_ids(list(BOUNDARY_MARKS))) - {encoder.tokenizer.unk_token_id}
    script = language(lang)
    readings = []
    for text, ids, offsets in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        spans = word_spans(text, script)
        marks = {position for position, token in enumerate(ids) if token in mark_ids}
        pieces = pieces_of_words(spans, offsets, marks)
        # a word is there whole or not at all
        whole = [(n, own) for n, own in enumerate(pieces) if own and own[-1] < encoder.max_tokens]
        readings.append(_reading(encoder, ids, lang, tuple(n for n, _ in whole), [own for _, own in whole]))
    return readings


def _reading(encoder: Encoder, ids: Sequence[int], lang: str, numbers: tuple[int, ...], units: Units) -> Reading:
    row = encoder.row(ids, lang) if numbers else Row([], 0, 0, lang)
    return Reading(row, numbers, units, len(ids) > encoder.max_tokens)
