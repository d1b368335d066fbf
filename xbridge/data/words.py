"""Units that a tagger labels: words where a script has spaces, single characters where it has none."""

import re
import unicodedata

from xbridge.data.languages import Language

Span = tuple[int, int]

_SPACED_UNIT = re.compile(r"\S+")
_UNSPACED_UNIT = re.compile(r"[A-Za-z\u00c0-\u024f]+|\d+|\S")


def word_spans(text: str, lang: Language) -> list[Span]:
    """Where each unit of `text` begins and ends. The units joined are the text without its spaces.

    In scripts without spaces a unit is one character with its combining marks; runs of Latin letters and of digits
    stay whole.
    """
    if lang.is_spaced:
        return [match.span() for match in _SPACED_UNIT.finditer(text)]
    spans: list[Span] = []
    for match in _UNSPACED_UNIT.finditer(text):
        start, end = match.span()
        if spans and spans[-1][1] == start and unicodedata.category(text[start]).startswith("M"):
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans


def tag_words(spans: list[Span], slots: list[tuple[Span, str]]) -> list[str]:
    """BIO tags: a unit that overlaps a slot belongs to it (an inflected `{area}ban` is all area), else `O`.

    `slots`: non-overlapping (span, name) in order of position; a unit that touches two belongs to the first.
    """
    tags: list[str] = []
    previous: int | None = None
    for start, end in spans:
        number = next((i for i, ((first, last), _) in enumerate(slots) if first < end and start < last), None)
        if number is None:
            tags.append("O")
        else:
            tags.append(("I-" if number == previous else "B-") + slots[number][1])
        previous = number
    return tags
