"""Drawing sentences from hassil templates: `turn (on|off) [the] {name}` -> `turn off the lamp`, name = lamp.

hassil (Home Assistant's intent parser) only parses here. Its own sampler enumerates all expansions in order and has no
seed, so we walk the parsed tree with a generator of our own, which also gives the spans of the slots.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from xbridge.core.errors import UserError
from xbridge.data.languages import Language
from xbridge.data.words import Span

if TYPE_CHECKING:
    from hassil.expression import Expression

_MAX_DEPTH = 40
"""Rules nest about ten deep; a rule that refers to itself would never end."""


class Template(NamedTuple):
    """One template of an intent: its name `Intent/number`, text, and the entity domains that fit its `{name}`."""

    name: str
    text: str
    domains: tuple[str, ...]


class Drawn(NamedTuple):
    """A sentence and its slots, in order of position."""

    text: str
    slots: list[tuple[Span, str]]


class Piece(NamedTuple):
    """Text from one node of the tree. `number` is the slot's own in its sentence: two values of one name differ."""

    text: str
    slot: str | None = None
    number: int = 0


FillSlot = Callable[[str, tuple[str, ...], random.Random], str | None]
"""Value of a list that the templates leave open: (list name, fitting domains, generator) -> text, or None."""


class Grammar:
    """The templates, rules and lists of one language."""

    def __init__(self, rules: Mapping[str, str], lists: Mapping[str, Any], fill: FillSlot, where: str):
        self._rules, self._lists, self._fill, self._where = rules, lists, fill, where
        self._parsed: dict[str, Expression] = {}
        self._count = 0

    def draw(self, template: Template, lang: Language, rng: random.Random) -> Drawn:
        """One random expansion: every alternative of a choice is equally likely."""
        pieces = self._walk(self._parse(template.text), template, rng, None, 0)
        return assemble(pieces, lang)

    def _parse(self, text: str) -> "Expression":
        if text not in self._parsed:
            try:
                from hassil.parse_expression import parse_sentence
                from hassil.parser import ParseError
            except ModuleNotFoundError:
                raise UserError("hassil is not installed; pip install 'xbridge-mt[study]'") from None
            try:
                self._parsed[text] = parse_sentence(text).expression
            except ParseError as error:
                raise UserError(f"{self._where}: template {text!r} cannot be parsed ({error})") from None
        return self._parsed[text]

    def _walk(
        self, node: "Expression", template: Template, rng: random.Random, slot: tuple[str, int] | None, depth: int
    ) -> list[Piece]:
        from hassil.expression import Alternative, Group, ListReference, Permutation, RuleReference, TextChunk

        if depth > _MAX_DEPTH:
            raise UserError(f"{self._where}: template {template.text!r} expands without end")
        if isinstance(node, TextChunk):
            return [Piece(node.original_text, *(slot or (None, 0)))]
        if isinstance(node, Alternative):
            return self._walk(rng.choice(node.items), template, rng, slot, depth + 1)
        if isinstance(node, Group):
            items = list(node.items)
            if isinstance(node, Permutation):
                rng.shuffle(items)
            return [piece for item in items for piece in self._walk(item, template, rng, slot, depth + 1)]
        if isinstance(node, RuleReference):
            if node.rule_name not in self._rules:
                raise UserError(f"{self._where}: template {template.text!r} uses the unknown rule <{node.rule_name}>")
            return self._walk(self._parse(self._rules[node.rule_name]), template, rng, slot, depth + 1)
        assert isinstance(node, ListReference)
        self._count += 1
        inner = slot or (node.slot_name, self._count)
        return self._walk(self._parse(self._value(node, template, rng)), template, rng, inner, depth + 1)

    def _value(self, node: Any, template: Template, rng: random.Random) -> str:
        """A value of a list: a number of its range, one of its values (a template itself), or what `fill` gives."""
        if node.is_inline_range:
            start, stop, step = node.get_inline_range()
            return str(rng.randrange(start, stop + 1, step))
        known = self._lists.get(node.list_name, {})
        if "range" in known:
            span = known["range"]
            return str(rng.randrange(span["from"], span["to"] + 1, span.get("step", 1)))
        if "values" in known:
            value = rng.choice(known["values"])
            return str(value["in"] if isinstance(value, dict) else value)
        filled = self._fill(node.list_name, template.domains, rng)
        if filled is None:
            raise UserError(f"{self._where}: no value for the slot {{{node.list_name}}} of template {template.text!r}")
        return _escape(filled)


def assemble(pieces: Sequence[Piece], lang: Language) -> Drawn:
    """Join pieces, tidy the spaces, and say where each slot ended up.

    Spaces are single and never at an end; in a script without spaces they stay only between Latin letters or digits.
    """
    kept = _tidy([(c, piece) for piece in pieces for c in piece.text], lang)
    spans: dict[int, tuple[Span, str]] = {}
    for i, (c, piece) in enumerate(kept):
        if piece.slot is not None and c != " ":
            first = spans[piece.number][0][0] if piece.number in spans else i
            spans[piece.number] = ((first, i + 1), piece.slot)
    return Drawn("".join(c for c, _ in kept), list(spans.values()))


def _tidy(characters: list[tuple[str, Piece]], lang: Language) -> list[tuple[str, Piece]]:
    kept: list[tuple[str, Piece]] = []
    space: Piece | None = None
    for c, piece in characters:
        if c.isspace():
            space = space or piece
            continue
        if space is not None and kept and (lang.is_spaced or (_is_latin(kept[-1][0]) and _is_latin(c))):
            kept.append((" ", space))
        space = None
        kept.append((c, piece))
    return kept


def _is_latin(character: str) -> bool:
    return character.isdigit() or "a" <= character.lower() <= "z" or "\u00c0" <= character <= "\u024f"


def _escape(text: str) -> str:
    return "".join("\\" + c if c in "()[]{}<>|;\\" else c for c in text)
