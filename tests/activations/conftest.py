"""Tiny model folders of three architectures, with two tokenizers, and sentences in three languages."""

from pathlib import Path

import pytest

from xbridge.core.files import write_table

SENTENCES = {
    "eng_Latn": ["turn on the light", "open the door please", "no", "is the kitchen window open now"],
    "deu_Latn": ["mach das Licht an", "bitte öffne die Tür", "nein", "ist das Küchenfenster jetzt offen"],
    "zho_Hans": ["打开灯", "请开门", "不", "厨房的窗户现在开着吗"],
}


@pytest.fixture(scope="session")
def tiny_model(save_tiny_mbart, tmp_path_factory) -> Path:
    """A train folder with a tiny model and a tokenizer of these texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    specials = ["<s>", "<pad>", "</s>", "<unk>", "▁"]
    letters = sorted({letter for texts in SENTENCES.values() for text in texts for letter in text if letter != " "})
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in [*specials, *letters]], unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    return save_tiny_mbart(tokenizer, SENTENCES, tmp_path_factory.mktemp("tiny"))


def byte_tokenizer(template):
    """Byte-level BPE with merges over these texts: other pieces than the letters of `tiny_model`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=specials,
        show_progress=False,
    )
    backend.train_from_iterator([text for texts in SENTENCES.values() for text in texts], trainer)
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 0), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def save_tiny(kind, settings, tokenizer, folder, scale=8.0):
    """`scale`: of the initial weights, so that layers differ as those of a trained model do."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

    from xbridge.models.loading import save_model

    config = AutoConfig.for_model(
        kind, vocab_size=len(tokenizer), bos_token_id=0, pad_token_id=1, eos_token_id=2, **settings
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        loader = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModel
        model = loader.from_config(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.mul_(scale)
    save_model(model, tokenizer, folder)
    return folder


SHAPE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="session")
def tiny_roberta(tmp_path_factory) -> Path:
    """An encoder without language tokens: <s> X </s>, 46 positions of which 2 are reserved."""
    settings = {**SHAPE, "max_position_embeddings": 46}
    return save_tiny("xlm-roberta", settings, byte_tokenizer("<s> $A </s>"), tmp_path_factory.mktemp("roberta"))


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory) -> Path:
    """A decoder alone: <s> X."""
    settings = {**SHAPE, "max_position_embeddings": 64, "num_key_value_heads": 2}
    return save_tiny("llama", settings, byte_tokenizer("<s> $A"), tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory) -> Path:
    """An encoder-decoder without language tokens: X </s>, its decoder starts with <pad>."""
    settings = {"d_model": 24, "d_kv": 12, "d_ff": 32, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 1}
    return save_tiny("mt5", settings, byte_tokenizer("$A </s>"), tmp_path_factory.mktemp("t5"), scale=1.0)


@pytest.fixture
def corpus(tmp_path) -> Path:
    """A corpus folder with an n-way table, languages in different row order."""
    rows = [
        {"id": f"s{i}", "lang": lang, "text": text}
        for lang, texts in SENTENCES.items()
        for i, text in (enumerate(texts) if lang == "eng_Latn" else reversed(list(enumerate(texts))))
    ]
    write_table(tmp_path / "corpus" / "nway.parquet", rows)
    return tmp_path / "corpus"
