"""Stage: states of held-out sentences at the sites of a model, for later analysis, or only their second moments.

Rows are aligned by id: in the table `nway` (strings that all languages have) row i is the same string in every
language; in the table `examples` (a task's test sentences) each language has its own, with labels. Several processes
(torchrun, accelerate, srun) each take a run of sentences. An interrupted run goes on where it was.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from xbridge.activations.sentences import Sentences, load_sentences, translations
from xbridge.core.config import digest_of, undigested
from xbridge.core.console import log, progress
from xbridge.core.errors import ConfigError

if TYPE_CHECKING:
    from xbridge.activations.encoder import Encoder
    from xbridge.activations.windows import LanguageReader

VERSION = 1
MODEL, OTHER = "model", "other"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which sentences, which layers, which vectors."""

    table: Literal["nway", "examples"] = "nway"
    """nway: a corpus folder's nway.parquet; examples: the test split of a taskdata folder's examples.parquet."""
    languages: tuple[str, ...] | None = None
    """Languages; null = all that the table has."""
    sites: tuple[str, ...] | None = None
    """Sites or patterns, e.g. [encoder.3, decoder.*, decoder.*.cross_attention]; null = the encoder's layers."""
    pooling: Literal["mean", "first", "last", "words", "tokens"] = "mean"
    """mean: over content positions (no language code, no </s>); first, last: that position, special ones included.

    words: a row per word, the mean of its pieces; tokens: a row per content position.
    """
    decoder_language: str | None = None
    """An encoder-decoder's decoder reads each sentence's translation in this language; null = the sentence itself."""
    max_sentences: int | None = None
    """A fixed sample of so many sentences per language, the same ids in every language; null = all."""
    keep: Literal["states", "moments"] = "states"
    """states: every row; moments: their second moments, from which linear CKA is exact. Their size is free of rows."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Type of the states that are stored; the model itself runs in float32."""
    batch_size: int = undigested(128)
    """Sentences per forward pass."""
    shard_rows: int = undigested(131072)
    """Rows per file; a site with more has several."""

    def __post_init__(self) -> None:
        for name in ("max_sentences", "batch_size", "shard_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(name, f"must be at least 1, got {value}")
        if self.keep == "moments" and self.dtype != "float32":
            raise ConfigError("dtype", "is for keep: states; moments are float64")
        if self.decoder_language is not None and self.table != "nway":
            raise ConfigError("decoder_language", "needs table nway, whose sentences have translations")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the stage reads."""

    model: Path
    """A train folder."""
    sentences: Path
    """A corpus or taskdata folder."""
    other: Path | None = None
    """With keep: moments, a second model that reads the same rows beside the first: moments then hold both."""


def run(config: Config, inputs: Inputs, out: Path) -> None:
    """Write `out`/<lang>/<site>.safetensors, or <lang>/moments.safetensors, and, last, index.json."""
    from xbridge.activations.ranks import begin, end, joined

    sentences = load_sentences(inputs.sentences, config.table, config.languages, config.max_sentences)
    encoders = open_models(config, inputs)
    readers = open_languages(config, inputs.sentences, sentences, encoders)
    with joined() as ranks:
        begin(out, list(readers), fingerprint(config, sentences, encoders), ranks)
        shares = ranks.shares({lang: len(own.ids) for lang, own in sentences.items()})
        total = sum(last - first for first, last in shares.values())
        with progress("encode", total=total, unit="sentence") if ranks.is_main else nullcontext() as bar:

            def advance(count: int, lang: str) -> None:
                if bar is not None:
                    bar.update(count, language=lang)

            if config.keep == "states":
                from xbridge.activations.shards import keep_states

                cut = keep_states(
                    readers, shares, ranks, out, dtype=config.dtype, shard_rows=config.shard_rows, advance=advance
                )
            else:
                from xbridge.activations.accumulate import keep_moments

                cut = keep_moments(readers, shares, ranks, out, advance=advance)
        end(out, ranks)
    for lang, count in cut.items():
        if count:
            log("extract", language=lang, sentences_cut=count)


def open_models(config: Config, inputs: Inputs) -> "dict[str, Encoder]":
    """The models by name. `ConfigError` for a second one that cannot be read beside the first."""
    from xbridge.activations.encoder import Encoder

    encoders = {MODEL: Encoder.open(inputs.model)}
    if inputs.other is not None:
        if config.keep != "moments":
            raise ConfigError("inputs.other", "is for keep: moments; to store states, extract each model on its own")
        encoders[OTHER] = Encoder.open(inputs.other)
        vocabularies = [encoder.tokenizer.get_vocab() for encoder in encoders.values()]
        if config.pooling == "tokens" and vocabularies[0] != vocabularies[1]:
            raise ConfigError("inputs.other", "has another tokenizer, so tokens do not align; set pooling: words")
    return encoders


def open_languages(
    config: Config, folder: Path, sentences: Mapping[str, Sentences], encoders: "Mapping[str, Encoder]"
) -> "dict[str, LanguageReader]":
    """Readers by language. `UserError` for a site, a language or a translation that is missing."""
    from xbridge.activations.windows import LanguageReader

    sites = {name: encoder.choose_sites(config.sites) for name, encoder in encoders.items()}
    target = config.decoder_language
    for name, encoder in encoders.items():
        encoder.check_languages([*sentences, *([] if target is None else [target])])
        if target is not None:
            check_decoder_sites(config, encoder, sites[name])
    return {
        lang: LanguageReader(
            lang=lang,
            sentences=own,
            heard=None if target is None else (target, translations(folder, target, own.ids, lang)),
            encoders=encoders,
            sites=sites,
            kind=config.pooling,
            batch_size=config.batch_size,
        )
        for lang, own in sentences.items()
    }


def check_decoder_sites(config: Config, encoder: "Encoder", sites: tuple[str, ...]) -> None:
    """`ConfigError` where the decoder cannot read a translation, or its rows would not be the encoder's."""
    from xbridge.models.sites import is_decoder_site

    of_decoder = [is_decoder_site(site) for site in sites]
    if not encoder.model.config.is_encoder_decoder or not any(of_decoder):
        raise ConfigError("decoder_language", "needs an encoder-decoder, and a site of its decoder in `sites`")
    if config.pooling in ("words", "tokens") and not all(of_decoder):
        raise ConfigError(
            "sites", f"encoder and decoder read different texts, with other {config.pooling}; choose decoder sites only"
        )


def fingerprint(config: Config, sentences: Mapping[str, Sentences], encoders: "Mapping[str, Encoder]") -> str:
    """Changes with everything that states depend on: an interrupted run of other settings is not continued."""
    files = sorted(path for encoder in encoders.values() for path in encoder.folder.iterdir() if path.is_file())
    models = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    return digest_of(VERSION, config, {lang: [own.ids, own.texts] for lang, own in sentences.items()}, models)
