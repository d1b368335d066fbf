"""Loading and saving of models and tokenizers as plain Hugging Face folders."""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xbridge.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and notices off the console."""
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity(logging.CRITICAL)
    hf_logging.disable_progress_bar()
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # saving imports DeepSpeed where it is installed, which announces itself
    try:
        yield
    finally:
        logging.disable(before)
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def load_tokenizer(source: Path | str, *, revision: str | None = None) -> Any:
    """The tokenizer of a stage's folder, a plain folder or a hub id; `UserError` where it cannot be read."""
    from transformers import AutoTokenizer

    place = _place(source, "tokenizer", "model")
    with quiet():
        try:
            return AutoTokenizer.from_pretrained(place, revision=revision or "main")
        except Exception as error:  # damaged files surface as a dozen kinds of exception
            raise UserError(f"{place}: cannot load a tokenizer ({_first_line(error)})") from None


def load_backbone(source: Path | str, *, revision: str | None = None, with_output: bool = False) -> Any:
    """The model of a train stage's folder, a plain folder or a hub id, in float32, in eval mode.

    An encoder-decoder comes with its output layer, others without unless `with_output`. `UserError` for missing or
    damaged files.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    from xbridge.models.sites import is_causal

    place = _place(source, "model")
    with quiet():
        try:
            config = AutoConfig.from_pretrained(place, revision=revision or "main")
            with_head = AutoModelForCausalLM if is_causal(config) else AutoModelForMaskedLM
            kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else with_head if with_output else AutoModel
            model, info = kind.from_pretrained(
                place, revision=revision or "main", dtype="float32", output_loading_info=True
            )
        except Exception as error:
            raise UserError(f"{place}: cannot load a model ({_first_line(error)})") from None
    missing = sorted(name for name in info["missing_keys"] if "pooler" not in name)
    if missing:
        reason = "it is damaged, or was saved without its output layer" if with_output else "it is damaged"
        raise UserError(f"{place}: the checkpoint has no {missing[0]} ({len(missing)} tensors missing): {reason}")
    _body_first(model)
    return model.eval()


def _body_first(model: Any) -> None:
    """Put a model's body before its head: checkpoints keep a tied tensor under its first name, and RoBERTa's first
    name is the head's, which a model without a head would not find."""
    modules, body = model._modules, model.base_model_prefix
    if body in modules:
        for name in [name for name in modules if name != body]:
            modules[name] = modules.pop(name)


def redrawn(model: Any, seed: int) -> Any:
    """A model of the same class and config with new random weights, a pure function of `seed`."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        again = type(model)(model.config).eval()
    _body_first(again)
    return again


def new_mbart(
    tokenizer: Any,
    *,
    seed: int,
    layers: int,
    d_model: int,
    ffn: int,
    heads: int,
    init_std: float,
    max_positions: int,
    dropout: float,
) -> Any:
    """An MBartForConditionalGeneration with random weights, a pure function of `seed` and the shape.

    Attention dropout and activation dropout are off: `dropout` acts on embeddings and on each sub-layer's output.
    """
    import torch
    from transformers import MBartConfig, MBartForConditionalGeneration

    config = MBartConfig(
        vocab_size=len(tokenizer),
        d_model=d_model,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_ffn_dim=ffn,
        decoder_ffn_dim=ffn,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        max_position_embeddings=max_positions,
        dropout=dropout,
        attention_dropout=0.0,
        activation_dropout=0.0,
        init_std=init_std,
        scale_embedding=True,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=tokenizer.eos_token_id,
    )
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MBartForConditionalGeneration(config)


def save_model(model: "nn.Module", tokenizer: Any, folder: Path, state: "dict[str, Tensor] | None" = None) -> None:
    """Write a folder that `from_pretrained` loads; `state` are whole weights where the model's own are sharded."""
    whole: Any = model
    with quiet():
        try:
            whole.save_pretrained(folder, state_dict=state)
            tokenizer.save_pretrained(folder)
        except OSError as error:
            raise UserError(f"{folder}: cannot save the model ({error}); free space and run again") from None


def save_description(model: "nn.Module", tokenizer: Any, folder: Path) -> None:
    """Write what `from_pretrained` needs besides the weights: configs and the tokenizer."""
    whole: Any = model
    config = copy.deepcopy(whole.config)
    config.architectures, config.dtype = [type(model).__name__], "float32"
    with quiet():
        config.save_pretrained(folder)
        if getattr(whole, "generation_config", None) is not None:
            whole.generation_config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def check_vocabulary(model: "nn.Module", tokenizer: Any, name: str) -> None:
    """`UserError` where the embedding matrix and the tokenizer do not belong together."""
    whole: Any = model
    writer = whole.decoder if whole.config.model_type == "encoder-decoder" else whole  # an attached one has more words
    rows, words = writer.get_input_embeddings().weight.shape[0], len(tokenizer)
    spare = max(127, rows // 100)  # some hub models pad their matrix, by up to a few hundred rows
    if words > rows or rows - words > spare:
        raise UserError(
            f"{name}: the model has {rows} embeddings, the tokenizer {words} tokens; they do not belong together"
        )


def _place(source: Path | str, *inside: str) -> str:
    """A local folder (the first of a stage's folders `inside` that it has, or itself), or a hub id as it is."""
    path = Path(source)
    if path.is_dir():
        return str(next((path / name for name in inside if (path / name).is_dir()), path))
    is_hub_id = isinstance(source, str) and not path.is_absolute() and source.count("/") <= 1 and source[0] != "."
    if not is_hub_id or path.exists():
        raise UserError(f"{source}: no such folder; give a train stage's folder, a from_pretrained folder or a hub id")
    return str(source)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
