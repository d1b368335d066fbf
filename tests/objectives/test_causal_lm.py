"""Next words, and translation by a decoder-only model: golden rows, and the library's own loss."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import XGLMConfig, XGLMForCausalLM

from xbridge.core.errors import UserError
from xbridge.data.sampling import Examples
from xbridge.data.tokens import from_rows
from xbridge.models.families import OTHERS
from xbridge.objectives import causal_lm, denoising, translation
from xbridge.objectives.sequences import causal_batch

BOS, PAD, EOS, NO = 0, 1, 2, -100


@pytest.fixture
def decoder_material(material):
    """The toy corpus for a decoder that is given `<s>` before a text, with a prompt of known words."""
    conventions = replace(
        material.conventions, family=OTHERS["decoder"], languages={}, around=([BOS], []), prompt="one two"
    )
    return replace(material, conventions=replace(conventions, tokenizer=material.tokenizer))


def rows(count):
    return Examples(np.zeros(count, dtype=np.int64), np.arange(count), np.zeros(count, dtype=np.int64))


def test_what_is_said_is_scored_one_place_before_it_stands():
    batch = causal_batch([from_rows([[0], [0, 5]])], [from_rows([[7, 8, 2], [9, 2]])], PAD)
    assert batch.input_ids.tolist() == [[0, 7, 8], [0, 5, 9]]
    assert batch.labels.tolist() == [[7, 8, 2], [NO, 9, 2]]
    assert batch.count == 5
    shorter = causal_batch([from_rows([[0], [0]])], [from_rows([[7, 8, 2], [2]])], PAD)
    assert shorter.input_ids.tolist() == [[0, 7, 8], [0, PAD, PAD]]
    assert shorter.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert shorter.labels.tolist() == [[7, 8, 2], [2, NO, NO]]
    bare = causal_batch([from_rows([[]])], [from_rows([[7, 8, 2]])], PAD)
    assert (bare.input_ids.tolist(), bare.labels.tolist(), bare.count) == ([[7, 8]], [[8, 2]], 2)


def test_lengths_are_known_before_the_batch(decoder_material):
    for objective in (
        causal_lm.build(causal_lm.Config(), decoder_material),
        translation.build(translation.Config(), decoder_material),
    ):
        batch, lengths = objective.collate(rows(8)), objective.lengths(rows(8))
        assert batch.attention_mask.sum(1).tolist() == lengths.source.tolist()
        assert (batch.labels != NO).sum(1).tolist() == lengths.supervised.tolist()
        assert batch.input_ids.shape[1] <= objective.longest


def test_a_translation_is_prompt_source_end_target_end_of_which_the_target_is_scored(decoder_material):
    objective = translation.build(translation.Config(directions=("eng_Latn-deu_Latn",)), decoder_material)
    batch = objective.collate(rows(1))
    ids, labels = batch.input_ids[0].tolist(), batch.labels[0].tolist()
    assert ids[:3] == [BOS, 4, 5], "the prompt"
    cut = ids.index(EOS)
    source, target = ids[3:cut], ids[cut + 1 :]
    assert [word + 8 for word in source] == target, "German words stand 8 after the English ones"
    assert labels == [NO] * cut + [*target, EOS]


def test_the_loss_is_the_librarys_own(decoder_material):
    torch.manual_seed(0)
    shape = {"vocab_size": 32, "d_model": 16, "num_layers": 1, "attention_heads": 2, "ffn_dim": 16, "init_std": 0.3}
    model = XGLMForCausalLM(XGLMConfig(**shape, dropout=0.0, attention_dropout=0.0, pad_token_id=PAD)).eval()
    objective = causal_lm.build(causal_lm.Config(), decoder_material)
    batch = objective.collate(rows(5))
    whole = torch.cat([batch.input_ids, torch.full((5, 1), PAD)], 1)
    ends = batch.attention_mask.sum(1)
    whole[torch.arange(5), ends] = EOS
    expected = whole.masked_fill(torch.arange(whole.shape[1]) > ends[:, None], NO)
    mask = (torch.arange(whole.shape[1]) <= ends[:, None]).long()
    theirs = model(input_ids=whole, attention_mask=mask, labels=expected).loss
    ours = objective.loss(model, batch)
    torch.testing.assert_close(ours.sum / ours.count, theirs, rtol=1e-5, atol=0)


def test_models_of_another_kind_are_refused_with_what_to_use(material, decoder_material):
    with pytest.raises(UserError, match="causal_lm needs a decoder-only model; use denoising"):
        causal_lm.build(causal_lm.Config(), material)
    with pytest.raises(UserError, match=r"denoising needs an encoder-decoder; .* causal_lm for a decoder"):
        denoising.build(denoising.Config(), decoder_material)
