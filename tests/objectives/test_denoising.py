"""Text infilling: what is kept, where masks stand, and that noise depends on the example alone."""

from dataclasses import replace

import numpy as np
import pytest

from xbridge.core.config import parse
from xbridge.core.errors import ConfigError, UserError
from xbridge.data.sampling import Examples
from xbridge.data.tokens import Selection, from_rows
from xbridge.objectives.denoising import Config, Denoising, build, infill, poisson_cumulative

MASK = 28


def examples(*triples):
    return Examples(*(np.asarray(column) for column in zip(*triples, strict=True)))


def long_text(material, *, rows=3000, seed=5, **config):
    """A denoising objective over numbered tokens, so that every kept token tells where it was."""
    lengths = np.random.default_rng(0).integers(1, 60, rows)
    table = from_rows([list(range(100, 100 + length)) for length in lengths])
    text = Selection(table, np.arange(rows))
    return Denoising(Config(**config), replace(material, max_tokens=60, seed=seed), ("eng_Latn",), [text]), lengths


def every(rows, epoch=0):
    return Examples(np.zeros(rows, dtype=np.int64), np.arange(rows), np.full(rows, epoch))


def rows_of(table):
    return [table.ids[a:b].tolist() for a, b in zip(table.starts[:-1], table.starts[1:], strict=True)]


def spans_of(noisy, length):
    """Lengths of the removed runs, one per mask: the gaps that the kept tokens leave."""
    spans, expected = [], 100
    after_mask = False
    for token in [*noisy, 100 + length]:
        if token == MASK:
            assert not after_mask, "two masks side by side"
            after_mask = True
        else:
            if after_mask:
                spans.append(token - expected)
            else:
                assert token == expected, "a token is gone without a mask"
            expected, after_mask = token + 1, False
    return spans


def test_infilling_replaces_each_span_by_one_mask():
    # 6 tokens, 3 removed in spans of 2 and 1; slots order 1, 3: before kept token 1 and at the end.
    text = from_rows([[10, 11, 12, 13, 14, 15], [20, 21]])
    slots = np.asarray([[0.9, 0.1, 0.8, 0.2], [0.5, 0.4, 0.3, 0.2]])
    noisy = infill(text, np.asarray([3, 0]), np.asarray([[2, 1], [0, -1]]), slots, MASK)
    assert rows_of(noisy) == [[10, MASK, 13, 14, MASK], [20, 21, MASK]]


def test_35_percent_of_the_tokens_go_and_every_gap_has_exactly_one_mask(material):
    objective, lengths = long_text(material)
    spans, removed = [], 0
    for noisy, length in zip(rows_of(objective.noisy(every(3000))), lengths.tolist(), strict=True):
        spans += spans_of(noisy, length)
        removed += length - sum(token != MASK for token in noisy)
        assert abs((length - sum(token != MASK for token in noisy)) - 0.35 * length) < 1
    assert removed / lengths.sum() == pytest.approx(0.35, abs=0.005)
    # The last span of a string is cut short: with about 10 removed tokens a string, somewhat below the mean of 3.5.
    assert 2.8 < np.mean(spans) < 3.5


def test_span_lengths_are_poisson():
    table = poisson_cumulative(3.5)
    assert table[0] == pytest.approx(np.exp(-3.5))
    assert table[3] - table[2] == pytest.approx(3.5**3 / 6 * np.exp(-3.5))
    assert table[-1] == pytest.approx(1, abs=1e-14)


def test_noise_is_a_function_of_example_and_epoch_not_of_the_batch(material):
    objective, _ = long_text(material, rows=50)
    together = rows_of(objective.noisy(every(50)))
    alone = [rows_of(objective.noisy(examples((0, row, 0))))[0] for row in range(50)]
    assert together == alone
    assert together != rows_of(objective.noisy(every(50, epoch=1)))
    other, _ = long_text(material, rows=50, seed=6)
    assert together != rows_of(other.noisy(every(50)))


def test_planned_lengths_are_those_of_the_batch(material):
    objective, _ = long_text(material, rows=200)
    lengths = objective.lengths(every(200))
    batch = objective.collate(every(200))
    assert lengths.source.tolist() == batch.attention_mask.sum(1).tolist()
    assert lengths.supervised.tolist() == (batch.labels != -100).sum(1).tolist()
    assert lengths.target.tolist() == (lengths.supervised + 1).tolist()


def test_without_noise_the_source_is_the_target(material):
    objective = build(parse(Config, {"mask_share": 0.0}), material)
    batch = objective.collate(examples((0, 3, 0), (1, 3, 0)))
    for source, labels in zip(batch.input_ids.tolist(), batch.labels.tolist(), strict=True):
        assert [i for i in source[1:] if i != 1] == [i for i in labels[1:] if i != -100]


def test_more_spans_than_places_are_merged_into_the_last(material):
    objective, lengths = long_text(material, rows=500, mean_span=0.2, mask_share=0.8)  # mostly empty spans
    for noisy, length in zip(rows_of(objective.noisy(every(500))), lengths.tolist(), strict=True):
        assert sum(spans_of(noisy, length)) == length - sum(token != MASK for token in noisy)


def test_parts_are_languages_and_overlong_strings_are_left_out(material):
    objective = build(Config(), replace(material, max_tokens=4))
    assert [part.name for part in objective.parts] == ["eng_Latn", "deu_Latn", "spa_Latn"]
    assert sum(part.size for part in objective.parts) + objective.num_dropped == 180
    assert objective.num_dropped > 0


def test_a_language_without_text_is_named(material):
    with pytest.raises(UserError, match=r"holds no train text in hun_Latn"):
        build(Config(languages=("hun_Latn",)), material)


def test_shares_outside_zero_and_one_are_refused():
    with pytest.raises(ConfigError, match=r"objective\.mask_share"):
        parse(Config, {"mask_share": 1.2}, "objective")
