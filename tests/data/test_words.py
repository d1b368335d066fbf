"""Units for tagging, in scripts with and without spaces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xbridge.data.languages import language
from xbridge.data.words import tag_words, word_spans


@pytest.mark.parametrize(
    ("text", "code", "units"),
    [
        ("turn on the Wi-Fi", "eng_Latn", ["turn", "on", "the", "Wi-Fi"]),
        ("打开hue的灯 25%", "zho_Hans", ["打", "开", "hue", "的", "灯", "25", "%"]),
        ("เปิดไฟที่", "tha_Thai", ["เ", "ปิ", "ด", "ไ", "ฟ", "ที่"]),
        ("", "eng_Latn", []),
    ],
)
def test_units_are_words_or_characters_with_their_marks(text, code, units):
    assert [text[a:b] for a, b in word_spans(text, language(code))] == units


@given(st.text(max_size=30), st.sampled_from(["eng_Latn", "zho_Hans", "tha_Thai", "arb_Arab"]))
def test_units_joined_are_the_text_without_its_spaces(text, code):
    units = [text[a:b] for a, b in word_spans(text, language(code))]
    assert "".join(units) == "".join(text.split())


def test_a_word_that_a_slot_touches_belongs_to_it():
    # "a konyhában 28 fokot" with slots konyhá-, 28
    spans = [(0, 1), (2, 11), (12, 14), (15, 20)]
    assert tag_words(spans, [((2, 8), "area"), ((12, 14), "temp")]) == ["O", "B-area", "B-temp", "O"]


def test_neighbouring_slots_of_one_name_begin_anew():
    spans = [(0, 1), (2, 3), (4, 5)]
    assert tag_words(spans, [((0, 3), "name"), ((4, 5), "name")]) == ["B-name", "I-name", "B-name"]
