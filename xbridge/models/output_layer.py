"""What stands between a model's last hidden states and its logits: states, weight and bias of one linear layer.

The loss multiplies by the weight itself, in chunks, so that the logits of a large vocabulary are never stored. Some
models transform the states before: BERT's and RoBERTa's heads for masked words, T5's scaling. They are a table here;
`check_output_layer` compares with the model's own logits, so that a model with another head is refused.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from xbridge.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn


class OutputLayer(NamedTuple):
    """logits = states @ weight.T + bias. states: (..., d); weight: (V, d); bias: (V,) or None."""

    states: "Tensor"
    weight: "Tensor"
    bias: "Tensor | None"


def _roberta(model: Any, states: "Tensor") -> "Tensor":
    from torch.nn.functional import gelu

    transformed: Tensor = model.lm_head.layer_norm(gelu(model.lm_head.dense(states)))
    return transformed


def _distilbert(model: Any, states: "Tensor") -> "Tensor":
    transformed: Tensor = model.vocab_layer_norm(model.activation(model.vocab_transform(states)))
    return transformed


def _t5(model: Any, states: "Tensor") -> "Tensor":
    return states * model.config.d_model**-0.5 if getattr(model.config, "scale_decoder_outputs", False) else states


TRANSFORMS: Mapping[str, Callable[[Any, "Tensor"], "Tensor"]] = {
    "bert": lambda model, states: model.cls.predictions.transform(states),
    "distilbert": _distilbert,
    **dict.fromkeys(("roberta", "xlm-roberta", "xlm-roberta-xl"), _roberta),
    **dict.fromkeys(("t5", "mt5", "umt5"), _t5),
}
"""Model type -> what its head does to the states first; other types do nothing."""


def output_layer(model: "nn.Module", states: "Tensor") -> OutputLayer:
    """The last linear layer of `model` for the last hidden states (..., d) of its decoder, or of its only stack."""
    whole: Any = model
    if whole.config.model_type == "encoder-decoder":
        whole = whole.decoder
    transform = TRANSFORMS.get(whole.config.model_type)
    layer = whole.get_output_embeddings()
    bias = getattr(layer, "bias", None)
    extra = getattr(whole, "final_logits_bias", None)  # Marian's; zero in mBART and M2M-100
    if extra is not None and bool(extra.any()):
        bias = extra[0]
    return OutputLayer(states if transform is None else transform(whole, states), layer.weight, bias)


def decoder_states(
    model: "nn.Module", input_ids: "Tensor", attention_mask: "Tensor", decoder_ids: "Tensor"
) -> "Tensor":
    """Last hidden states of an encoder-decoder's decoder: (batch, target_len, d). Padding stands on the right."""
    whole: Any = model
    encoded = whole.get_encoder()(input_ids=input_ids, attention_mask=attention_mask)
    decoder = whole.get_decoder()
    states: Tensor = getattr(decoder, "base_model", decoder)(  # without the head of a decoder that has its own
        input_ids=decoder_ids,
        encoder_hidden_states=encoded.last_hidden_state,
        encoder_attention_mask=attention_mask,
        use_cache=False,
    ).last_hidden_state
    return states


def check_output_layer(model: "nn.Module") -> None:
    """`UserError` where `output_layer` does not give the model's own logits."""
    import torch

    whole: Any = model
    ids = torch.arange(4, 8).reshape(1, 4)
    mask = torch.ones_like(ids)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        if whole.config.is_encoder_decoder:
            logits = whole(input_ids=ids, attention_mask=mask, decoder_input_ids=ids).logits
            states = decoder_states(model, ids, mask, ids)
        else:
            logits = whole(input_ids=ids, attention_mask=mask).logits
            states = whole.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
        layer = output_layer(model, states)
        ours = torch.nn.functional.linear(layer.states, layer.weight, layer.bias)
    model.train(was_training)
    if not torch.allclose(ours, logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max())):
        raise UserError(
            f"a model of type {whole.config.model_type!r} has an output layer that is not known; "
            "add what it does to models/output_layer.py"
        )
