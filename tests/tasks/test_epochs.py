"""The fine-tuning plan: every example once per epoch, on any number of ranks, from the seed alone."""

import pytest

from xbridge.tasks.epochs import EpochPlan, batches_by_length

LENGTHS = [(7 * i) % 23 + 1 for i in range(50)]


def plan(seed=0, micro_batch_size=None, epochs=3):
    return EpochPlan(
        [f"e{i}" for i in range(50)],
        LENGTHS,
        [1] * 50,
        lambda examples, silent: ("silent" if silent else "loud", tuple(examples)),
        batch_size=8,
        epochs=epochs,
        seed=seed,
        micro_batch_size=micro_batch_size,
    )


def test_every_epoch_holds_every_example_once():
    p = plan()
    assert p.num_steps == 3 * 7
    for epoch in range(3):
        seen = [i for step in range(7 * epoch, 7 * epoch + 7) for i in p.examples(step)]
        assert sorted(seen) == list(range(50))


def test_epochs_differ_and_seeds_differ_and_equal_seeds_agree():
    first = [plan().examples(step) for step in range(21)]
    assert [plan().examples(step) for step in reversed(range(21))] == first[::-1]
    assert first[:7] != first[7:14]
    assert [plan(seed=1).examples(step) for step in range(21)] != first


@pytest.mark.parametrize("world_size", [1, 2, 3, 11])
@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_ranks_share_a_batch_without_overlap_in_equally_many_parts(world_size, micro_batch_size):
    p = plan(micro_batch_size=micro_batch_size)
    for step in range(7):
        shares = [p.micro_batches(step, rank, world_size) for rank in range(world_size)]
        assert len({len(share) for share in shares}) == 1
        parts = [part for share in shares for part in share]
        assert all(examples for _, examples in parts)
        loud = [i for kind, examples in parts if kind == "loud" for i in examples]
        assert sorted(loud) == sorted(p.examples(step))
        assert all(len(examples) <= (micro_batch_size or 8) for _, examples in parts)


def test_counts_are_those_of_the_whole_batch():
    p = plan()
    lengths = [LENGTHS[i] for i in p.examples(4)]
    assert p.counts(4) == (len(lengths), sum(lengths), max(lengths) * len(lengths))


def test_batches_hold_like_lengths():
    p = plan(epochs=1)
    spread = sum(max(LENGTHS[i] for i in p.examples(s)) - min(LENGTHS[i] for i in p.examples(s)) for s in range(7))
    assert spread <= 23  # one window covers all 50: the sorted cuts share out the range of lengths once


def test_digest_names_the_examples_in_order():
    assert plan().digest(2) == plan().digest(2)
    assert plan().digest(2) != plan().digest(3)


def test_evaluation_batches_go_from_long_to_short():
    batches = batches_by_length(LENGTHS, 8)
    lengths = [LENGTHS[i] for batch in batches for i in batch]
    assert lengths == sorted(LENGTHS, reverse=True)
    assert sorted(i for batch in batches for i in batch) == list(range(50))
