"""Golden batches, written by hand: ids as toy_tokenizer has them (see tests/conftest.py)."""

import numpy as np
import torch
from transformers import MBartConfig, MBartForConditionalGeneration

from xbridge.data.tokens import from_rows
from xbridge.models.families import conventions_of
from xbridge.objectives.seq2seq import Layouts, seq2seq_loss

ENG, DEU, EOS, PAD, NO = 29, 30, 2, 1, -100


def batch_of(tokenizer, *, scored=True):
    layouts = Layouts(conventions_of("mbart", tokenizer), [("eng_Latn", "deu_Latn"), ("deu_Latn", "eng_Latn")])
    source, target = from_rows([[4, 5, 6], [12]]), from_rows([[12, 13], [4, 5, 6, 7]])
    return layouts.batch(source, target, np.asarray([0, 1]), scored=scored)


def test_the_layout_is_mbart50s(toy_tokenizer):
    batch = batch_of(toy_tokenizer)
    assert batch.input_ids.tolist() == [[ENG, 4, 5, 6, EOS], [DEU, 12, EOS, PAD, PAD]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch.decoder_input_ids.tolist() == [[EOS, DEU, 12, 13, PAD, PAD], [EOS, ENG, 4, 5, 6, 7]]
    assert batch.labels.tolist() == [[NO, 12, 13, EOS, NO, NO], [NO, 4, 5, 6, 7, EOS]]
    assert batch.count == 8


def test_an_unscored_batch_keeps_its_shape_and_has_no_labels(toy_tokenizer):
    batch = batch_of(toy_tokenizer, scored=False)
    assert batch.input_ids.shape == (2, 5)
    assert batch.count == 0
    assert (batch.labels == NO).all()


def test_the_loss_is_the_models_own_cross_entropy_summed_over_scored_labels(toy_tokenizer):
    torch.manual_seed(0)
    model = MBartForConditionalGeneration(
        MBartConfig(vocab_size=32, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16,
                    decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2,
                    max_position_embeddings=16, pad_token_id=1, eos_token_id=2)
    ).eval()  # fmt: skip
    batch = batch_of(toy_tokenizer)
    theirs = model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask,
        decoder_input_ids=batch.decoder_input_ids, labels=batch.labels,
    ).loss  # fmt: skip
    ours = seq2seq_loss(model, batch)
    torch.testing.assert_close(ours.sum / ours.count, theirs, rtol=1e-5, atol=0)
    model.final_logits_bias.normal_()
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask,
                   decoder_input_ids=batch.decoder_input_ids).logits  # fmt: skip
    biased = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), reduction="sum")
    torch.testing.assert_close(seq2seq_loss(model, batch).sum, biased, rtol=1e-5, atol=0)
