"""Counter-based numbers, shares, and epochs without repetition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xbridge.core.errors import ConfigError
from xbridge.data.sampling import (
    Part,
    Phase,
    Sampler,
    Shares,
    check_schedule,
    permutation,
    random_bits,
    temperature_schedule,
    temperature_shares,
    uniform,
)


def test_splitmix64_gives_the_published_first_numbers():
    # Vigna's splitmix64.c from state 1234567; state s gives mix(s + golden ratio).
    golden, state = 0x9E3779B97F4A7C15, 1234567
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    got = [int(random_bits((state + step * golden) % 2**64)) for step in range(3)]
    assert got == expected


def test_uniform_numbers_are_flat_and_uncorrelated_between_counters():
    numbers = uniform(7, np.arange(400)[:, None], np.arange(400)[None])
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    expected = numbers.size / 20
    assert (np.abs(counts - expected) < 4.5 * np.sqrt(expected)).all()
    for other in (numbers[1:, :].ravel(), numbers[:, 1:].ravel()):
        first = numbers[:-1, :].ravel() if len(other) == 399 * 400 else numbers[:, :-1].ravel()
        assert abs(np.corrcoef(first[: len(other)], other)[0, 1]) < 4.5 / np.sqrt(len(other))


def test_a_permutation_has_every_number_once_and_depends_on_its_key():
    assert sorted(permutation(1, 1000).tolist()) == list(range(1000))
    assert permutation(1, 1000).tolist() != permutation(2, 1000).tolist()


def test_temperature_evens_out_the_shares():
    assert temperature_shares([1, 100], 1) == pytest.approx([1 / 101, 100 / 101])
    assert temperature_shares([1, 100], 2) == pytest.approx([1 / 11, 10 / 11])
    assert temperature_shares([1, 100], 1e9) == pytest.approx([0.5, 0.5], abs=1e-6)
    with pytest.raises(ConfigError, match="temperature: must be at least 1"):
        temperature_shares([1, 2], 0.5)


PARTS = [Part(name="a", size=7), Part(name="b", size=31), Part(name="c", size=100)]
SHARES = np.asarray([0.2, 0.3, 0.5])


def test_every_row_comes_once_per_epoch_in_every_part():
    drawn = Sampler(PARTS, seed=3).draw(1000, SHARES)
    for index, part in enumerate(PARTS):
        mine = drawn.part == index
        for epoch in range(drawn.epoch[mine].max()):
            assert sorted(drawn.row[mine & (drawn.epoch == epoch)].tolist()) == list(range(part.size))


def test_each_part_stays_within_a_few_draws_of_its_share_at_every_moment():
    drawn = Sampler(PARTS, seed=3).draw(5000, SHARES)
    counts = np.stack([np.cumsum(drawn.part == index) for index in range(3)], axis=1)
    assert np.abs(counts - np.arange(1, 5001)[:, None] * SHARES).max() < 5


@given(st.lists(st.integers(1, 400), min_size=1, max_size=5), st.integers(0, 9))
def test_blocks_of_any_size_give_the_same_sequence(blocks, seed):
    whole = Sampler(PARTS, seed=seed).draw(sum(blocks), SHARES)
    sampler = Sampler(PARTS, seed=seed)
    pieces = [sampler.draw(block, SHARES) for block in blocks]
    for column in range(3):
        assert np.array_equal(np.concatenate([piece[column] for piece in pieces]), whole[column])


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_parts_are_drawn_with_the_frequencies_of_their_temperature(temperature):
    sizes, count = [7, 31, 100], 20_000
    drawn = Sampler(PARTS, seed=11).draw(count, temperature_shares(sizes, temperature))
    expected = np.asarray(sizes) ** (1 / temperature) / (np.asarray(sizes) ** (1 / temperature)).sum()
    sigma = np.sqrt(expected * (1 - expected) / count)  # of independent draws; ours are closer
    assert (np.abs(np.bincount(drawn.part) / count - expected) < 3 * sigma).all()


def test_a_peek_is_what_the_next_draw_gives_and_moves_nothing():
    sampler = Sampler(PARTS, seed=3)
    sampler.draw(50, SHARES)
    seen, drawn = sampler.peek(200, SHARES), sampler.draw(200, SHARES)
    assert all(np.array_equal(a, b) for a, b in zip(seen, drawn, strict=True))


WARMING = (Phase(until=0.25, value=1.0), Phase(until=1.0, value=2.0))


def test_shares_follow_the_phases_of_a_temperature():
    shares = temperature_schedule([1, 100], WARMING)
    assert shares.until == (0.25, 1.0)
    assert shares.values == pytest.approx(np.asarray([[1 / 101, 100 / 101], [1 / 11, 10 / 11]]))
    assert [shares.phase(progress) for progress in (0, 0.2499, 0.25, 0.9, 1)] == [0, 0, 1, 1, 1]


def test_joined_shares_have_the_phases_of_the_weights_and_of_every_component():
    weights = Shares((0.5, 1.0), np.asarray([[1.0, 0.0], [0.4, 0.6]]))
    joined = Shares.joined(weights, [temperature_schedule([1, 100], WARMING), Shares.constant(np.asarray([1.0]))])
    assert joined.until == (0.25, 0.5, 1.0)
    assert joined.values == pytest.approx(
        np.asarray([[1 / 101, 100 / 101, 0], [1 / 11, 10 / 11, 0], [0.4 / 11, 4 / 11, 0.6]])
    )


@pytest.mark.parametrize(
    ("phases", "problem"),
    [
        ((Phase(until=0.5, value=2),), "temperature: the last phase must end at 1"),
        ((Phase(until=0.5, value=2), Phase(until=0.5, value=1)), "temperature.1.until: must be above 0.5"),
        ((Phase(until=1, value=0.5),), "temperature.0.value: must be at least 1"),
        ((), "temperature: the last phase must end at 1"),
    ],
)
def test_phases_that_do_not_cover_the_run_are_refused(phases, problem):
    with pytest.raises(ConfigError, match=problem):
        check_schedule("temperature", phases, lowest=1)
