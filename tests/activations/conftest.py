"""A tiny model folder and sentences in three languages."""

from pathlib import Path

import pytest
import torch

from xbridge.core.files import write_table

SENTENCES = {
    "eng_Latn": ["turn on the light", "open the door please", "no", "is the kitchen window open now"],
    "deu_Latn": ["mach das Licht an", "bitte öffne die Tür", "nein", "ist das Küchenfenster jetzt offen"],
    "zho_Hans": ["打开灯", "请开门", "不", "厨房的窗户现在开着吗"],
}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A train folder: MBart with two layers and 32 dimensions, random weights, no dropout."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import MBartConfig, MBartForConditionalGeneration, PreTrainedTokenizerFast

    from xbridge.models.loading import save_model

    specials = ["<s>", "<pad>", "</s>", "<unk>", "▁"]
    letters = sorted({letter for texts in SENTENCES.values() for text in texts for letter in text if letter != " "})
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in [*specials, *letters]], unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=[*SENTENCES],
    )
    config = MBartConfig(
        vocab_size=len(fast), d_model=32, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
        encoder_attention_heads=2, decoder_attention_heads=2, dropout=0.0, scale_embedding=True, init_std=0.18,
        max_position_embeddings=64, bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2,
        forced_eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MBartForConditionalGeneration(config)
    folder: Path = tmp_path_factory.mktemp("tiny")
    save_model(model, fast, folder / "model")
    return folder


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
