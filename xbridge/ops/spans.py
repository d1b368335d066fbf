"""Spans that word tags stand for, in the strict form (IOB2) and in the form of the published scorers (seqeval)."""

from collections.abc import Sequence

Span = tuple[str, int, int]  # type, first word, last word


def strict_spans(tags: Sequence[str]) -> list[Span]:
    """IOB2 spans of one sentence; an I- tag that continues no span of its type belongs to none."""
    spans: list[Span] = []
    open_type: str | None = None
    for i, tag in enumerate(tags):
        prefix, _, kind = tag.partition("-")
        if prefix == "B":
            spans.append((kind, i, i))
            open_type = kind
        elif prefix == "I" and kind == open_type:
            spans[-1] = (kind, spans[-1][1], i)
        else:
            open_type = None
    return spans


def lenient_spans(sentences: Sequence[Sequence[str]]) -> list[Span]:
    """Spans of all sentences by the conlleval rules that seqeval 1.2.2 applies, positions counted over all of them.

    A tag's first letter is its prefix, what follows (less a hyphen) its type, whatever the tag: so I-PER opens a span
    after O or after another type, `NOUN` is a span of type `OUN`, and equal tags in a row are one span.
    """
    spans: list[Span] = []
    before, before_kind, start = "O", "", 0
    words = [tag for tags in sentences for tag in (*tags, "O")]
    for i, tag in enumerate([*words, "O"]):
        prefix, kind = tag[:1], tag[1:].split("-", maxsplit=1)[-1] or "_"
        changed = kind != before_kind
        closes = before in ("E", "S") or (before in ("B", "I") and prefix in ("B", "S", "O"))
        if closes or (changed and before not in ("O", ".")):
            spans.append((before_kind, start, i - 1))
        opens = prefix in ("B", "S") or (before in ("E", "S", "O") and prefix in ("E", "I"))
        if opens or (changed and prefix not in ("O", ".")):
            start = i
        before, before_kind = prefix, kind
    return spans
