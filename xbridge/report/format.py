"""How numbers are written: three decimals, a true minus, thousands separated, units in words."""

import math
from typing import Any

MINUS = "\N{MINUS SIGN}"
ABSENT = "\N{EN DASH}"


def text_of(value: Any) -> str:
    """Any value as text; None is a dash."""
    return ABSENT if value is None else str(value)


def decimal(value: Any, digits: int = 3) -> str:
    """A number with `digits` decimals; None and NaN are a dash. -0.0004 is written 0.000."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ABSENT
    text = f"{float(value):.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def one_decimal(value: Any) -> str:
    """A number with one decimal, for scores from 0 to 100 and ranks."""
    return decimal(value, 1)


def signed(value: Any, digits: int = 3) -> str:
    """A difference: the sign is always written, except for what rounds to nothing."""
    text = decimal(value, digits)
    return text if text == ABSENT or text.startswith(MINUS) or float(text) == 0 else f"+{text}"


def interval(low: Any, high: Any, digits: int = 3) -> str:
    """`[low, high]`, or a dash where there is none."""
    if decimal(low, digits) == ABSENT or decimal(high, digits) == ABSENT:
        return ABSENT
    return f"[{signed(low, digits)}, {signed(high, digits)}]"


def p_value(value: Any) -> str:
    """A p-value with three decimals; below them `<0.001`."""
    text = decimal(value)
    return "<0.001" if text == "0.000" else text


def count(value: Any) -> str:
    """A whole number with thousands separated by commas."""
    return ABSENT if value is None else f"{round(value):,}".replace("-", MINUS)


def percent(value: Any) -> str:
    """A share of one, in percent with one decimal."""
    text = decimal(None if value is None else 100 * value, 1)
    return text if text == ABSENT else f"{text} %"


def duration(seconds: Any) -> str:
    """Seconds in words: `4.2 s`, `2 min 37 s`, `3 h 05 min`."""
    if seconds is None:
        return ABSENT
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(num_bytes: Any) -> str:
    """Bytes with a decimal unit: `12.3 MB`."""
    if num_bytes is None:
        return ABSENT
    value, units = float(num_bytes), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.95 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def listed(words: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def shorten(text: str, length: int) -> str:
    """At most `length` characters; the middle gives way, because names differ at their ends."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"
