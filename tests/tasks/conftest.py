"""A tiny model with a tokenizer of its own, and toy task data in three languages."""

from pathlib import Path

import pytest

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
def tiny_model(save_tiny_mbart, tmp_path_factory) -> Path:
    """A train folder with a tiny model and a tokenizer of these texts."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=160, special_tokens=specials, unk_token="<unk>", show_progress=False, shrinking_factor=0.5
    )
    tokenizer.train_from_iterator([row["text"] for row in toy_rows()], trainer)
    return save_tiny_mbart(tokenizer, COLOURS, tmp_path_factory.mktemp("tiny"))


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
