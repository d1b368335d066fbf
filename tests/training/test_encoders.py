"""Encoder-only models: masked words, a decoder attached for translation, and the encoder exported again."""

from dataclasses import replace

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from tiny_training import config, updates

from xbridge.activations.encoder import Encoder
from xbridge.core.errors import ConfigError, UserError
from xbridge.models.attaching import AttachDecoder, attach_decoder
from xbridge.models.families import conventions_for
from xbridge.models.generation import Request, Search, translate
from xbridge.models.loading import load_backbone, load_tokenizer, save_model
from xbridge.training import train

SHAPE = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 40, "initializer_range": 0.2,
}  # fmt: skip
ATTACH = {"languages": ["eng_Latn", "deu_Latn", "spa_Latn"]}


@pytest.fixture(scope="module", params=["bert", "xlm-roberta"])
def pretrained(request, tmp_path_factory, toy_tokenizer):
    """A folder with a tiny encoder, its output layer and its tokenizer."""
    folder = tmp_path_factory.mktemp(request.param)
    known = toy_tokenizer.convert_ids_to_tokens(list(range(4, 28)))
    if request.param == "bert":
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *known]
        tokenizer = hf.BertTokenizer(vocab={w: i for i, w in enumerate(vocabulary)}, do_lower_case=False)
        kind, settings = hf.BertForMaskedLM, hf.BertConfig
    else:
        vocabulary = ["<s>", "<pad>", "</s>", "<unk>", *("▁" + word for word in known), "<mask>"]
        tokenizer = hf.XLMRobertaTokenizer(vocab=[(word, 0.0) for word in vocabulary])
        kind, settings = hf.XLMRobertaForMaskedLM, hf.XLMRobertaConfig
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ids = {"pad_token_id": tokenizer.pad_token_id, "vocab_size": len(tokenizer)}
        save_model(kind(settings(**SHAPE, **ids)), tokenizer, folder)
    return folder


def from_encoder(folder, **changes):
    return config(scratch=None, pretrained={"model": str(folder)}, max_tokens=8, **changes)


@pytest.mark.parametrize("objective", ["masked_lm", "translation_lm"])
def test_an_encoder_learns_masked_words_and_loads_again(inputs, pretrained, tmp_path, objective):
    settings = from_encoder(pretrained, objective=objective, budget={"unit": "steps", "amount": 20})
    train.run(settings, replace(inputs, tokenizer=None), tmp_path)
    losses = [line["loss"] for line in updates(tmp_path)]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert load_backbone(tmp_path, with_output=True).config.model_type == load_backbone(pretrained).config.model_type
    Encoder.open(tmp_path)


def test_a_decoder_is_attached_trained_and_the_encoder_exported_as_it_was_loaded(inputs, pretrained, tmp_path):
    inputs = replace(inputs, tokenizer=None)
    settings = from_encoder(pretrained, objective="translation", attach_decoder={**ATTACH, "layers": 1})
    train.run(settings, inputs, tmp_path / "mt")
    whole, encoder = (load_file(tmp_path / "mt" / name / "model.safetensors") for name in ("model", "encoder"))
    assert all(torch.equal(whole[f"encoder.{name}"], tensor) for name, tensor in encoder.items())
    before = load_file(pretrained / "model.safetensors")
    prefix = "bert." if "bert.embeddings.word_embeddings.weight" in before else "roberta."
    assert {name for name in encoder if "pooler" not in name} == {
        name.removeprefix(prefix) for name in before if name.startswith(prefix)
    }
    assert all(encoder[name.removeprefix(prefix)].shape == before[name].shape for name in before if prefix in name)
    assert not torch.equal(
        encoder["embeddings.word_embeddings.weight"], before[f"{prefix}embeddings.word_embeddings.weight"]
    )
    plain = hf.AutoModel.from_pretrained(tmp_path / "mt" / "encoder")
    assert plain.config.model_type == load_backbone(pretrained).config.model_type
    assert len(load_tokenizer(tmp_path / "mt" / "encoder")) == len(load_tokenizer(pretrained))

    reader, writer = Encoder.open(tmp_path / "mt"), Encoder.open(tmp_path / "mt", with_decoder=True)
    rows = reader.rows(["one two", "three"], "eng_Latn")
    alone, attached = (
        one.pooled(one.rows(["one two", "three"], "eng_Latn"), ["encoder.2"], "mean", 2)["encoder.2"]
        for one in (reader, writer)
    )
    torch.testing.assert_close(alone, attached)
    assert len(rows) == 2
    request = [Request("one two three", "eng_Latn", "deu_Latn")]
    assert translate(writer.model, writer.tokenizer, writer.conventions, request, Search(max_new_tokens=4))

    again = config(scratch=None, objective="denoising", max_tokens=8)
    train.run(again, replace(inputs, init=tmp_path / "mt"), tmp_path / "more")
    assert len(load_tokenizer(tmp_path / "more" / "encoder")) == len(load_tokenizer(pretrained))


def test_the_decoder_starts_from_the_encoder_or_at_random_and_always_the_same(pretrained):
    def attached(weights, seed=1):
        tokenizer = load_tokenizer(pretrained)
        settings = AttachDecoder(languages=("deu_Latn",), weights=weights)
        return attach_decoder(load_backbone(pretrained), tokenizer, settings, seed=seed), tokenizer

    model, tokenizer = attached("encoder")
    body, given = model.decoder.base_model.state_dict(), model.encoder.state_dict()
    same = {name for name in body if name in given and torch.equal(body[name], given[name])}
    assert {name for name in body if ".attention." in name} <= same
    table, source = (m.get_input_embeddings().weight for m in (model.decoder, model.encoder))
    assert torch.equal(table[: len(source)], source)
    assert len(table) == len(source) + 1 == len(tokenizer)
    torch.testing.assert_close(table[-1], source.mean(0))
    assert conventions_for(model, tokenizer).target("deu_Latn") == (
        [tokenizer.cls_token_id, len(tokenizer) - 1], [tokenizer.sep_token_id],
    )  # fmt: skip
    one, two, other = (attached("random", seed)[0].decoder.get_input_embeddings().weight for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_what_has_a_decoder_or_cannot_get_one_is_refused(inputs, base, pretrained, tmp_path):
    with pytest.raises(ConfigError, match="attach_decoder: is for an encoder"):
        config(attach_decoder=ATTACH)
    with pytest.raises(UserError, match="a mbart model has a decoder already"):
        train.run(config(scratch=None, attach_decoder=ATTACH), replace(inputs, init=base), tmp_path / "a")
    with pytest.raises(UserError, match="translation needs a decoder; set attach_decoder"):
        train.run(from_encoder(pretrained, objective="translation"), replace(inputs, tokenizer=None), tmp_path / "b")
    settings = from_encoder(pretrained, objective="translation", attach_decoder={**ATTACH, "layers": 3})
    with pytest.raises(ConfigError, match=r"attach_decoder\.layers: the encoder has 2 layers only"):
        train.run(settings, replace(inputs, tokenizer=None), tmp_path / "c")
