"""The tokenizer stage: a sentencepiece unigram vocabulary of the study's training text, or a pretrained tokenizer.

The vocabulary is trained by sentencepiece (Kudo, 2018) on text that our own normaliser has folded, and exported as a
`PreTrainedTokenizerFast` with that same normaliser: both cut text alike by construction. Ids: `<s>` 0, `<pad>` 1,
`</s>` 2, `<unk>` 3, then the pieces, `<mask>`, and one token per language code (`deu_Latn`). No special token is added
around a text; what stands where is the business of models/families.py.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from xbridge.core.config import InputPath
from xbridge.core.console import log
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import read_json, read_table, write_json
from xbridge.core.runtime import rng
from xbridge.data.cleaning import PLACEHOLDER
from xbridge.data.languages import language

VERSION = 1

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
_ROLES = {
    "bos_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "mask_token": "<mask>",
}
_NUM_THREADS = 2
"""Fixed: sentencepiece sums its statistics per thread, so another number could give another vocabulary."""
_NUM_MEASURED = 2000
"""Texts per language that the card's fertility and unknown rate are measured on."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to train, or which tokenizer to take."""

    vocab_size: int = 6000
    """Number of tokens with the four special ones, before `<mask>` and the language codes."""
    character_coverage: float = 0.9995
    """Share of the characters of the training text that get a piece of their own, 0.98 to 1."""
    texts_per_language: int = 8000
    """Training texts drawn per language, so that no language dominates the vocabulary."""
    lowercase: bool = True
    """Fold case: small corpora of interface text are sentence-cased, commands to a machine are not."""
    seed: int = 0
    """Draws the training texts."""
    extra_languages: tuple[str, ...] = ()
    """Codes to add besides the corpus' languages, for languages that only a task has."""
    pretrained: InputPath | None = None
    """A folder that `AutoTokenizer` loads, to be taken instead of training one: vocabulary, case and seed then rest."""
    language_codes: Literal["add", "keep"] = "add"
    """With `pretrained`: add missing codes such as deu_Latn, or keep its vocabulary (it has codes of its own)."""

    def __post_init__(self) -> None:
        for i, code in enumerate(self.extra_languages):
            language(code, f"extra_languages.{i}")
        if self.vocab_size < 100:
            raise ConfigError("vocab_size", "must be at least 100")
        if not 0.98 <= self.character_coverage <= 1:
            raise ConfigError("character_coverage", "must be 0.98 to 1")
        if self.texts_per_language < 1:
            raise ConfigError("texts_per_language", "must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the stage reads."""

    corpus: Path | None = None
    """A corpus folder; null only with `pretrained`."""


def run(config: Config, inputs: Inputs, out: Path) -> None:
    """Write `out/tokenizer/`, which `AutoTokenizer.from_pretrained` loads, and card.json."""
    texts = {} if inputs.corpus is None else _training_texts(inputs.corpus)
    codes = [*texts, *(code for code in config.extra_languages if code not in texts)]
    if config.pretrained is not None:
        tokenizer = _load_pretrained(Path(config.pretrained), codes if config.language_codes == "add" else [])
    elif not texts:
        raise UserError("corpus: a tokenizer is trained on a corpus; name one, or set `pretrained`")
    else:
        sample = _sample(texts, config.texts_per_language, config.seed)
        tokenizer = train(sample, codes, config)
    tokenizer.save_pretrained(str(out / "tokenizer"))
    card = _card(tokenizer, texts, config)
    write_json(out / "card.json", card)
    log("trained" if config.pretrained is None else "copied", tokens=len(tokenizer))


def _training_texts(corpus: Path) -> dict[str, list[str]]:
    """{language: training texts}, languages in the corpus' order."""
    table = read_table(corpus / "mono.parquet", ["split", "lang", "text"])
    texts: dict[str, list[str]] = {code: [] for code in read_json(corpus / "card.json")["languages"]}
    columns = (table[name].to_pylist() for name in ("split", "lang", "text"))
    for split, code, text in zip(*columns, strict=True):
        if split == "train":
            texts[code].append(text)
    return texts


def _sample(texts: dict[str, list[str]], count: int, seed: int) -> list[str]:
    """Up to `count` texts of every language; which ones depends on the seed, the language and the texts alone."""
    sample: list[str] = []
    for code, all_of_it in texts.items():
        draw = rng(seed, "tokenizer", code)
        sample.extend(draw.sample(all_of_it, count) if len(all_of_it) > count else all_of_it)
    return sample


def train(texts: Sequence[str], codes: Sequence[str], config: Config) -> Any:
    """A `PreTrainedTokenizerFast` trained on `texts`; the same texts in the same order give the same tokenizer."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=fast_tokenizer(train_sentencepiece(texts, config), lowercase=config.lowercase),
        **_ROLES,
        extra_special_tokens=list(codes),
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def train_sentencepiece(texts: Sequence[str], config: Config) -> bytes:
    """A serialised sentencepiece model of the normalised `texts`, ids as in the module's docstring."""
    import sentencepiece as spm

    fold = normalizer(lowercase=config.lowercase)
    model = io.BytesIO()
    try:
        spm.SentencePieceTrainer.train(
            sentence_iterator=(fold.normalize_str(text) for text in texts),
            model_writer=model,
            model_type="unigram",
            vocab_size=config.vocab_size,
            character_coverage=config.character_coverage,
            normalization_rule_name="identity",
            user_defined_symbols=[PLACEHOLDER],
            bos_id=0,
            pad_id=1,
            eos_id=2,
            unk_id=3,
            bos_piece="<s>",
            pad_piece="<pad>",
            eos_piece="</s>",
            unk_piece="<unk>",
            num_threads=_NUM_THREADS,
            shuffle_input_sentence=False,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ConfigError("vocab_size", _training_problem(str(error), config.vocab_size)) from None
    return model.getvalue()


def _training_problem(message: str, vocab_size: int) -> str:
    """One line for sentencepiece's two usual complaints, or its own words."""
    if limit := re.search(r"value <= (\d+)", message):
        return f"the corpus has too little text for {vocab_size} pieces; it allows at most {limit[1]}"
    if needed := re.search(r"required_chars\D*\d+ vs (\d+)", message):
        return f"{vocab_size} cannot hold the {needed[1]} characters to cover; raise it or lower `character_coverage`"
    return f"sentencepiece cannot train {vocab_size} pieces ({' '.join(message.split())})"


def normalizer(*, lowercase: bool) -> Any:
    """NFKC, lower case, single spaces: the normaliser of the tokenizer and of its training text."""
    from tokenizers import Regex, normalizers

    fold = [normalizers.Lowercase()] if lowercase else []
    return normalizers.Sequence(
        [normalizers.NFKC(), *fold, normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )


def fast_tokenizer(model: bytes, *, lowercase: bool) -> Any:
    """The `tokenizers` form of a sentencepiece unigram model, piece by piece with the same ids and scores."""
    import sentencepiece as spm
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = spm.SentencePieceProcessor(model_proto=model)
    vocabulary = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(pieces.get_piece_size())]
    assert tuple(piece for piece, _ in vocabulary[:4]) == SPECIAL_TOKENS
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    return tokenizer


def _load_pretrained(folder: Path, codes: Sequence[str]) -> Any:
    """The tokenizer in `folder`, with the `codes` that it does not have added behind its vocabulary."""
    from transformers import AutoTokenizer

    if not folder.is_dir():
        raise UserError(f"pretrained: {folder}: no such folder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"pretrained: {folder}: AutoTokenizer cannot load it ({str(error).splitlines()[0]})") from None
    known = tokenizer.get_vocab()
    missing = [code for code in codes if code not in known]
    if missing:
        tokenizer.add_special_tokens({"extra_special_tokens": missing}, replace_extra_special_tokens=False)
    return tokenizer


def _card(tokenizer: Any, texts: dict[str, list[str]], config: Config) -> dict[str, Any]:
    """Size, and per language on a fixed sample: tokens per text and per word, and the share of unknown tokens."""
    from xbridge.data.tokens import encode

    languages = {}
    for code, all_of_it in texts.items():
        draw = rng(config.seed, "card", code)
        sample = draw.sample(all_of_it, _NUM_MEASURED) if len(all_of_it) > _NUM_MEASURED else all_of_it
        if not sample:
            continue
        ids = encode(tokenizer, sample).ids
        num_words = sum(len(text.split()) for text in sample)
        languages[code] = {
            "tokens_per_text": len(ids) / len(sample),
            "characters_per_token": sum(map(len, sample)) / max(len(ids), 1),
            "tokens_per_word": len(ids) / max(num_words, 1) if language(code).is_spaced else None,
            "unknown_rate": float((ids == tokenizer.unk_token_id).mean()) if len(ids) else 0.0,
        }
    return {
        "kind": "sentencepiece unigram" if config.pretrained is None else "pretrained",
        "vocab_size": len(tokenizer),
        "lowercase": config.lowercase if config.pretrained is None else None,
        "languages": languages,
    }
