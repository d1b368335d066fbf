"""What differs between families of multilingual models: language tokens and sequence layouts.

A layout is a template of symbols around the text. The whole decoder sequence is `target_prefix X </s>`: its prefix is
given to the decoder, in training and in generation, and the first scored prediction is X's first token. So mBART-50
(Tang et al., 2020) reads source `[lang] X </s>` and decodes `</s> [lang] X </s>`; the label at the language code is
never scored. Internal codes (`deu_Latn`) are mapped to a family's own tokens here and nowhere else. A model of
another type has no language tokens; its texts stand as its tokenizer's own template puts them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from xbridge.core.errors import UserError
from xbridge.data.languages import from_tag

if TYPE_CHECKING:
    from torch import Tensor, nn

Symbol = Literal["language", "eos", "pad"] | int  # a number is a token id of the vocabulary


@dataclass(frozen=True, kw_only=True)
class Family:
    """One row of the table."""

    name: str
    model_types: tuple[str, ...]
    """`config.model_type` of its checkpoints."""
    code: str
    """Regular expression of its language tokens; group 1 is a code that data/languages.py knows."""
    source_prefix: tuple[Symbol, ...]
    source_suffix: tuple[Symbol, ...]
    target_prefix: tuple[Symbol, ...]
    """Decoder start, then what is forced after it."""
    marker: str = ""
    """A token that only this family's vocabulary has, where another family of the same type has the same codes."""


OWN_CODE = r"([a-z]{3}_[A-Z][a-z]{3}(?:_[A-Z]{2})?)"
LOCALE_CODE = r"([a-z]{2,3}_[A-Z]{2})"

FAMILIES = (
    Family(
        name="own",  # our tokenizer, and NLLB-200, which has the same codes and layout
        model_types=("mbart", "m2m_100"),
        code=OWN_CODE,
        source_prefix=("language",),
        source_suffix=("eos",),
        target_prefix=("eos", "language"),
    ),
    Family(
        name="mbart50",
        model_types=("mbart",),
        code=LOCALE_CODE,
        source_prefix=("language",),
        source_suffix=("eos",),
        target_prefix=("eos", "language"),
        marker="af_ZA",
    ),
    Family(
        name="mbart25",
        model_types=("mbart",),
        code=LOCALE_CODE,
        source_prefix=(),
        source_suffix=("eos", "language"),
        target_prefix=("language",),
    ),
    Family(
        name="m2m100",
        model_types=("m2m_100",),
        code=r"__([a-z]{2,3})__",
        source_prefix=("language",),
        source_suffix=("eos",),
        target_prefix=("eos", "language"),
    ),
)


@dataclass(frozen=True)
class Conventions:
    """A family together with one vocabulary. Ids are the tokenizer's."""

    family: Family
    languages: Mapping[str, int]
    """Internal code -> id of the language token."""
    eos: int
    pad: int
    mask: int | None

    def source(self, language: str) -> tuple[list[int], list[int]]:
        """Ids before and after a source text."""
        return self._ids(self.family.source_prefix, language), self._ids(self.family.source_suffix, language)

    def target(self, language: str) -> tuple[list[int], list[int]]:
        """Ids before and after a target text in the decoder's whole sequence; those before are given, not scored."""
        return self._ids(self.family.target_prefix, language), [self.eos]

    def language_id(self, language: str) -> int:
        """Id of a language's token; `UserError` for a language that the vocabulary does not have."""
        if language not in self.languages:
            known = ", ".join(sorted(self.languages))
            raise UserError(f"{language}: the tokenizer has no token for this language; it has {known}")
        return self.languages[language]

    def check_language(self, language: str) -> None:
        """`UserError` for a language that the layout has a token for and the vocabulary has not."""
        if "language" in (*self.family.source_prefix, *self.family.source_suffix, *self.family.target_prefix):
            self.language_id(language)

    def num_around(self) -> int:
        """Most tokens that stand around a text in the encoder, or before it in the decoder."""
        return max(len(self.family.source_prefix) + len(self.family.source_suffix), len(self.family.target_prefix))

    def _ids(self, symbols: Sequence[Symbol], language: str) -> list[int]:
        return [symbol if isinstance(symbol, int) else self._id(symbol, language) for symbol in symbols]

    def _id(self, symbol: str, language: str) -> int:
        return self.language_id(language) if symbol == "language" else {"eos": self.eos, "pad": self.pad}[symbol]


def conventions_of(model_type: str, tokenizer: Any) -> Conventions:
    """The conventions of a model type and its tokenizer; `UserError` where no family fits."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    for family in FAMILIES:
        if model_type not in family.model_types or (family.marker and family.marker not in vocabulary):
            continue
        languages = _languages(family, vocabulary)
        if languages:
            return Conventions(
                family, languages, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.mask_token_id
            )
    names = ", ".join(sorted({kind for family in FAMILIES for kind in family.model_types}))
    raise UserError(
        f"a model of type {model_type!r} with this tokenizer has no known language tokens; "
        f"known types: {names}; their tokens look like deu_Latn, de_DE or __de__"
    )


def conventions_for(model: "nn.Module", tokenizer: Any) -> Conventions:
    """The conventions of a model: its family's, or for a type that no family has its tokenizer's template."""
    whole: Any = model
    if any(whole.config.model_type in family.model_types for family in FAMILIES):
        return conventions_of(whole.config.model_type, tokenizer)
    return template_of(whole, tokenizer)


def template_of(model: Any, tokenizer: Any) -> Conventions:
    """Conventions without language tokens: around a text stands what the tokenizer itself puts there."""
    before, after = _around_text(tokenizer)
    starts: list[int] = []
    if model.config.is_encoder_decoder:
        places = (model.config, model.generation_config)
        found = (getattr(place, "decoder_start_token_id", None) for place in places)
        starts = [token for token in found if token is not None]
        if not starts:
            raise UserError(
                f"a model of type {model.config.model_type!r} that does not say what its decoder starts with; "
                "set decoder_start_token_id in its config.json"
            )
    family = Family(
        name="template",
        model_types=(model.config.model_type,),
        code="",
        source_prefix=tuple(before),
        source_suffix=tuple(after),
        target_prefix=tuple(starts[:1]),
    )
    ends = [tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id]
    eos = next((token for token in ends if token is not None), 0)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos
    return Conventions(family, {}, eos, pad, tokenizer.mask_token_id)


def _around_text(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids that the tokenizer puts before and after a text."""
    text = "a"
    bare, whole = tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer(text)["input_ids"]
    for start in range(len(whole) - len(bare) + 1):
        if bare and whole[start : start + len(bare)] == bare:
            return list(whole[:start]), list(whole[start + len(bare) :])
    raise UserError(f"this {type(tokenizer).__name__} does not keep a text together between its special tokens")


def max_positions(model: "nn.Module") -> int:
    """Longest sequence in tokens, special tokens counted; 512 where the model has no limit of its own."""
    whole: Any = model
    positions = int(getattr(whole.config, "max_position_embeddings", None) or 512)
    table = getattr(getattr(whole.base_model, "embeddings", None), "position_embeddings", None)
    reserved = getattr(table, "padding_idx", None)  # RoBERTa numbers positions from here on
    return positions if reserved is None else positions - reserved - 1


def encode_source(
    texts: Sequence[str], languages: str | Sequence[str], tokenizer: Any, conventions: Conventions, *, max_tokens: int
) -> dict[str, "Tensor"]:
    """Source sequences of `texts`, cut after `max_tokens` text tokens: `input_ids`, `attention_mask` (n, width).

    languages: one for each text, or one for all.
    """
    import torch

    around = [
        conventions.source(lang) for lang in ([languages] * len(texts) if isinstance(languages, str) else languages)
    ]
    rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    rows = [before + row[:max_tokens] + after for row, (before, after) in zip(rows, around, strict=True)]
    width = max(map(len, rows), default=0)
    input_ids = torch.full((len(rows), width), conventions.pad)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = torch.tensor(row)
    lengths = torch.tensor([len(row) for row in rows])
    return {"input_ids": input_ids, "attention_mask": (torch.arange(width) < lengths[:, None]).long()}


def _languages(family: Family, vocabulary: Mapping[str, int]) -> dict[str, int]:
    pattern = re.compile(family.code)
    found: dict[str, int] = {}
    for token, index in sorted(vocabulary.items(), key=lambda item: item[1]):
        match = pattern.fullmatch(token)
        if match is None:
            continue
        if family.code == OWN_CODE:
            found[token] = index
        elif (known := from_tag(match[1])) is not None:
            found.setdefault(known.code, index)
    return found
