"""Masked words: golden rows, shares, noise by example alone, and the library's own loss."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers as hf

from xbridge.core.config import parse
from xbridge.core.errors import ConfigError, UserError
from xbridge.data.sampling import Examples
from xbridge.data.tokens import from_rows, side_by_side
from xbridge.models.families import FAMILIES
from xbridge.objectives import masked_lm, translation_lm
from xbridge.objectives.masking import Masking
from xbridge.objectives.sequences import split_rows

MASK, NO = 28, -100
SHAPE = {
    "vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 40, "initializer_range": 0.3, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}  # fmt: skip


@pytest.fixture
def encoder_material(material):
    """The toy corpus for an encoder that reads `<s> X </s>`, and `<s> X </s> </s> Y </s>`."""
    family = next(family for family in FAMILIES if family.name == "xlm-r")
    family = replace(family, between=("eos", "eos"))  # the toy tokenizer names no sep_token
    return replace(material, conventions=replace(material.conventions, family=family, around=([0], [2])))


def examples(*triples):
    return Examples(*(np.asarray(column) for column in zip(*triples, strict=True)))


def every(rows, epoch=0):
    return Examples(np.zeros(rows, dtype=np.int64), np.arange(rows), np.full(rows, epoch))


def test_15_percent_are_predicted_of_which_80_10_10_are_masked_changed_and_kept(encoder_material):
    masking = Masking(encoder_material, 0.15, 7)
    text = from_rows([[4 + i % 24 for i in range(length)] for length in np.random.default_rng(0).integers(1, 60, 4000)])
    ids, labels = masking.apply(text, every(4000))
    chosen = labels.ids != NO
    assert (labels.ids[chosen] == text.ids[chosen]).all()
    assert (ids.ids[~chosen] == text.ids[~chosen]).all()
    per_row = np.add.reduceat(chosen, text.starts[:-1])
    assert (per_row == masking.num_chosen(text.lengths, every(4000))).all()
    assert per_row.min() == 1
    long = text.lengths >= 20
    assert per_row[long].sum() / text.lengths[long].sum() == pytest.approx(0.15, abs=0.005)
    masked = (ids.ids == MASK)[chosen].mean()
    kept = (ids.ids == text.ids)[chosen].mean()
    assert masked == pytest.approx(0.8, abs=0.015)
    assert kept == pytest.approx(0.1 + 0.1 / 24, abs=0.015), "a random word may be the same one"
    assert set(ids.ids[chosen]) <= set(range(4, 29)), "no special token and no language code"


def test_the_noise_of_an_example_depends_on_nothing_else_and_changes_with_the_epoch(encoder_material):
    objective = masked_lm.build(masked_lm.Config(), encoder_material)
    together = objective.collate(examples((0, 3, 0), (1, 5, 0), (2, 7, 2)))
    alone = objective.collate(examples((1, 5, 0)))
    width = alone.input_ids.shape[1]
    assert torch.equal(together.input_ids[1, :width], alone.input_ids[0])
    assert torch.equal(together.labels[1, :width], alone.labels[0])
    epochs = [objective.collate(every(20, epoch)).labels for epoch in (0, 1)]
    assert not torch.equal(*epochs)


def test_rows_stand_between_the_tokenizers_tokens_and_lengths_are_known_before(encoder_material):
    objective = masked_lm.build(masked_lm.Config(mask_share=0.5), encoder_material)
    chosen = examples((0, 0, 0), (1, 1, 0), (2, 2, 0), (0, 3, 1))
    batch, lengths = objective.collate(chosen), objective.lengths(chosen)
    assert batch.attention_mask.sum(1).tolist() == lengths.source.tolist()
    assert (lengths.target == 0).all()
    assert (batch.labels != NO).sum(1).tolist() == lengths.supervised.tolist()
    assert batch.count == lengths.supervised.sum()
    for row, size in zip(batch.input_ids.tolist(), lengths.source.tolist(), strict=True):
        assert (row[0], row[size - 1]) == (0, 2)
    assert objective.collate(chosen, scored=False).count == 0
    assert objective.longest == 8


def test_a_pair_is_masked_on_both_sides_and_the_second_counts_its_positions_anew(encoder_material):
    objective = translation_lm.build(translation_lm.Config(mask_share=0.5), encoder_material)
    assert [part.name for part in objective.parts] == ["eng_Latn-deu_Latn", "eng_Latn-spa_Latn"]
    batch = objective.collate(every(16))
    lengths = objective.lengths(every(16))
    assert batch.attention_mask.sum(1).tolist() == lengths.source.tolist()
    assert batch.count == lengths.supervised.sum()
    is_token = batch.attention_mask == 1
    sides = [(batch.labels[is_token & (batch.second == side)] != NO).float().mean() for side in (0, 1)]
    assert min(sides) > 0.2, "of all tokens of the side, special ones counted"
    row, size = batch.input_ids[0].tolist(), int(lengths.source[0])
    cut = batch.second[0].tolist().index(1)
    assert row[0] == 0
    assert row[cut - 2 : cut] == [2, 2]
    assert row[size - 1] == 2
    assert batch.positions[0].tolist()[:size] == [*range(cut), *range(size - cut)]
    running = translation_lm.build(translation_lm.Config(reset_positions=False), encoder_material)
    assert running.collate(every(2)).positions is None


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
def test_the_loss_is_the_librarys_for_masked_words_and_its_gradient_reaches_the_bias(encoder_material, kind):
    torch.manual_seed(0)
    model = (
        hf.BertForMaskedLM(hf.BertConfig(**SHAPE)) if kind == "bert"
        else hf.XLMRobertaForMaskedLM(hf.XLMRobertaConfig(**SHAPE, pad_token_id=1, type_vocab_size=1))
    )  # fmt: skip
    objective = translation_lm.build(translation_lm.Config(mask_share=0.3), encoder_material)
    batch = objective.collate(every(6))
    reserved = {"bert": 0, "xlm-roberta": 2}[kind]
    theirs = model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels,
        position_ids=batch.positions + reserved, token_type_ids=batch.second if kind == "bert" else None,
    ).loss  # fmt: skip
    theirs.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    ours = objective.loss(model, batch)
    torch.testing.assert_close(ours.sum / ours.count, theirs, rtol=1e-5, atol=0)
    (ours.sum / ours.count).backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert any(name.endswith(("predictions.bias", "lm_head.bias")) for name in found)


def test_rows_are_cut_where_the_second_text_begins():
    source, target = from_rows([[1, 2], [3]]), from_rows([[4], [5, 6, 7]])
    one, two = split_rows(side_by_side([source, target]), source.lengths)
    assert (one.ids.tolist(), two.ids.tolist()) == ([1, 2, 3], [4, 5, 6, 7])
    assert (one.starts.tolist(), two.starts.tolist()) == ([0, 2, 3], [0, 1, 4])


def test_a_model_that_is_no_encoder_is_refused_with_what_to_use(material):
    with pytest.raises(UserError, match=r"need an encoder .* for an encoder-decoder use denoising"):
        masked_lm.build(masked_lm.Config(), material)


def test_a_share_of_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"objective\.mask_share: must be above 0"):
        parse(masked_lm.Config, {"mask_share": 0}, "objective")
