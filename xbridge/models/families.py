"""What differs between families of multilingual models: language tokens and sequence layouts.

A layout is a template of symbols around the text. The whole decoder sequence is `target_prefix Y </s>`: its prefix is
given to the decoder, in training and in generation, and the first scored prediction is Y's first token. So mBART-50
(Tang et al., 2020) reads source `[lang] X </s>` and decodes `</s> [lang] Y </s>`; the label at the language code is
never scored. A decoder-only model reads both texts in one sequence, `source_prefix X between Y </s>`, and an encoder
two texts as `source_prefix X between Y source_suffix`. Internal codes (`deu_Latn`) are mapped to a family's own tokens
here and nowhere else. A model of a type without a row has no language tokens; its texts stand as its tokenizer's own
template puts them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from xbridge.core.errors import UserError
from xbridge.data.languages import LANGUAGES, from_tag
from xbridge.models.sites import is_causal

if TYPE_CHECKING:
    from torch import nn

Kind = Literal["encoder-decoder", "encoder", "decoder"]
Symbol = Literal["language", "target", "prompt", "before", "after", "eos", "sep", "cls", "pad"] | int
"""`language`: the text's own token. In a source, `target`: the token of the language it is translated into; `prompt`:
a text that names both. `before`, `after`: what the tokenizer itself puts around a text. A number is an id."""

PROMPT = "translate {source} to {target}:"  # T5's own prefix (Raffel et al., 2020, appendix D); mT5 learned none
OWN_CODE = r"([a-z]{3}_[A-Z][a-z]{3}(?:_[A-Z]{2})?)"
LOCALE_CODE = r"([a-z]{2,3}_[A-Z]{2})"


@dataclass(frozen=True, kw_only=True)
class Family:
    """One row of the table."""

    name: str
    model_types: tuple[str, ...]
    """`config.model_type` of its checkpoints."""
    kind: Kind = "encoder-decoder"
    """Which stacks it has."""
    code: str = ""
    """Regular expression of its language tokens; group 1 is a code that data/languages.py knows."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Its codes that mean something else, or nothing, in data/languages.py."""
    source_prefix: tuple[Symbol, ...] = ()
    source_suffix: tuple[Symbol, ...] = ()
    target_prefix: tuple[Symbol, ...] = ()
    """Decoder start, then what is forced after it."""
    between: tuple[Symbol, ...] = ()
    """What stands between two texts in one sequence."""
    marker: str = ""
    """A token that only this family's vocabulary has, where another family of the same type has the same codes."""
    mask: str = ""
    """The token that stands for a removed span, where its tokenizers name no mask token."""

    @property
    def has_language_tokens(self) -> bool:
        """True where a layout has a place for a language's token."""
        symbols = (*self.source_prefix, *self.source_suffix, *self.target_prefix)
        return "language" in symbols or "target" in symbols


_T5 = {"source_prefix": ("prompt",), "source_suffix": ("eos",), "target_prefix": ("pad",), "mask": "<extra_id_0>"}
_NLLB: Mapping[str, Any] = {
    "code": OWN_CODE, "source_prefix": ("language",), "source_suffix": ("eos",), "target_prefix": ("eos", "language"),
}  # fmt: skip
_ENCODER: Mapping[str, Any] = {"kind": "encoder", "source_prefix": ("before",), "source_suffix": ("after",)}

FAMILIES = (
    Family(name="own", model_types=("mbart",), **_NLLB),  # our tokenizer
    Family(name="nllb", model_types=("m2m_100", "nllb-moe"), **_NLLB),  # whatever `legacy_behaviour` the tokenizer has
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
        source_suffix=("eos", "language"),
        target_prefix=("language",),
    ),
    Family(
        name="m2m100",
        model_types=("m2m_100",),
        code=r"__([a-z]{2,3})__",
        aliases={"no": "nob_Latn", "ns": "nso_Latn"},
        source_prefix=("language",),
        source_suffix=("eos",),
        target_prefix=("eos", "language"),
    ),
    Family(
        name="marian-multilingual",  # several target languages: the source says which
        model_types=("marian",),
        code=r">>([a-zA-Z_]+)<<",
        source_prefix=("target",),
        source_suffix=("eos",),
        target_prefix=("pad",),
    ),
    Family(name="marian", model_types=("marian",), source_suffix=("eos",), target_prefix=("pad",)),
    Family(name="t5", model_types=("t5", "mt5", "umt5"), **_T5),  # type: ignore[arg-type]
    Family(name="mbert", model_types=("bert", "distilbert"), between=("sep",), **_ENCODER),
    Family(name="xlm-r", model_types=("xlm-roberta", "xlm-roberta-xl", "roberta"), between=("sep", "sep"), **_ENCODER),
    Family(
        name="attached",  # an encoder with a decoder that models/attaching.py gave it
        model_types=("encoder-decoder",),
        code=OWN_CODE,
        source_prefix=("before",),
        source_suffix=("after",),
        target_prefix=("cls", "language"),
    ),
)

OTHERS: Mapping[Kind, Family] = {
    "encoder": Family(name="template", model_types=(), between=("after",), **_ENCODER),
    "decoder": Family(  # XGLM puts </s> before a text, Llama <s>, GPT-2 nothing
        name="causal",
        model_types=(),
        kind="decoder",
        source_prefix=("before", "prompt"),
        source_suffix=("after",),
        between=("eos",),
    ),
    "encoder-decoder": Family(
        name="template", model_types=(), source_prefix=("before",), source_suffix=("after",)
    ),
}  # fmt: skip
"""What a model of a type without a row is taken for; its decoder starts as its config says."""


@dataclass(frozen=True)
class Conventions:
    """A family together with one vocabulary. Ids are the tokenizer's."""

    family: Family
    languages: Mapping[str, int]
    """Internal code -> id of the language token."""
    eos: int
    pad: int
    mask: int | None
    around: tuple[Sequence[int], Sequence[int]] = ((), ())
    """What the tokenizer itself puts before and after a text."""
    tokenizer: Any = None
    """Where the prompt and the other symbols come from."""
    prompt: str = PROMPT
    """Text before a source, with {source} and {target} for the English names of the languages."""
    direction: tuple[str | None, str | None] = (None, None)
    """Source and target of a model that translates one way only, as far as its tokenizer says."""

    def source(self, language: str, target: str | None = None) -> tuple[list[int], list[int]]:
        """Ids before and after a source text.

        target: the language it is translated into; None = read only, without a prompt or the target's token.
        """
        family = self.family
        return self._ids(family.source_prefix, language, target), self._ids(family.source_suffix, language, target)

    def target(self, language: str) -> tuple[list[int], list[int]]:
        """Ids before and after a target text in the decoder's whole sequence; those before are given, not scored."""
        return self._ids(self.family.target_prefix, language, None), [self.eos]

    def between(self) -> list[int]:
        """Ids between two texts in one sequence."""
        return self._ids(self.family.between, "", None)

    def language_id(self, language: str) -> int:
        """Id of a language's token; `UserError` for a language that the vocabulary does not have."""
        if language not in self.languages:
            known = ", ".join(sorted(self.languages))
            raise UserError(f"{language}: the tokenizer has no token for this language; it has {known}")
        return self.languages[language]

    def check_language(self, language: str) -> None:
        """`UserError` for a language that the layout has a token for and the vocabulary has not."""
        if self.family.has_language_tokens:
            self.language_id(language)

    def num_around(self) -> int:
        """Most tokens that stand around a text in the encoder, or before it in the decoder; a prompt not counted."""
        symbols = (*self.family.source_prefix, *self.family.source_suffix)
        num = {"prompt": 0, "before": len(self.around[0]), "after": len(self.around[1])}
        return max(sum(num.get(str(symbol), 1) for symbol in symbols), len(self.family.target_prefix))

    def _ids(self, symbols: Sequence[Symbol], language: str, target: str | None) -> list[int]:
        return [token for symbol in symbols for token in self._tokens(symbol, language, target)]

    def _tokens(self, symbol: Symbol, language: str, target: str | None) -> Sequence[int]:
        if isinstance(symbol, int):
            return [symbol]
        if symbol == "language":
            return [self.language_id(language)]
        if symbol == "target":
            return [] if target is None else [self.language_id(target)]
        if symbol == "prompt":
            return [] if target is None else self._prompt(language, target)
        if symbol in ("before", "after"):
            return self.around[symbol == "after"]
        found = {"eos": self.eos, "pad": self.pad}.get(symbol, getattr(self.tokenizer, f"{symbol}_token_id", None))
        if found is None:
            raise UserError(
                f"this {type(self.tokenizer).__name__} has no {symbol}_token, which {self.family.name} needs"
            )
        return [found]

    def _prompt(self, source: str, target: str) -> list[int]:
        names = {role: LANGUAGES[code].name for role, code in (("source", source), ("target", target))}
        ids: list[int] = self.tokenizer(self.prompt.format(**names).rstrip(), add_special_tokens=False)["input_ids"]
        return ids


def conventions_of(model_type: str, tokenizer: Any, prompt: str = PROMPT) -> Conventions:
    """The conventions of a model type and its tokenizer; `UserError` where no family fits."""
    vocabulary: dict[str, int] = {**tokenizer.get_vocab(), **getattr(tokenizer, "lang_token_to_id", {})}  # M2M-100's
    for family in FAMILIES:
        if model_type not in family.model_types or (family.marker and family.marker not in vocabulary):
            continue
        languages = _languages(family, vocabulary)
        if languages or not family.has_language_tokens:
            return _conventions(family, tokenizer, prompt, languages)
    names = ", ".join(sorted({kind for family in FAMILIES for kind in family.model_types}))
    raise UserError(
        f"a model of type {model_type!r} with this tokenizer has no known language tokens; "
        f"known types: {names}; their tokens look like deu_Latn, de_DE, __de__ or >>deu<<"
    )


def conventions_for(model: "nn.Module", tokenizer: Any) -> Conventions:
    """The conventions of a model: its family's, or for a type that no family has its tokenizer's template."""
    whole: Any = model
    prompt = getattr(whole.config, "translation_prompt", None) or PROMPT
    if any(whole.config.model_type in family.model_types for family in FAMILIES):
        return conventions_of(whole.config.model_type, tokenizer, prompt)
    kind: Kind = "encoder-decoder" if whole.config.is_encoder_decoder else _kind_of_stack(whole.config)
    family = OTHERS[kind]
    if kind == "encoder-decoder":
        family = replace(family, target_prefix=(_decoder_start(whole),))
    return _conventions(family, tokenizer, prompt, {})


def decoder_start_of(model: Any) -> int | None:
    """The id that a model's files say its decoder starts with, if they do."""
    for place in (model.config, model.generation_config):
        found: int | None = getattr(place, "decoder_start_token_id", None)
        if found is not None:
            return found
    return None


def around_text(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids that the tokenizer puts before and after a text."""
    text = "a"
    bare, whole = tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer(text)["input_ids"]
    for start in range(len(whole) - len(bare) + 1):
        if bare and whole[start : start + len(bare)] == bare:
            return list(whole[:start]), list(whole[start + len(bare) :])
    raise UserError(f"this {type(tokenizer).__name__} does not keep a text together between its special tokens")


def _conventions(family: Family, tokenizer: Any, prompt: str, languages: Mapping[str, int]) -> Conventions:
    ends = [getattr(tokenizer, f"{name}_token_id", None) for name in ("eos", "sep", "pad")]
    eos = next((token for token in ends if token is not None), 0)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos
    mask = tokenizer.mask_token_id
    if mask is None and family.mask:
        mask = tokenizer.get_vocab().get(family.mask)
    uses_template = "before" in family.source_prefix or "after" in family.source_suffix
    return Conventions(
        family,
        languages,
        eos,
        pad,
        mask,
        around_text(tokenizer) if uses_template else ((), ()),
        tokenizer,
        prompt,
        (None, None) if family.has_language_tokens else _direction(tokenizer),
    )


def _direction(tokenizer: Any) -> tuple[str | None, str | None]:
    """Marian's tokenizers say which one way their model translates; `mul` and the like are no language."""
    tags = (getattr(tokenizer, f"{side}_lang", None) for side in ("source", "target"))
    source, target = (from_tag(tag) if isinstance(tag, str) else None for tag in tags)
    return source.code if source else None, target.code if target else None


def _kind_of_stack(config: Any) -> Kind:
    return "decoder" if is_causal(config) else "encoder"


def _decoder_start(model: Any) -> int:
    start = decoder_start_of(model)
    if start is None:
        raise UserError(
            f"a model of type {model.config.model_type!r} that does not say what its decoder starts with; "
            "set decoder_start_token_id in its config.json"
        )
    return start


def _languages(family: Family, vocabulary: Mapping[str, int]) -> dict[str, int]:
    if not family.code:
        return {}
    pattern = re.compile(family.code)
    found: dict[str, int] = {}
    for token, index in sorted(vocabulary.items(), key=lambda item: (len(item[0]), item[1])):  # es before es_AR
        match = pattern.fullmatch(token)
        if match is None:
            continue
        if family.code == OWN_CODE:
            found[token] = index
        elif match[1] in family.aliases:
            found[family.aliases[match[1]]] = index
        elif (known := from_tag(match[1])) is not None:
            found.setdefault(known.code, index)
    return found
