"""The last linear layer of every architecture, against the model's own logits."""

import pytest
import torch
import transformers as hf

from xbridge.core.errors import UserError
from xbridge.models.output_layer import check_output_layer, output_layer

BERT = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 20, "initializer_range": 0.5,
}  # fmt: skip
BART = {
    "vocab_size": 40, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "init_std": 0.5,
    "max_position_embeddings": 20, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2,
}  # fmt: skip
T5 = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
XGLM = {"vocab_size": 40, "d_model": 16, "num_layers": 1, "attention_heads": 2, "ffn_dim": 16, "init_std": 0.5}
LLAMA = {key: value for key, value in BERT.items() if key != "type_vocab_size"}
DISTIL = {"vocab_size": 40, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "max_position_embeddings": 20}


def attached():
    decoder = hf.BertConfig(**BERT, is_decoder=True, add_cross_attention=True)
    return hf.EncoderDecoderModel(encoder=hf.BertModel(hf.BertConfig(**BERT)), decoder=hf.BertLMHeadModel(decoder))


MODELS = {
    "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**BERT)),
    "distilbert": lambda: hf.DistilBertForMaskedLM(hf.DistilBertConfig(**DISTIL)),
    "xlm-roberta": lambda: hf.XLMRobertaForMaskedLM(hf.XLMRobertaConfig(**BERT, pad_token_id=1)),
    "mbart": lambda: hf.MBartForConditionalGeneration(hf.MBartConfig(**BART)),
    "m2m_100": lambda: hf.M2M100ForConditionalGeneration(hf.M2M100Config(**BART)),
    "marian": lambda: hf.MarianMTModel(hf.MarianConfig(**BART)),
    "t5": lambda: hf.T5ForConditionalGeneration(hf.T5Config(**T5, decoder_start_token_id=0)),
    "mt5": lambda: hf.MT5ForConditionalGeneration(hf.MT5Config(**T5)),
    "xglm": lambda: hf.XGLMForCausalLM(hf.XGLMConfig(**XGLM)),
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA)),
    "encoder-decoder": attached,
}


@pytest.mark.parametrize("kind", MODELS)
def test_the_layer_gives_the_models_own_logits_also_with_biases(kind):
    torch.manual_seed(0)
    model = MODELS[kind]()
    assert model.config.model_type == kind
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if "bias" in name:
            tensor.data.normal_()
    check_output_layer(model)
    assert model.training


def test_a_head_that_is_not_known_is_refused():
    torch.manual_seed(0)
    model = hf.Gemma2ForCausalLM(
        hf.Gemma2Config(**LLAMA, head_dim=8, num_key_value_heads=1, final_logit_softcapping=1.0)
    )
    model.lm_head.weight.data.normal_()
    with pytest.raises(UserError, match="'gemma2' has an output layer that is not known"):
        check_output_layer(model)


def test_a_bias_of_zeros_is_left_out_and_a_trained_one_is_not():
    model = MODELS["mbart"]()
    assert output_layer(model, torch.zeros(1, 16)).bias is None
    model.final_logits_bias.fill_(1)
    assert output_layer(model, torch.zeros(1, 16)).bias.tolist() == [1] * 40
    bert = MODELS["bert"]()
    assert output_layer(bert, torch.zeros(1, 16)).bias is bert.cls.predictions.bias
