"""A decoder for an encoder-only model, so that it can translate; and the encoder as a checkpoint of its own again.

The decoder is the encoder's own architecture with a causal mask and attention to the encoder (the library's
EncoderDecoderModel; Rothe et al., 2020). The encoder and its vocabulary stay as they are: only the decoder gets a row
per language token, and its sequence is `[CLS] [lang] Y [SEP]`.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from xbridge.core.errors import ConfigError, UserError
from xbridge.data.languages import language
from xbridge.models.loading import load_backbone, quiet, save_model

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class AttachDecoder:
    """The decoder that an encoder is given."""

    languages: tuple[str, ...]
    """Languages that it writes: each gets a token."""
    weights: Literal["encoder", "random"] = "encoder"
    """What it starts from: the encoder's weights, with random ones for the attention to the encoder, or random ones."""
    layers: int | None = None
    """Its layers, the encoder's first ones; null = as many as the encoder has."""

    def __post_init__(self) -> None:
        for index, code in enumerate(self.languages):
            language(code, f"languages.{index}")
        if not self.languages:
            raise ConfigError("languages", "the list is empty")
        if self.layers is not None and self.layers < 1:
            raise ConfigError("layers", f"must be at least 1, got {self.layers}")


def attach_decoder(encoder: Any, tokenizer: Any, config: AttachDecoder, *, seed: int) -> Any:
    """An EncoderDecoderModel around `encoder`; adds the languages' tokens to `tokenizer`.

    The decoder's weights are a pure function of the config, the encoder and `seed`. `UserError` for a model that the
    library has no decoder with cross-attention for.
    """
    import torch
    from transformers import AutoModelForCausalLM, EncoderDecoderModel

    _check(encoder, config)
    add_languages(tokenizer, config.languages)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = copy.deepcopy(encoder.config)
        shape.is_decoder = shape.add_cross_attention = True
        shape.num_hidden_layers = config.layers or shape.num_hidden_layers
        shape.vocab_size = len(tokenizer)
        shape.bos_token_id, shape.eos_token_id = tokenizer.cls_token_id, tokenizer.sep_token_id
        try:
            decoder = AutoModelForCausalLM.from_config(shape)
            if config.weights == "encoder":
                copy_weights(encoder, decoder)
            model = EncoderDecoderModel(encoder=encoder, decoder=decoder)
        except (ValueError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"attach_decoder: no decoder for a {encoder.config.model_type} model ({reason})") from None
    for place in (model.config, model.generation_config):
        place.decoder_start_token_id = tokenizer.cls_token_id
        place.pad_token_id, place.eos_token_id = tokenizer.pad_token_id, tokenizer.sep_token_id
    freeze_unused(model)
    return model.eval()


def add_languages(tokenizer: Any, languages: Sequence[str]) -> None:
    """Give a tokenizer a token for each language code that it does not have."""
    known = tokenizer.get_vocab()
    missing = [code for code in languages if code not in known]
    if missing:
        tokenizer.add_special_tokens({"extra_special_tokens": missing}, replace_extra_special_tokens=False)


def copy_weights(encoder: Any, decoder: Any) -> None:
    """Start the decoder's body from the encoder's; rows of new tokens are the mean of the embeddings."""
    import torch

    source = encoder.state_dict()
    with torch.no_grad():
        for name, tensor in decoder.base_model.state_dict().items():
            given = source.get(name)
            if given is not None and given.shape == tensor.shape:
                tensor.copy_(given)
        table, given = decoder.get_input_embeddings().weight, encoder.get_input_embeddings().weight
        rows = min(len(table), len(given))
        table[:rows] = given[:rows]
        table[rows:] = given.mean(0)


def freeze_unused(model: Any) -> None:
    """Keep an attached model's pooler, which nothing in translation reads, out of the training."""
    pooler = getattr(model.encoder, "pooler", None)
    if pooler is not None:
        pooler.requires_grad_(False)


def is_attached(model: "nn.Module") -> bool:
    """True for an encoder with an attached decoder."""
    whole: Any = model
    return bool(whole.config.model_type == "encoder-decoder")


def export_encoder(trained: Path, tokenizer: Any, folder: Path) -> None:
    """Write the encoder of the attached model in `trained` as a checkpoint of its own type."""
    save_model(load_backbone(trained).encoder, tokenizer, folder)


def _check(encoder: Any, config: AttachDecoder) -> None:
    if encoder.config.is_encoder_decoder:
        raise UserError(f"attach_decoder: a {encoder.config.model_type} model has a decoder already; leave it out")
    if (config.layers or 0) > encoder.config.num_hidden_layers and config.weights == "encoder":
        raise ConfigError("attach_decoder.layers", f"the encoder has {encoder.config.num_hidden_layers} layers only")
