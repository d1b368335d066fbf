"""Cleaning, on strings worked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xbridge.core.errors import ConfigError
from xbridge.data.cleaning import Cleaning, clean, columns, has_script, normalise, reject_pair, reject_text

CLEANED = [
    ("Turn on {name}", "Turn on {}"),
    ("{a}{b}", "{}{}"),
    ("{count, plural, one {# day} other {# days}} left", "{} left"),
    ("%s of %(total)d, 50%", "{} of {}, 50%"),
    ("Use 100% solar", "Use 100% solar"),
    ("See the [docs](https://example.org/a_(b)) now", "See the docs now"),
    ("![logo](x.png) Hi", "logo Hi"),
    ("Go to https://example.org/path?x=1 first", "Go to first"),
    ("**Bold** and `code` and __both__", "Bold and code and both"),
    ("keep snake_case and 2 * 3", "keep snake_case and 2 * 3"),
    ("# Title\nText", "Title Text"),
    ("a<br/>b<b>c</b>", "a b c"),
    ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
    ("Fish &amp; Chips", "Fish & Chips"),
    ("  two \n\n lines\t", "two lines"),
    ("全角：ＡＢＣ（１２）。", "全角:ABC(12)。"),
    ("请访问https://example.org/x。谢谢", "请访问。谢谢"),
    ("启用“自动”模式，重启！", "启用“自动”模式,重启!"),
    ("soft\u00adhyphen\u200b", "softhyphen"),
    ("می\u200cخواهم", "می\u200cخواهم"),
    ("ﬁne", "fine"),
    ("⚠\ufe0f Warning", "⚠ Warning"),
]


@pytest.mark.parametrize(("raw", "text"), CLEANED)
def test_markup_goes_and_placeholders_become_braces(raw, text):
    assert clean(raw) == text


@given(st.text(max_size=60))
def test_cleaned_text_is_one_line_with_single_spaces(raw):
    text = clean(raw)
    assert text == " ".join(text.split())


@given(st.text(max_size=60))
def test_normalising_twice_changes_nothing(text):
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Wi-Fi 2", "wi fi 17."),
        ("Öffnen!", "öffnen"),
        ("STRASSE", "straße"),
        ("打开。", "打开"),
        ("UV index", "UV-Index"),
    ],
)
def test_case_digits_and_punctuation_do_not_make_two_strings_different(left, right):
    assert normalise(left) == normalise(right)


@pytest.mark.parametrize(
    ("left", "right"), [("कि", "की"), ("ปิด", "ปัด"), ("naïve", "naive"), ("می\u200cخواهم", "میخواهم")]
)
def test_marks_and_joiners_are_part_of_a_word(left, right):
    assert normalise(left) != normalise(right)
    assert " " not in normalise(left)


@pytest.mark.parametrize(
    ("raw", "code", "reason"),
    [
        ("", "eng_Latn", "empty"),
        ("<br/>", "eng_Latn", "empty"),
        ("[%key:common::action::connect%]", "eng_Latn", "reference"),
        ("A", "eng_Latn", "too short"),
        ("值", "zho_Hans", None),
        ("x" * 161, "eng_Latn", "too long"),
        ("x" * 160, "eng_Latn", None),
        ("{name}", "eng_Latn", "no letter"),
        ("12:30", "eng_Latn", "no letter"),
        ("open {name", "eng_Latn", "broken placeholder"),
        ("Wi-Fi SSID", "rus_Cyrl", "wrong script"),
        ("Сеть Wi-Fi", "rus_Cyrl", None),
        ("Moderate", "zho_Hans", "wrong script"),
        ("温度", "kor_Hang", "wrong script"),
        ("Zone", "deu_Latn", None),
    ],
)
def test_unusable_texts_are_dropped_by_the_named_filter(raw, code, reason):
    assert reject_text(raw, clean(raw), code, Cleaning()) == reason


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("Level", "Level", "untranslated"),
        ("UV index", "UV-Index", "untranslated"),
        ("Turn on {}", "Einschalten", "placeholders differ"),
        ("Turn on {}", "{} einschalten", None),
        ("On", "Dieses Gerät wurde soeben eingeschaltet und ist bereit", "length ratio"),
        ("The bridge could not be found on the network", "未找到网桥", "length ratio"),
        ("The bridge could not be found on the network", "在网络上找不到网桥", None),
    ],
)
def test_broken_pairs_are_dropped_by_the_named_filter(source, target, reason):
    assert reject_pair(source, target, Cleaning(max_length_ratio=2.5)) == reason


def test_a_chinese_character_takes_two_columns():
    assert columns("ab") == 2
    assert columns("温度 1") == 6
    assert columns("Größe") == 5


def test_scripts_are_told_apart():
    assert has_script("abc д", "Cyrl")
    assert not has_script("abc", "Grek")
    assert has_script("abc", "Latn")


@pytest.mark.parametrize(
    ("settings", "path"),
    [({"min_characters": 0}, "min_characters"), ({"max_length_ratio": 1.0}, "max_length_ratio")],
)
def test_limits_that_make_no_sense_are_refused(settings, path):
    with pytest.raises(ConfigError, match=path):
        Cleaning(**settings)
