"""What differs between families of multilingual models: language tokens, sequence layouts, encoder states.

A layout is a template of symbols around the text. The whole decoder sequence is `target_prefix X </s>`: its prefix is
given to the decoder, in training and in generation, and the first scored prediction is X's first token. So mBART-50
(Tang et al., 2020) reads source `[lang] X </s>` and decodes `</s> [lang] X </s>`; the label at the language code is
never scored. Internal codes (`deu_Latn`) are mapped to a family's own tokens here and nowhere else.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from xbridge.core.errors import UserError
from xbridge.data.languages import from_tag

if TYPE_CHECKING:
    from torch import Tensor, nn

Symbol = Literal["language", "eos", "pad"]


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

    def _ids(self, symbols: Sequence[Symbol], language: str) -> list[int]:
        values = {"eos": self.eos, "pad": self.pad}
        return [self.language_id(language) if symbol == "language" else values[symbol] for symbol in symbols]


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


def encode_source(
    texts: Sequence[str], language: str, tokenizer: Any, conventions: Conventions, *, max_tokens: int
) -> dict[str, "Tensor"]:
    """Source sequences of `texts`, cut after `max_tokens` text tokens: `input_ids`, `attention_mask` (n, width)."""
    import torch

    before, after = conventions.source(language)
    rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    rows = [before + row[:max_tokens] + after for row in rows]
    width = max(map(len, rows), default=0)
    input_ids = torch.full((len(rows), width), conventions.pad)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = torch.tensor(row)
    lengths = torch.tensor([len(row) for row in rows])
    return {"input_ids": input_ids, "attention_mask": (torch.arange(width) < lengths[:, None]).long()}


def num_encoder_layers(model: "nn.Module") -> int:
    """L; the sites are `encoder.0` (embeddings) .. `encoder.L` (what the decoder reads)."""
    config: Any = model.config
    return int(getattr(config, "encoder_layers", None) or config.num_hidden_layers)


def encode(model: "nn.Module", input_ids: "Tensor", attention_mask: "Tensor") -> list["Tensor"]:
    """Encoder states of every site, L + 1 tensors (batch, len, d); the last has the final layer norm."""
    whole: Any = model
    encoder = whole.get_encoder() if whole.config.is_encoder_decoder else whole.base_model
    output = encoder(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
    return [*output.hidden_states[:-1], output.last_hidden_state]


def generate(
    model: "nn.Module",
    tokenizer: Any,
    conventions: Conventions,
    texts: Sequence[str],
    *,
    source_lang: str,
    target_lang: str,
    max_tokens: int,
    batch_size: int = 64,
    num_beams: int = 1,
) -> list[str]:
    """Translations of `texts`, in their order. Greedy (num_beams 1) or beam search, at most `max_tokens` new tokens."""
    import torch

    whole: Any = model
    prefix, _ = conventions.target(target_lang)
    device = next(model.parameters()).device
    order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))
    results = [""] * len(texts)
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = encode_source(
                [texts[i] for i in chosen], source_lang, tokenizer, conventions, max_tokens=max_tokens
            )
            output = whole.generate(
                **{name: tensor.to(device) for name, tensor in batch.items()},
                decoder_input_ids=torch.tensor([prefix] * len(chosen), device=device),
                max_new_tokens=max_tokens,
                num_beams=num_beams,
                do_sample=False,
                forced_bos_token_id=None,
                forced_eos_token_id=None,
                eos_token_id=conventions.eos,
                pad_token_id=conventions.pad,
            )
            decoded = tokenizer.batch_decode(output[:, len(prefix) :], skip_special_tokens=True)
            for index, text in zip(chosen, decoded, strict=True):
                results[index] = text.strip()
    model.train(was_training)
    return results


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
