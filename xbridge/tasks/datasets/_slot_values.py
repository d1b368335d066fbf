"""Values, from the corpus, for the slots that templates leave open: areas, device names and free text."""

import random
import re
import unicodedata
from pathlib import Path

from xbridge.core.errors import UserError
from xbridge.core.files import read_table
from xbridge.data.cleaning import PLACEHOLDER, columns
from xbridge.data.languages import LANGUAGES, language

DEVICE_DOMAINS = ("climate", "cover", "fan", "light", "lock", "media_player", "switch", "vacuum", "valve")
AREA_LISTS = ("area", "floor")
NAME_LISTS = ("name", "entity")

_AREA_KEY = re.compile(r"^onboarding/area/")
_NAME_KEY = re.compile(r"^[^/]+/entity/([^/]+)/[^/]+/name$")
_JOINING = " '’-"
_MAX_NAME_COLUMNS = 30
_MAX_FREE_COLUMNS = 24
_MAX_FREE_WORDS = 3
_MIN_NAMES_OF_DOMAIN = 3


class SlotValues:
    """Values of one language. Instances are a `_templates.FillSlot`."""

    def __init__(self, areas: list[str], names: dict[str, list[str]], free: list[str]):
        self._areas, self._free = areas, free
        self._names = names
        self._all_names = sorted({name for domain in DEVICE_DOMAINS for name in names.get(domain, ())})

    def __call__(self, list_name: str, domains: tuple[str, ...], rng: random.Random) -> str | None:
        if list_name in AREA_LISTS:
            return rng.choice(self._areas)
        if list_name in NAME_LISTS:
            fitting = sorted({name for domain in domains for name in self._names.get(domain, ())})
            return rng.choice(fitting if len(fitting) >= _MIN_NAMES_OF_DOMAIN else self._all_names)
        return rng.choice(self._free)


def load_slot_values(corpus: Path, languages: tuple[str, ...]) -> dict[str, SlotValues]:
    """{language: values}; `UserError` names the language for which the corpus has none."""
    areas: dict[str, set[str]] = {code: set() for code in languages}
    names: dict[str, dict[str, set[str]]] = {code: {} for code in languages}
    for key, code, text in _rows(corpus / "entries.parquet", ("key", "lang", "text")):
        if code not in areas or PLACEHOLDER in text:
            continue
        if _AREA_KEY.match(key):
            areas[code].add(text)
        elif (found := _NAME_KEY.match(key)) and _is_plain(text, _MAX_NAME_COLUMNS):
            names[code].setdefault(found[1], set()).add(text)
    free: dict[str, set[str]] = {code: set() for code in languages}
    for split, code, text in _rows(corpus / "mono.parquet", ("split", "lang", "text")):
        if split == "train" and code in free and _is_free_text(text, code):
            free[code].add(text)
    values: dict[str, SlotValues] = {}
    for code in languages:
        devices = {name for domain in DEVICE_DOMAINS for name in names[code].get(domain, ())}
        _require(areas[code], code, "area names (keys onboarding/area/*)", corpus)
        _require(devices, code, "device names (keys */entity/*/*/name)", corpus)
        _require(free[code], code, "short texts", corpus)
        by_domain = {domain: sorted(found) for domain, found in names[code].items()}
        values[code] = SlotValues(sorted(areas[code]), by_domain, sorted(free[code]))
    return values


def _rows(path: Path, names: tuple[str, ...]) -> "zip[tuple[str, ...]]":
    table = read_table(path, names)
    return zip(*(table[name].to_pylist() for name in names), strict=True)


def _is_plain(text: str, max_columns: int) -> bool:
    """Letters (with their marks) in one or a few words: no digit, no other punctuation."""
    return columns(text) <= max_columns and all(
        c.isalpha() or c in _JOINING or unicodedata.category(c).startswith("M") for c in text
    )


def _is_free_text(text: str, code: str) -> bool:
    spaced = LANGUAGES[code].is_spaced
    return (
        _is_plain(text, _MAX_FREE_COLUMNS if spaced else _MAX_FREE_COLUMNS // 2)
        and len(text.split()) <= _MAX_FREE_WORDS
    )


def _require(values: set[str], code: str, what: str, corpus: Path) -> None:
    if not values:
        raise UserError(
            f"{corpus}: has no {what} in {code} ({language(code).name}) to fill the templates' slots with; "
            "the corpus needs the homeassistant source and this language, or leave the language out of the task"
        )
