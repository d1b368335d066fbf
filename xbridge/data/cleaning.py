"""Cleaning of interface text and bitext: markup goes, placeholders become `{}`, and broken pairs are dropped.

Every rule that drops something has a name; the data card counts drops by language and name.
"""

import html
import re
import unicodedata
from dataclasses import dataclass
from functools import cache, lru_cache

from xbridge.core.errors import ConfigError
from xbridge.data.languages import LANGUAGES

PLACEHOLDER = "{}"
"""What every placeholder (`{name}`, ICU plurals, `%s`) is written as."""

MEMO = 1 << 18
"""Strings whose verdicts are remembered: catalogues repeat themselves, and a large corpus must still fit in memory."""

_REFERENCE = re.compile(r"\[%key:")
_BRACES = re.compile(r"\{[^{}]*\}")
_PERCENT = re.compile(r"%(?:\(\w+\))?[sd]\b|%\d+\$[sd]\b")
_IMAGE_OR_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*(?:\([^()]*\)[^()\s]*)*\)")
_URL = re.compile(r"(?<![A-Za-z])(?:https?://|www\.)[^\s<>\"'，。；）]+")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>|<!--.*?-->", re.DOTALL)
_EMPHASIS = re.compile(
    r"(?<!\s)\*{1,3}|\*{1,3}(?!\s)|`+|(?<!\w)_{1,2}(?=\S)|(?<=\S)_{1,2}(?!\w)|^\s{0,3}#{1,6}\s+", re.MULTILINE
)
_SPACE = re.compile(r"\s+")
_JOINERS = "\u200c\u200d"  # spelling, not formatting, in Persian and the scripts of India
_HOLE = "\ue000"  # a private-use character that stands for a placeholder while braces are looked at

_DIGITS = re.compile(r"\d+")
_WIDE = re.compile("[\u1100-\u11ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """Limits of what counts as usable text."""

    min_characters: int = 2
    """Shortest text kept, in columns: a CJK character counts 2, so one of them can be a whole text."""
    max_characters: int = 160
    """Longest text kept, in characters."""
    max_length_ratio: float = 3.0
    """Longest to shortest side of a pair, in columns (a CJK character counts 2), 10 columns added to both."""
    check_script: bool = True
    """Drop text without a letter of its language's script (where that is not Latin): it was not translated."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_characters <= self.max_characters:
            raise ConfigError("min_characters", "must be at least 1 and at most max_characters")
        if self.max_length_ratio <= 1:
            raise ConfigError("max_length_ratio", "must be above 1")


def clean(text: str) -> str:
    """Plain text on one line: NFKC, links as their text, no URL, HTML or emphasis mark, placeholders as `{}`."""
    text = unicodedata.normalize("NFKC", text)
    if not text.isascii() or "&" in text:
        text = unicodedata.normalize("NFKC", html.unescape(text))
        text = _invisible().sub("", text)
    if "{" in text:
        text = _fill_braces(text)
    if "%" in text:
        text = _PERCENT.sub(_HOLE, text)
    if "](" in text:
        text = _IMAGE_OR_LINK.sub(r"\1", text)
    if "<" in text:
        text = _TAG.sub(" ", text)
    if "://" in text or "www." in text:
        text = _URL.sub("", text)
    text = _EMPHASIS.sub("", text)
    return _SPACE.sub(" ", text).strip().replace(_HOLE, PLACEHOLDER)


def _fill_braces(text: str) -> str:
    """Braces from the inside out, so that `{n, plural, one {# day} other {# days}}` becomes one placeholder."""
    while True:
        filled = _BRACES.sub(_HOLE, text)
        if filled == text:
            return text
        text = filled


@lru_cache(maxsize=MEMO)
def normalise(text: str) -> str:
    """The form in which two strings count as the same: case-folded, digit runs as 0, punctuation as one space."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return _not_word().sub(" ", _DIGITS.sub("0", text)).strip()


@cache
def _invisible() -> re.Pattern[str]:
    """Format, control and private-use characters and variation selectors, but not spaces and joiners."""
    return re.compile(f"(?![\\s{_JOINERS}])[{_characters_of('Cf', 'Cc', 'Co')}\ufe00-\ufe0f]")


@cache
def _not_word() -> re.Pattern[str]:
    """Runs of what is no letter, digit or mark: `\\w` leaves out the vowel signs of Thai and the scripts of India."""
    return re.compile(f"(?:[^\\w{_characters_of('Mn', 'Mc', 'Me')}{_JOINERS}]|_)+")


def _characters_of(*categories: str) -> str:
    """Ranges for a regex character class: the characters of these Unicode categories in the first two planes."""
    codes = [code for code in range(0x20000) if unicodedata.category(chr(code)) in categories]
    starts = [code for i, code in enumerate(codes) if i == 0 or codes[i - 1] != code - 1]
    ends = [code for i, code in enumerate(codes) if i == len(codes) - 1 or codes[i + 1] != code + 1]
    return "".join(f"\\U{start:08x}-\\U{end:08x}" for start, end in zip(starts, ends, strict=True))


@lru_cache(maxsize=MEMO)
def judge(raw: str, code: str, limits: Cleaning) -> tuple[str, str | None]:
    """The cleaned text, and the name of the filter that drops it or None."""
    text = clean(raw)
    return text, reject_text(raw, text, code, limits)


def reject_text(raw: str, text: str, code: str, limits: Cleaning) -> str | None:
    """The name of the filter that drops this text of language `code`, or None. `text` is `clean(raw)`."""
    if not text:
        return "empty"
    if _REFERENCE.search(raw):
        return "reference"
    if columns(text) < limits.min_characters:
        return "too short"
    if len(text) > limits.max_characters:
        return "too long"
    plain = text.replace(PLACEHOLDER, "")
    if "{" in plain or "}" in plain:
        return "broken placeholder"
    if not any(map(str.isalpha, plain)):
        return "no letter"
    if limits.check_script and not has_script(plain, LANGUAGES[code].script):
        return "wrong script"
    return None


@lru_cache(maxsize=MEMO)
def reject_pair(source: str, target: str, limits: Cleaning) -> str | None:
    """The name of the filter that drops this pair of cleaned texts, or None."""
    if normalise(source) == normalise(target):
        return "untranslated"
    if source.count(PLACEHOLDER) != target.count(PLACEHOLDER):
        return "placeholders differ"
    shorter, longer = sorted((columns(source), columns(target)))
    if (longer + 10) > limits.max_length_ratio * (shorter + 10):
        return "length ratio"
    return None


def columns(text: str) -> int:
    """Width of a text on a terminal: CJK characters take two columns. A cheap proxy for how much it says."""
    return len(text) if text.isascii() else len(text) + len(_WIDE.findall(text))


_SCRIPT_RANGES = {
    "Arab": "\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff",
    "Armn": "\u0530-\u058f",
    "Beng": "\u0980-\u09ff",
    "Cyrl": "\u0400-\u052f",
    "Deva": "\u0900-\u097f",
    "Ethi": "\u1200-\u139f",
    "Geor": "\u10a0-\u10ff\u1c90-\u1cbf",
    "Grek": "\u0370-\u03ff\u1f00-\u1fff",
    "Gujr": "\u0a80-\u0aff",
    "Guru": "\u0a00-\u0a7f",
    "Hang": "\u1100-\u11ff\uac00-\ud7af",
    "Hans": "\u3400-\u9fff\U00020000-\U0003ffff",
    "Hant": "\u3400-\u9fff\U00020000-\U0003ffff",
    "Hebr": "\u0590-\u05ff",
    "Jpan": "\u3040-\u30ff\u3400-\u9fff",
    "Khmr": "\u1780-\u17ff",
    "Knda": "\u0c80-\u0cff",
    "Laoo": "\u0e80-\u0eff",
    "Mlym": "\u0d00-\u0d7f",
    "Mymr": "\u1000-\u109f",
    "Orya": "\u0b00-\u0b7f",
    "Sinh": "\u0d80-\u0dff",
    "Taml": "\u0b80-\u0bff",
    "Telu": "\u0c00-\u0c7f",
    "Thai": "\u0e00-\u0e7f",
}
"""Blocks of the scripts that can be told from Latin by sight (Unicode 15, Blocks.txt)."""


def has_script(text: str, script: str) -> bool:
    """True where the text has a letter of the script; always true for Latin and for scripts not in the table."""
    pattern = _script_pattern(script)
    return pattern is None or pattern.search(text) is not None


@cache
def _script_pattern(script: str) -> re.Pattern[str] | None:
    ranges = _SCRIPT_RANGES.get(script)
    return re.compile(f"[{ranges}]") if ranges else None
