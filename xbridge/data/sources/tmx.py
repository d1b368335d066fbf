"""Translation memories: TMX 1.4 (LISA, 2005), read as a stream, plain, .gz or .zst."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

from xbridge.core.config import InputPath
from xbridge.core.errors import UserError
from xbridge.data.entries import Entry, file_facts
from xbridge.data.languages import from_tag, language
from xbridge.data.textfiles import open_binary

_NATIVE_CODE = frozenset({"bpt", "ept", "ph", "it", "ut"})
"""Elements inside a segment that hold formatting codes of the original document, not text."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Where the memory is, and what its language tags mean where they are not BCP 47."""

    path: InputPath
    """The file; .gz and .zst are decompressed."""
    tags: dict[str, str] = field(default_factory=dict)
    """Tag in the file to language code, for tags that are unusual or ambiguous, for example {no: nob_Latn}."""
    licence: str = "not stated"
    """The text's licence, for the data card."""

    def __post_init__(self) -> None:
        for tag, code in self.tags.items():
            language(code, f"tags.{tag}")


def read(config: Config, languages: tuple[str, ...], pivot: str) -> Iterator[Entry]:
    """One entry per translation unit, with the first variant of each of `languages`; other languages are left out."""
    path = Path(config.path)
    reader = _Reader(config, path, frozenset(languages))
    with open_binary(path) as stream:
        while block := stream.read(1 << 16):
            yield from reader.feed(block)
        yield from reader.feed(b"", is_last=True)


def describe(config: Config) -> dict[str, Any]:
    """Kind, licence and file hash, for the data card."""
    return file_facts("tmx", [Path(config.path)], config.licence)


class _Reader:
    """Collects units from expat's events. Entity declarations are refused: a bomb of them fits in a few lines."""

    def __init__(self, config: Config, path: Path, languages: frozenset[str]):
        self._path, self._languages = path, languages
        self._tags: dict[str, str | None] = dict(config.tags)
        self._units: list[Entry] = []
        self._texts: dict[str, str] = {}
        self._key = ""
        self._code: str | None = None
        self._segment: list[str] | None = None
        self._native_depth = 0
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.EntityDeclHandler = self._refuse_entity

    def feed(self, block: bytes, *, is_last: bool = False) -> list[Entry]:
        """The units completed by `block`."""
        try:
            self._parser.Parse(block, is_last)
        except expat.ExpatError as error:
            problem = expat.ErrorString(error.code)
            raise UserError(f"{self._path}:{error.lineno}: not valid TMX ({problem})") from None
        units, self._units = self._units, []
        return units

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "tu":
            self._texts, self._key = {}, attributes.get("tuid", "")
        elif name == "tuv":
            self._code = self._language(attributes.get("xml:lang") or attributes.get("lang") or "")
        elif name == "seg":
            self._segment = []
        elif name in _NATIVE_CODE:
            self._native_depth += 1

    def _end(self, name: str) -> None:
        if name == "tu":
            self._units.append(Entry(self._key, self._texts))
        elif name == "seg" and self._segment is not None:
            if self._code in self._languages:
                self._texts.setdefault(self._code or "", "".join(self._segment))
            self._segment = None
        elif name in _NATIVE_CODE:
            self._native_depth -= 1

    def _text(self, text: str) -> None:
        if self._segment is not None and not self._native_depth:
            self._segment.append(text)

    def _language(self, tag: str) -> str:
        if tag not in self._tags:
            known = from_tag(tag)
            self._tags[tag] = known.code if known else None
        code = self._tags[tag]
        if code is None:
            line = self._parser.CurrentLineNumber
            raise UserError(f"{self._path}:{line}: unknown language {tag!r}; say what it is with tags: {{{tag}: code}}")
        return code

    def _refuse_entity(self, name: str, *_: Any) -> None:
        line = self._parser.CurrentLineNumber
        raise UserError(f"{self._path}:{line}: declares the entity {name!r}; TMX needs none, so the file is refused")
