"""A toy corpus and tokenizer for the parts that train: words are tokens, ids can be worked out by hand."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tiny tensors on threads that wait for each other are slow

import pyarrow as pa
import pytest

from xbridge.core.files import write_table

LANGUAGES = ("eng_Latn", "deu_Latn", "spa_Latn")
WORDS = {
    "eng_Latn": ["one", "two", "three", "four", "five", "six", "seven", "eight"],
    "deu_Latn": ["eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht"],
    "spa_Latn": ["uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho"],
}


@pytest.fixture(scope="session")
def toy_tokenizer():
    """<s> 0, <pad> 1, </s> 2, <unk> 3, then 24 words from 4 on, <mask> 28, the three codes 29, 30, 31."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "<pad>", "</s>", "<unk>", *(word for language in LANGUAGES for word in WORDS[language])]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        mask_token="<mask>", extra_special_tokens=list(LANGUAGES),
    )  # fmt: skip
    assert tokenizer.convert_tokens_to_ids(["<pad>", "one", "ocho", "<mask>", "eng_Latn"]) == [1, 4, 27, 28, 29]
    return tokenizer


@pytest.fixture(scope="session")
def toy_tokenizer_folder(toy_tokenizer, tmp_path_factory):
    """The tokenizer as a tokenizer stage leaves it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    toy_tokenizer.save_pretrained(folder / "tokenizer")
    return folder


def toy_pairs(count, *, seed=0):
    """`count` distinct strings of 2-6 number words, in every language."""
    from xbridge.core.runtime import rng

    random = rng("toy", seed)
    strings: dict[tuple[int, ...], None] = {}
    while len(strings) < count:
        strings[tuple(random.randrange(8) for _ in range(random.randint(2, 6)))] = None
    return [{lang: " ".join(WORDS[lang][n] for n in numbers) for lang in LANGUAGES} for numbers in strings]


@pytest.fixture(scope="session")
def toy_corpus(tmp_path_factory):
    """A corpus stage's bitext.parquet and mono.parquet: 60 training and 12 dev strings in three languages."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = [(("train" if index < 60 else "dev"), text) for index, text in enumerate(toy_pairs(72))]
    bitext = [
        {"id": f"{index}-{lang}", "split": split, "source_lang": "eng_Latn", "target_lang": lang,
         "source": text["eng_Latn"], "target": text[lang]}
        for lang in LANGUAGES[1:] for index, (split, text) in enumerate(rows)
    ]  # fmt: skip
    mono = [{"split": split, "lang": lang, "text": text[lang]} for lang in LANGUAGES for split, text in rows]
    write_table(folder / "bitext.parquet", pa.Table.from_pylist(bitext))
    write_table(folder / "mono.parquet", pa.Table.from_pylist(mono))
    return folder


@pytest.fixture(scope="session")
def save_tiny_mbart():
    """A function that writes a train folder: MBart, two layers, 32 dimensions, random weights, no dropout."""
    import torch
    from transformers import MBartConfig, MBartForConditionalGeneration, PreTrainedTokenizerFast

    from xbridge.models.loading import save_model

    def save(tokenizer, languages, folder):
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token="<s>",
            pad_token="<pad>",
            eos_token="</s>",
            unk_token="<unk>",
            extra_special_tokens=[*languages],
        )
        config = MBartConfig(
            vocab_size=len(fast), d_model=32, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=64,
            decoder_ffn_dim=64, encoder_attention_heads=2, decoder_attention_heads=2, dropout=0.0,
            scale_embedding=True, init_std=0.18, max_position_embeddings=64, bos_token_id=0, pad_token_id=1,
            eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=None,
        )  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = MBartForConditionalGeneration(config)
        save_model(model, fast, folder / "model")
        return folder

    return save


@pytest.fixture(scope="session")
def train_file(toy_corpus, toy_tokenizer_folder, tmp_path_factory):
    """A function that writes a YAML for `xbridge train`: denoising without dropout or validation, changed as told."""
    from tiny_training import DEFAULTS, TINY

    from xbridge.core.config import dump_yaml

    def write(steps=10, **changes):
        settings = {
            **DEFAULTS,
            "inputs": {"corpus": str(toy_corpus), "tokenizer": str(toy_tokenizer_folder)},
            "scratch": {**TINY, "dropout": 0.0},  # dropout masks are drawn per rank
            "budget": {"unit": "steps", "amount": steps},
            "validation_rows": 0,
            "validate_every": 0,
            "save_every": 10,
            **changes,
        }
        path = tmp_path_factory.mktemp("config") / "train.yaml"
        path.write_text(dump_yaml(settings), encoding="utf-8")
        return path

    return write
