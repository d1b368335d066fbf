"""Sentences from intent templates: the walk over hassil's tree, the slots' spans, splits and messages."""

import os
import random
import subprocess
import sys
from collections import Counter

import pytest

from xbridge.core.config import parse
from xbridge.core.errors import UserError
from xbridge.core.files import write_table
from xbridge.data.cleaning import normalise
from xbridge.data.languages import language
from xbridge.tasks.datasets import homeassistant_intents as intents
from xbridge.tasks.datasets._templates import Grammar, Piece, Template, assemble

pytest.importorskip("hassil")
pytest.importorskip("home_assistant_intents")

ENTRIES = {
    "onboarding/area/kitchen": ("Kitchen", "Küche", "厨房"),
    "onboarding/area/bedroom": ("Bedroom", "Schlafzimmer", "卧室"),
    "hue/entity/light/lamp/name": ("Table lamp", "Tischlampe", "台灯"),
    "hue/entity/light/strip/name": ("Light strip", "Lichtband", "灯带"),
    "hue/entity/light/spot/name": ("Spot", "Strahler", "射灯"),
    "hue/entity/light/numbered/name": ("Lamp {}", "Lampe {}", "灯 {}"),
    "ac/entity/cover/blind/name": ("Blind", "Rollo", "百叶窗"),
    "ac/entity/sensor/noise/name": ("Noise level", "Geräuschpegel", "噪声级"),
    "ac/entity/light/noise/state/name": ("Not a name", "Kein Name", "不是名字"),
}
CODES = ("eng_Latn", "deu_Latn", "zho_Hans")
FREE = {"eng_Latn": ["milk", "fresh bread"], "deu_Latn": ["Milch", "frisches Brot"], "zho_Hans": ["牛奶", "面包"]}


@pytest.fixture(scope="session")
def slot_corpus(tmp_path_factory):
    """A corpus folder with two areas, a few device names and a few short texts in three languages."""
    folder = tmp_path_factory.mktemp("slots")
    entries = [
        {"key": key, "lang": code, "text": text}
        for key, texts in ENTRIES.items()
        for code, text in zip(CODES, texts, strict=True)
    ]
    write_table(folder / "entries.parquet", entries)
    mono = [{"split": "train", "lang": code, "text": text} for code, texts in FREE.items() for text in texts]
    mono.append({"split": "test", "lang": "eng_Latn", "text": "held out"})
    mono.append({"split": "train", "lang": "eng_Latn", "text": "a text of more words than a slot should hold"})
    write_table(folder / "mono.parquet", mono)
    return folder


@pytest.fixture(scope="session")
def sentences(slot_corpus):
    return list(intents.read(parse(intents.Config, {}), CODES, "eng_Latn", slot_corpus))


# --- the walk --------------------------------------------------------------------------------------------------


def fill(name, domains, rng):
    return {"name": "big lamp", "area": "(odd|name)"}.get(name)


def draws(text, rules=(), lists=(), lang="eng_Latn", count=60):
    grammar = Grammar(dict(rules), dict(lists), fill, "toy")
    rng = random.Random(0)
    return [grammar.draw(Template("T/0", text, ()), language(lang), rng) for _ in range(count)]


def test_all_expansions_are_drawn_and_nothing_else():
    found = {d.text for d in draws("turn (on|off) [the] light[s]")}
    assert found == {f"turn {a}{b} light{c}" for a in ("on", "off") for b in ("", " the") for c in ("", "s")}


def test_alternatives_are_equally_likely():
    counts = Counter(d.text for d in draws("(a|b|c)", count=6000))
    assert all(abs(counts[x] - 2000) < 3 * 36.6 for x in "abc")  # binomial, three standard deviations


def test_permutations_come_in_every_order():
    assert {d.text for d in draws("(one;two;three)", count=200)} == {
        f"{a} {b} {c}"
        for a in ("one", "two", "three")
        for b in ("one", "two", "three")
        for c in ("one", "two", "three")
        if len({a, b, c}) == 3
    }


def test_rules_and_lists_are_followed_and_slots_have_the_span_of_their_value():
    rules = {"on": "(switch|turn) on", "what": "the {name}"}
    lists = {"colour": {"values": [{"in": "(light|pale) [blue]", "out": "b"}]}}
    for text, slots in draws("<on> <what> in {colour:tint}", rules, lists):
        ((a, b), what), ((first, last), tint) = slots
        assert (text[a:b], what, tint) == ("big lamp", "name", "tint")
        assert text[first:last] in ("light", "pale", "light blue", "pale blue")
        assert text.endswith(text[first:last])


def test_ranges_keep_their_bounds_and_step():
    lists = {"k": {"range": {"from": 1000, "to": 1300, "step": 100}}}
    assert {d.text for d in draws("{k} {1..3:n}", lists=lists, count=200)} == {
        f"{k} {n}" for k in (1000, 1100, 1200, 1300) for n in (1, 2, 3)
    }


def test_a_value_is_text_even_where_it_looks_like_a_template():
    assert {d.text for d in draws("in {area}")} == {"in (odd|name)"}


def test_neighbouring_values_of_one_list_are_two_slots():
    (drawn,) = draws("{1..1:n} {1..1:n}", count=1)
    assert drawn.slots == [((0, 1), "n"), ((2, 3), "n")]


def test_spaces_are_tidied_and_spans_follow():
    pieces = [Piece("  turn "), Piece(" "), Piece(" big  lamp ", "name", 1), Piece(" "), Piece(" on ")]
    text, slots = assemble(pieces, language("eng_Latn"))
    assert text == "turn big lamp on"
    assert slots == [((5, 13), "name")]


def test_chinese_keeps_spaces_only_between_latin_words():
    text, slots = assemble([Piece("打开 "), Piece("hue bridge ", "name", 1), Piece(" 的 灯")], language("zho_Hans"))
    assert text == "打开hue bridge的灯"
    assert slots == [((2, 12), "name")]


@pytest.mark.parametrize(
    ("text", "rules", "message"),
    [
        ("go <nowhere>", {}, "toy: template 'go <nowhere>' uses the unknown rule <nowhere>"),
        ("<loop>", {"loop": "a <loop>"}, "toy: template '<loop>' expands without end"),
        ("say {unheard}", {}, "toy: no value for the slot {unheard} of template 'say {unheard}'"),
        ("(open", {}, "toy: template '(open' cannot be parsed"),
    ],
)
def test_a_broken_template_is_named(text, rules, message):
    with pytest.raises(UserError) as caught:
        draws(text, rules)
    assert str(caught.value).startswith(message)


# --- the data set ----------------------------------------------------------------------------------------------


def test_english_templates_do_not_cross_splits_and_other_languages_are_test_only(sentences):
    splits = {}
    for s in sentences:
        splits.setdefault(s.group, set()).add(s.split)
        assert s.group.split("/")[1] == s.label
    assert {len(found) for found in splits.values()} == {1}
    assert {s.split for s in sentences if s.lang != "eng_Latn"} == {"test"}
    assert {s.split for s in sentences if s.lang == "eng_Latn"} == {"train", "dev", "test"}


def test_quotas_hold_and_every_intent_is_trained(sentences):
    counts = Counter((s.lang, s.split, s.label) for s in sentences)
    most = {"train": 60, "dev": 6, "test": 20}
    assert all(count <= most[split] for (_, split, _), count in counts.items())
    labels = {s.label for s in sentences if s.split == "train"}
    assert labels == {s.label for s in sentences}
    assert len(labels) > 35


def test_no_two_sentences_of_an_intent_are_alike(sentences):
    forms = Counter((s.lang, s.label, normalise(s.text)) for s in sentences)
    assert set(forms.values()) == {1}


def test_words_are_the_text_and_tags_are_valid_bio(sentences):
    for s in sentences:
        assert "".join(s.words) == "".join(s.text.split())
        assert len(s.words) == len(s.tags)
        previous = "O"
        for tag in s.tags:
            if tag.startswith("I-"):
                assert previous[2:] == tag[2:]
            previous = tag
    assert any(" " in s.text for s in sentences if s.lang == "eng_Latn")
    assert all(len(word) == 1 or word.isascii() for s in sentences if s.lang == "zho_Hans" for word in s.words)


def test_areas_and_names_are_tagged_with_values_of_the_corpus(sentences):
    areas, names = {"kitchen", "bedroom"}, {"table lamp", "light strip", "spot", "blind"}
    found = {"area": Counter(), "name": Counter()}
    for s in sentences:
        if s.lang != "eng_Latn":
            continue
        for slot, values in found.items():
            begins = [i for i, tag in enumerate(s.tags) if tag == f"B-{slot}"]
            for i in begins:
                end = i + 1
                while end < len(s.tags) and s.tags[end] == f"I-{slot}":
                    end += 1
                values[" ".join(s.words[i:end])] += 1
    assert areas <= set(found["area"])
    assert names <= set(found["name"])
    tagged = " ".join(found["name"])
    assert "noise" not in tagged
    assert "not a name" not in tagged
    assert "{}" not in tagged


def test_device_names_fit_the_domain_that_a_template_asks_for(slot_corpus):
    from xbridge.tasks.datasets._slot_values import load_slot_values

    values = load_slot_values(slot_corpus, CODES)["eng_Latn"]
    rng = random.Random(0)
    assert {values("name", ("light",), rng) for _ in range(50)} == {"Table lamp", "Light strip", "Spot"}
    everything = {"Table lamp", "Light strip", "Spot", "Blind"}
    assert {values("name", ("cover",), rng) for _ in range(50)} == everything  # one cover is too few to draw from
    assert {values("message", (), rng) for _ in range(50)} == {"milk", "fresh bread"}


def test_text_is_lower_case_unless_asked_otherwise(sentences, slot_corpus):
    assert all(s.text == s.text.lower() for s in sentences)
    cased = intents.read(parse(intents.Config, {"lowercase": False}), ("eng_Latn",), "eng_Latn", slot_corpus)
    assert any("Kitchen" in s.text for s in cased)


def test_another_seed_draws_other_sentences(sentences, slot_corpus):
    other = intents.read(parse(intents.Config, {"seed": 1}), CODES, "eng_Latn", slot_corpus)
    assert {s.text for s in sentences} != {s.text for s in other}


def test_another_hash_seed_draws_the_same_sentences(sentences, slot_corpus, tmp_path):
    code = (
        "import sys; from pathlib import Path; from xbridge.tasks.datasets import homeassistant_intents as m\n"
        f"rows = m.read(m.Config(), {CODES!r}, 'eng_Latn', Path(sys.argv[1]))\n"
        "Path(sys.argv[2]).write_text('\\n'.join(map(repr, rows)), encoding='utf-8')"
    )
    out = tmp_path / "rows"
    environ = {**os.environ, "PYTHONHASHSEED": "77"}
    subprocess.run([sys.executable, "-c", code, str(slot_corpus), str(out)], check=True, env=environ)
    assert out.read_text(encoding="utf-8").split("\n") == [repr(s) for s in sentences]


# --- messages --------------------------------------------------------------------------------------------------


def read(corpus, codes=CODES, **settings):
    return list(intents.read(parse(intents.Config, settings), codes, "eng_Latn", corpus))


def test_a_missing_package_names_the_extra(monkeypatch, slot_corpus):
    from importlib import metadata

    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(UserError, match=r"home-assistant-intents is not installed; pip install .*xbridge-mt\[study\]"):
        read(slot_corpus)


def test_another_release_is_refused(slot_corpus):
    with pytest.raises(UserError, match=r"is installed, the config asks for 2020\.1\.1; pip install"):
        read(slot_corpus, version="2020.1.1")


def test_a_corpus_is_needed(slot_corpus):
    with pytest.raises(UserError, match="fills its slots from a corpus"):
        read(None)


def test_a_language_without_values_or_templates_is_named(slot_corpus, tmp_path):
    with pytest.raises(UserError, match=r"no area names .* in hun_Latn \(Hungarian\)"):
        read(slot_corpus, ("eng_Latn", "hun_Latn"))
    for name in ("entries", "mono"):
        from xbridge.core.files import read_rows

        rows = read_rows(slot_corpus / f"{name}.parquet")
        write_table(tmp_path / f"{name}.parquet", rows + [{**r, "lang": "jpn_Jpan"} for r in rows])
    with pytest.raises(UserError, match=r"has 4 intents in jpn_Jpan \(Japanese\), min_intents is 20"):
        read(tmp_path, ("eng_Latn", "jpn_Jpan"))
