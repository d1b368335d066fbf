"""Splits by hash, near-duplicates against brute force, and pairs without surface overlap."""

import hashlib
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xbridge.core.errors import ConfigError
from xbridge.data.splitting import Split, is_overlap_free, max_jaccard, split_of, strip_marks, words_of


def test_shares_are_those_asked_for():
    splits = [split_of(f"string {i}", Split(dev=0.1, test=0.2)) for i in range(20_000)]
    # binomial: three standard deviations are .0085 and .0064
    assert splits.count("test") / 20_000 == pytest.approx(0.2, abs=0.0085)
    assert splits.count("dev") / 20_000 == pytest.approx(0.1, abs=0.0064)


def test_the_place_of_a_string_is_its_sha256():
    for i in range(50):
        place = int(hashlib.sha256(f"7\0s{i}".encode()).hexdigest(), 16) / 2**256
        expected = "test" if place < 0.3 else "dev" if place < 0.5 else "train"
        assert split_of(f"s{i}", Split(dev=0.2, test=0.3, seed=7)) == expected


def test_another_seed_draws_another_split():
    draws = [[split_of(f"s{i}", Split(test=0.5, seed=seed)) for i in range(100)] for seed in (0, 1)]
    assert draws[0] != draws[1]


@pytest.mark.parametrize("shares", [{"test": 0.0}, {"test": 0.6, "dev": 0.4}, {"dev": -0.1}])
def test_shares_that_leave_nothing_are_refused(shares):
    with pytest.raises(ConfigError, match="test"):
        Split(**shares)


texts = st.lists(st.lists(st.sampled_from("abcdefg"), max_size=5).map(" ".join), max_size=12)


@settings(max_examples=60)
@given(texts, texts)
def test_the_inverted_index_finds_the_brute_force_jaccard(held_out, train):
    def brute(text):
        bag = words_of(text)
        return max((len(bag & b) / len(bag | b) for b in map(words_of, train) if bag & b), default=0.0)

    np.testing.assert_allclose(max_jaccard(held_out, train), [brute(t) for t in held_out], rtol=1e-15)


def test_jaccard_of_a_hand_worked_pair():
    assert max_jaccard(["open the blue door"], ["open the door", "red window"])[0] == 3 / 4
    assert max_jaccard(["打开灯"], ["打开窗"])[0] == 2 / 4


@pytest.mark.parametrize(
    ("source", "target", "code", "is_free"),
    [
        ("Close the window", "Schließe das Fenster", "deu_Latn", True),
        ("Close the door", "Sehr alt", "deu_Latn", True),
        ("Room temperature", "Raumtemperatur", "deu_Latn", False),  # "temp" inside
        ("Station name", "Bahnhofsversion", "deu_Latn", False),  # "ion" at an end
        ("Internet", "Interesse", "deu_Latn", False),  # "int" at a beginning
        ("In doubt", "in Not", "deu_Latn", False),  # a common word
        ("Channel {}", "Kanal", "deu_Latn", False),
        ("Level 3", "Stufe drei", "deu_Latn", False),
        ("Open (now)", "Sofort (auf)", "deu_Latn", False),  # a common mark
        ("Close the window", "Закройте окно", "rus_Cyrl", True),
        ("Close the window", "Закройте app", "rus_Cyrl", False),
        ("", "Fenster", "deu_Latn", False),
    ],
)
def test_pairs_that_spelling_gives_away_are_left_out(source, target, code, is_free):
    assert is_overlap_free(source, target, code) is is_free


def test_a_shorter_anchor_is_stricter():
    pair = ("Demand", "Handel", "deu_Latn")  # "and" inside both
    assert is_overlap_free(*pair, 4)
    assert not is_overlap_free(*pair, 3)


def test_marks_at_the_ends_are_stripped():
    assert strip_marks("¿Está abierto?") == "Está abierto"
    assert strip_marks("打开灯。") == "打开灯"
    assert strip_marks("a, b.") == "a, b"


def test_a_retriever_by_letters_is_near_chance_on_overlap_free_pairs():
    """Character trigrams find most pairs of a mixed list, and close to none of those that the rule lets through."""
    draw = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    word = lambda: "".join(draw.choices(letters, k=6))  # noqa: E731
    pairs = []
    for i in range(300):
        source, target = [word() for _ in range(3)], [word() for _ in range(3)]
        if i % 2:
            target[0] = source[0]
        pairs.append((" ".join(source), " ".join(target)))
    free = [p for p in pairs if is_overlap_free(*p, "deu_Latn")]
    assert 120 < len(free) <= 150
    assert _trigram_accuracy(pairs) > 0.45
    assert _trigram_accuracy(free) < 0.03


def _trigram_accuracy(pairs):
    def grams(text):
        return {text[i : i + 3] for i in range(len(text) - 2)}

    targets = [grams(target) for _, target in pairs]
    hits = 0
    for i, (source, _) in enumerate(pairs):
        shared = [len(grams(source) & target) for target in targets]
        hits += shared[i] == max(shared) and shared.count(max(shared)) == 1
    return hits / len(pairs)
