"""How numbers are written."""

import math

import pytest

from xbridge.report.format import count, decimal, duration, interval, listed, p_value, shorten, signed, size


def test_decimals_round_and_never_show_a_negative_zero() -> None:
    assert [decimal(v) for v in (0.1374, -0.0626, -0.0004, 0, None, math.nan)] == [
        "0.137", "−0.063", "0.000", "0.000", "–", "–",
    ]  # fmt: skip


def test_differences_carry_their_sign() -> None:
    assert [signed(v) for v in (0.058, -0.058, 0.0001, None)] == ["+0.058", "−0.058", "0.000", "–"]
    assert interval(-0.01, 0.03) == "[−0.010, +0.030]"
    assert interval(None, 0.03) == "–"


def test_small_p_values_are_not_written_as_zero() -> None:
    assert [p_value(v) for v in (0.0004, 0.0005001, 1.0, None)] == ["<0.001", "0.001", "1.000", "–"]


def test_counts_durations_and_sizes_have_units() -> None:
    assert count(1041664) == "1,041,664"
    assert [duration(v) for v in (4.21, 59.96, 157, 7500)] == ["4.2 s", "1 min 00 s", "2 min 37 s", "2 h 05 min"]
    assert [size(v) for v in (12, 12345, 68_000_000, 999_960)] == ["12 B", "12.3 kB", "68.0 MB", "1.0 MB"]


@pytest.mark.parametrize(
    ("words", "text"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_lists_read_as_sentences(words: list[str], text: str) -> None:
    assert listed(words) == text


def test_shortening_keeps_both_ends() -> None:
    assert shorten("mt_then_denoise_long", 9) == "mt_t…long"
    assert shorten("mt", 9) == "mt"
