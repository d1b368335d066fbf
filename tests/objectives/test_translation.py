"""Directions, and the control on re-paired sentences."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xbridge.core.config import parse
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import write_table
from xbridge.data.sampling import Examples
from xbridge.objectives.translation import Config, Pairs, build, repaired


def pairs_of(objective, tokenizer, part):
    """(source, target) strings of a part."""
    size = objective.parts[part].size
    batch = objective.collate(Examples(np.full(size, part), np.arange(size), np.zeros(size, dtype=np.int64)))
    decode = [
        tokenizer.batch_decode(ids, skip_special_tokens=True) for ids in (batch.input_ids, batch.decoder_input_ids)
    ]
    return list(zip(*decode, strict=True))


def test_many_to_many_has_both_directions_of_every_pair(material):
    names = [part.name for part in build(Config(), material).parts]
    assert names == ["eng_Latn-deu_Latn", "eng_Latn-spa_Latn", "deu_Latn-eng_Latn", "spa_Latn-eng_Latn"]


def test_one_sided_graphs_are_centred_on_the_pivot(material):
    one_to_many = build(Config(directions="one_to_many"), material)
    many_to_one = build(Config(directions="many_to_one"), material)
    assert [part.name for part in one_to_many.parts] == ["eng_Latn-deu_Latn", "eng_Latn-spa_Latn"]
    assert [part.name for part in many_to_one.parts] == ["deu_Latn-eng_Latn", "spa_Latn-eng_Latn"]


def test_a_direction_between_two_other_languages_joins_on_the_pivot(material, toy_tokenizer):
    objective = build(Config(directions=("deu_Latn-spa_Latn",)), material)
    number = {"eins": "uno", "zwei": "dos", "drei": "tres", "vier": "cuatro", "fünf": "cinco", "sechs": "seis",
              "sieben": "siete", "acht": "ocho"}  # fmt: skip
    pairs = pairs_of(objective, toy_tokenizer, 0)
    assert len(pairs) == 60
    assert all(" ".join(number[word] for word in source.split()) == target for source, target in pairs)


def test_languages_are_marked_by_direction(material):
    objective = build(Config(), material)
    batch = objective.collate(Examples(np.asarray([0, 3]), np.asarray([0, 0]), np.asarray([0, 0])))
    assert batch.input_ids[:, 0].tolist() == [29, 31]
    assert batch.decoder_input_ids[:, :2].tolist() == [[2, 30], [2, 29]]
    assert batch.labels[:, 0].tolist() == [-100, -100]


def test_widths_are_multiples_of_what_the_plan_counts_with(material):
    chosen = Examples(np.arange(40) % 4, np.arange(40), np.zeros(40, dtype=np.int64))
    plain, rounded = (build(Config(), replace(material, multiple_of=m)).collate(chosen) for m in (1, 5))
    assert plain.input_ids.shape == plain.decoder_input_ids.shape == (40, 8)
    assert rounded.input_ids.shape == rounded.decoder_input_ids.shape == rounded.labels.shape == (40, 10)
    assert rounded.count == plain.count
    assert (rounded.labels[:, 8:] == -100).all()


def test_planned_lengths_are_those_of_the_batch(material):
    objective = build(Config(), material)
    chosen = Examples(np.arange(40) % 4, np.arange(40), np.zeros(40, dtype=np.int64))
    lengths, batch = objective.lengths(chosen), objective.collate(chosen)
    assert lengths.source.tolist() == batch.attention_mask.sum(1).tolist()
    assert lengths.supervised.tolist() == (batch.labels != -100).sum(1).tolist()
    assert lengths.target.tolist() == (lengths.supervised + 1).tolist()


def test_the_control_has_no_true_pair_and_the_same_strings(material, toy_tokenizer):
    some = replace(material, max_tokens=4)  # long pairs go before the rest are re-paired
    true, control = build(Config(), some), build(Config(shuffle_pairs=True), some)
    assert true.num_dropped == control.num_dropped > 0
    assert len(pairs_of(true, toy_tokenizer, 0)) + true.num_dropped // 2 == 60
    for part in range(4):
        pairs, shuffled = pairs_of(true, toy_tokenizer, part), pairs_of(control, toy_tokenizer, part)
        assert not set(pairs) & set(shuffled)
        for side in (0, 1):
            assert Counter(pair[side] for pair in pairs) == Counter(pair[side] for pair in shuffled)


def test_the_control_pairs_both_directions_alike_and_by_seed(material, toy_tokenizer):
    control = build(Config(shuffle_pairs=True), material)
    there, back = pairs_of(control, toy_tokenizer, 0), pairs_of(control, toy_tokenizer, 2)
    assert set(there) == {(target, source) for source, target in back}
    assert there == pairs_of(build(Config(shuffle_pairs=True), material), toy_tokenizer, 0)
    assert there != pairs_of(build(Config(shuffle_pairs=True), replace(material, seed=6)), toy_tokenizer, 0)


@settings(max_examples=50)
@given(st.integers(60, 120), st.integers(0, 1000))
def test_re_pairing_avoids_every_true_pair_also_among_repeated_strings(count, key):
    source, target = np.random.default_rng(key).integers(0, 31, (2, count))
    result = repaired(Pairs("a", "b", source, 100 + target), key)
    assert not set(zip(source.tolist(), (100 + target).tolist(), strict=True)) & set(
        zip(result.source.tolist(), result.target.tolist(), strict=True)
    )
    assert sorted(result.target.tolist()) == sorted((100 + target).tolist())


def test_a_pair_that_cannot_be_re_paired_is_an_error():
    with pytest.raises(UserError, match="shuffle_pairs: eng_Latn-deu_Latn has too few distinct pairs"):
        repaired(Pairs("eng_Latn", "deu_Latn", np.asarray([0]), np.asarray([1])), 0)


@pytest.mark.parametrize("direction", ["hun_Latn-eng_Latn", "deu_Latn-hun_Latn"])
def test_an_unknown_direction_names_the_languages_there_are(material, direction):
    with pytest.raises(UserError, match=r"hun_Latn.*it has deu_Latn, eng_Latn, spa_Latn"):
        build(Config(directions=(direction,)), material)


def test_a_direction_is_two_languages_with_a_hyphen():
    with pytest.raises(
        ConfigError, match=r"objective\.directions: .* fits none of|directions.0: 'deu_Latn' is not like"
    ):
        parse(Config, {"directions": ["deu_Latn"]}, "objective")


def test_an_empty_split_is_named(material, tmp_path):
    schema = pa.schema([(n, pa.string()) for n in ("id", "split", "source_lang", "target_lang", "source", "target")])
    write_table(tmp_path / "bitext.parquet", [], schema)
    with pytest.raises(UserError, match=r"holds no train pairs"):
        build(Config(), replace(material, corpus=tmp_path))
