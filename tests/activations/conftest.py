"""A tiny model folder and sentences in three languages."""

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
