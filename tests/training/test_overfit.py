"""Eight pairs in four directions are learned by heart and written again, by every layout with language tokens."""

from dataclasses import replace

import pytest
import torch
import transformers as hf
from tiny_training import config

from xbridge.core.files import read_rows, write_table
from xbridge.models.families import conventions_for
from xbridge.models.generation import Request, Search, translate
from xbridge.models.loading import load_backbone, load_tokenizer, save_model
from xbridge.training import train

pytestmark = pytest.mark.slow
CODES = {
    "mbart50": ["en_XX", "de_DE", "es_XX", "af_ZA"],
    "mbart25": ["en_XX", "de_DE", "es_XX"],
    "m2m100": ["__en__", "__de__", "__es__"],
    "nllb": ["eng_Latn", "deu_Latn", "spa_Latn"],
    "marian-multilingual": [">>eng<<", ">>deu<<", ">>spa<<"],
}
SHAPE = {
    "d_model": 48, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "init_std": 0.15, "scale_embedding": True,
    "dropout": 0.0, "attention_dropout": 0.0, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0,
    "max_position_embeddings": 32, "pad_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def pretrained(folder, name, toy_tokenizer):
    """A random model of the family with the toy words and the family's language tokens."""
    tokenizer = without_codes(toy_tokenizer)
    tokenizer.add_special_tokens({"extra_special_tokens": CODES[name]})
    kinds = {"mbart": (hf.MBartConfig, hf.MBartForConditionalGeneration), "mari": (hf.MarianConfig, hf.MarianMTModel)}
    settings, kind = kinds.get(name[:4], kinds.get(name[:5], (hf.M2M100Config, hf.M2M100ForConditionalGeneration)))
    start = 1 if name.startswith("marian") else 2
    torch.manual_seed(0)
    save_model(kind(settings(**SHAPE, vocab_size=len(tokenizer), decoder_start_token_id=start)), tokenizer, folder)
    return folder


def without_codes(toy_tokenizer):
    """The toy words alone."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: index for word, index in toy_tokenizer.get_vocab().items() if index < 28}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        mask_token="<mask>",
    )  # fmt: skip


@pytest.mark.parametrize("name", CODES)
def test_eight_pairs_in_four_directions_are_learned_by_heart(inputs, tmp_path, toy_tokenizer, name):
    few = [row for row in read_rows(inputs.corpus / "bitext.parquet") if int(row["id"].split("-")[0]) < 8]
    write_table(tmp_path / "few" / "bitext.parquet", few)
    folder = pretrained(tmp_path / "pretrained", name, toy_tokenizer)
    settings = config(
        objective="translation", scratch=None, pretrained={"model": str(folder)}, batch_tokens=300,
        budget={"unit": "steps", "amount": 500}, validation_rows=0, save_every=0,
        optim={"lr": 5e-3, "warmup_steps": 20, "schedule": "linear"},
    )  # fmt: skip
    train.run(settings, replace(inputs, corpus=tmp_path / "few", tokenizer=None), tmp_path / "out")
    model, tokenizer = load_backbone(tmp_path / "out"), load_tokenizer(tmp_path / "out")
    conventions = conventions_for(model, tokenizer)
    assert conventions.family.name == name
    sides = [(row, *pair) for row in few for pair in (("source", "target"), ("target", "source"))]
    requests = [Request(row[source], row[f"{source}_lang"], row[f"{target}_lang"]) for row, source, target in sides]
    found = translate(model, tokenizer, conventions, requests, Search(max_new_tokens=10))
    assert found == [row[target] for row, _, target in sides]
