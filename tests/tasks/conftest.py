"""A tiny model with a tokenizer of its own, and toy task data in three languages."""

from pathlib import Path

import pytest
import torch

from xbridge.core.files import write_table

COLOURS = {"eng_Latn": ["red", "blue", "green"], "deu_Latn": ["rot", "blau", "grün"], "zho_Hans": ["红", "蓝", "绿"]}
TEMPLATES = {
    "eng_Latn": [("on", "turn on the {} light"), ("off", "turn off the {} light"), ("ask", "is the {} light on")],
    "deu_Latn": [
        ("on", "schalte das Licht {} an"),
        ("off", "schalte das Licht {} aus"),
        ("ask", "ist das Licht {} an"),
    ],
    "zho_Hans": [("on", "打 开 {} 灯"), ("off", "关 闭 {} 灯"), ("ask", "{} 灯 开 了 吗")],
}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A train folder: MBart with two layers and 32 dimensions, random weights, no dropout."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import MBartConfig, MBartForConditionalGeneration, PreTrainedTokenizerFast

    from xbridge.models.loading import save_model

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=160, special_tokens=specials, unk_token="<unk>", show_progress=False, shrinking_factor=0.5
    )
    tokenizer.train_from_iterator([row["text"] for row in toy_rows()], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=[*COLOURS],
    )
    config = MBartConfig(
        vocab_size=len(fast), d_model=32, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
        encoder_attention_heads=2, decoder_attention_heads=2, dropout=0.0, scale_embedding=True, init_std=0.18,
        max_position_embeddings=32, bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2,
        forced_eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MBartForConditionalGeneration(config)
    folder: Path = tmp_path_factory.mktemp("tiny")
    save_model(model, fast, folder / "model")
    return folder


def toy_rows(lang=None):
    """Rows of an examples.parquet: an intent label, and the colour as a span."""
    rows = []
    for code in COLOURS if lang is None else [lang]:
        space = "" if code == "zho_Hans" else " "
        for split in ("train", "test") if code == "eng_Latn" else ("test",):
            for t, (label, template) in enumerate(TEMPLATES[code]):
                for c, colour in enumerate(COLOURS[code]):
                    words = template.format(colour).split()
                    rows.append(
                        {
                            "id": f"{split}-{t}-{c}",
                            "split": split,
                            "lang": code,
                            "text": space.join(words),
                            "label": label,
                            "words": words,
                            "tags": ["B-colour" if word == colour else "O" for word in words],
                            "group": str(t),
                        }
                    )
    return rows


@pytest.fixture
def toy_data(tmp_path) -> Path:
    """A taskdata folder."""
    write_table(tmp_path / "data" / "examples.parquet", toy_rows())
    return tmp_path / "data"


@pytest.fixture
def write_toy(tmp_path):
    """Write a taskdata folder from rows that a test has changed."""

    def write(change=lambda row: row):
        rows = [changed for row in toy_rows() if (changed := change(dict(row))) is not None]
        write_table(tmp_path / "changed" / "examples.parquet", rows)
        return tmp_path / "changed"

    return write
