"""Sites: where in a model states are read, under one name in every architecture.

    encoder.N, decoder.N          the residual stream after layer N; 0 is the embeddings, the last has the final norm
    encoder.N.attention           what self-attention adds to the stream in layer N (N from 1)
    decoder.N.cross_attention     what attention to the encoder adds
    encoder.N.feed_forward        what the feed-forward block adds

An encoder-decoder has both stacks, an encoder-only model `encoder`, a decoder-only one `decoder`. Streams come from
`output_hidden_states`; sublayers by forward hooks, before the residual addition (and before the norm that follows it
in post-norm models). Sublayers have no common names in the library, so they are known by model type, from a table.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from xbridge.core.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

Stack: TypeAlias = Literal["encoder", "decoder"]

_BART = {"attention": "self_attn", "cross_attention": "encoder_attn", "feed_forward": "fc2"}
_BERT = {
    "attention": "attention.output.dense",
    "cross_attention": "crossattention.output.dense",
    "feed_forward": "output.dense",
}
_LLAMA = {"attention": "self_attn", "feed_forward": "mlp"}
_GEMMA = {"attention": "post_attention_layernorm", "feed_forward": "post_feedforward_layernorm"}  # norms inside
_T5_ENCODER = {"attention": "layer.0.SelfAttention", "feed_forward": "layer.1.DenseReluDense"}
_T5_DECODER = {
    "attention": "layer.0.SelfAttention",
    "cross_attention": "layer.1.EncDecAttention",
    "feed_forward": "layer.2.DenseReluDense",
}

SUBLAYERS: Mapping[str, Mapping[Stack, Mapping[str, str]]] = {
    **{kind: {"encoder": _BART, "decoder": _BART} for kind in ("bart", "mbart", "m2m_100", "marian", "pegasus")},
    **{kind: {"encoder": _T5_ENCODER, "decoder": _T5_DECODER} for kind in ("t5", "mt5", "umt5")},
    **{
        kind: {"encoder": _BERT, "decoder": _BERT}
        for kind in ("bert", "roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "electra")
    },
    "distilbert": {"encoder": {"attention": "attention", "feed_forward": "ffn"}},
    "modernbert": {"encoder": {"attention": "attn", "feed_forward": "mlp"}},
    **{kind: {"decoder": _LLAMA} for kind in ("llama", "mistral", "qwen2", "qwen3", "gemma")},
    **{kind: {"decoder": _GEMMA} for kind in ("gemma2", "gemma3_text")},
    "xglm": {"decoder": _BART},
    "gpt2": {"decoder": {"attention": "attn", "feed_forward": "mlp"}},
    "gpt_neox": {"decoder": {"attention": "attention", "feed_forward": "mlp"}},
}
"""Model type -> stack -> sublayer -> path of its module inside a layer; the module's output is what is added."""


def site_names(model: "nn.Module") -> tuple[str, ...]:
    """Every site of a model: the streams of its stacks in order, then their sublayers."""
    stacks = stacks_of(model)
    streams = [f"{stack}.{n}" for stack, layers in stacks.items() for n in range(layers + 1)]
    return (*streams, *(name for stack, layers in stacks.items() for name in _sublayer_names(model, stack, layers)))


def default_sites(model: "nn.Module") -> tuple[str, ...]:
    """The encoder's stream; a decoder-only model's own."""
    stack, layers = next(iter(stacks_of(model).items()))
    return tuple(f"{stack}.{n}" for n in range(layers + 1))


def stacks_of(model: "nn.Module") -> dict[Stack, int]:
    """Number of layers of each stack."""
    config: Any = model.config
    if config.model_type == "encoder-decoder":  # two stacks with a config each
        return {"encoder": config.encoder.num_hidden_layers, "decoder": config.decoder.num_hidden_layers}
    layers = int(getattr(config, "encoder_layers", None) or config.num_hidden_layers)
    if not config.is_encoder_decoder:
        return {"decoder" if is_causal(config) else "encoder": int(config.num_hidden_layers)}
    decoder = getattr(config, "decoder_layers", None) or getattr(config, "num_decoder_layers", None) or layers
    return {"encoder": layers, "decoder": int(decoder)}


def is_causal(config: Any) -> bool:
    """True where a model without an encoder reads from left to right."""
    from transformers.models.auto import modeling_auto as auto

    generates = config.model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    fills_gaps = config.model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return bool(getattr(config, "is_decoder", False)) or (generates and not fills_gaps)


def match_sites(model: "nn.Module", patterns: Sequence[str]) -> tuple[str, ...]:
    """Sites that the patterns name, each once; `*` stands for one part, so `encoder.*` is the stream only.

    `ConfigError` for a pattern that names none; it lists what there is.
    """
    names = site_names(model)
    found: dict[str, None] = {}
    for index, pattern in enumerate(patterns):
        matching = [name for name in names if _matches(name, pattern)]
        if not matching:
            raise ConfigError(f"sites.{index}" if _is_pattern(pattern) else "sites", _no_site(model, pattern, names))
        found.update(dict.fromkeys(matching))
    return tuple(found)


def states_at(
    model: "nn.Module",
    sites: Sequence[str],
    input_ids: "Tensor",
    attention_mask: "Tensor",
    decoder_input_ids: "Tensor | None" = None,
) -> dict[str, "Tensor"]:
    """States at `sites`: (batch, time, d) each, `time` being the decoder's own at an encoder-decoder's decoder sites.

    input_ids, attention_mask: (batch, time); decoder_input_ids: (batch, decoder time), padded on the right, needed for
    decoder sites of an encoder-decoder. Runs as much of the model as the sites need. Differentiable.
    """
    streams = [site for site in sites if site.count(".") == 1]
    with _recording(model, [site for site in sites if site not in streams]) as found:
        outputs = _run(model, sites, bool(streams), input_ids, attention_mask, decoder_input_ids)
    for site in streams:
        stack, number = site.split(".")
        output = outputs[stack]
        is_last = int(number) == len(output.hidden_states) - 1
        found[site] = output.last_hidden_state if is_last else output.hidden_states[int(number)]
    return {site: found[site] for site in sites}


def is_decoder_site(site: str) -> bool:
    """True for the sites of a decoder."""
    return site.startswith("decoder.")


def _run(
    model: "nn.Module",
    sites: Sequence[str],
    with_streams: bool,
    input_ids: "Tensor",
    attention_mask: "Tensor",
    decoder_input_ids: "Tensor | None",
) -> dict[str, Any]:
    """Outputs of the stacks that the sites need. The output layer over the vocabulary is never run."""
    whole: Any = model
    inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
    inputs["output_hidden_states"] = with_streams
    if not whole.config.is_encoder_decoder:
        stack = "decoder" if is_causal(whole.config) else "encoder"
        return {stack: whole.base_model(**inputs, **({"use_cache": False} if stack == "decoder" else {}))}
    encoded = whole.get_encoder()(**inputs)
    if not any(is_decoder_site(site) for site in sites):
        return {"encoder": encoded}
    assert decoder_input_ids is not None, "decoder sites need decoder_input_ids"
    decoder = whole.get_decoder()
    decoded = getattr(decoder, "base_model", decoder)(
        input_ids=decoder_input_ids,  # causal: padding comes after what is read
        encoder_hidden_states=encoded.last_hidden_state,
        encoder_attention_mask=attention_mask,
        output_hidden_states=with_streams,
        use_cache=False,
    )
    return {"encoder": encoded, "decoder": decoded}


@contextmanager
def _recording(model: "nn.Module", sites: Sequence[str]) -> Iterator[dict[str, "Tensor"]]:
    """Collect the outputs of sublayers while the model runs."""
    recorded: dict[str, Tensor] = {}

    def keep(site: str, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        if site in recorded or states.ndim != 3:
            kind: Any = model.config
            raise ConfigError("sites", f"{site} cannot be read: this {kind.model_type} model runs it in pieces")
        recorded[site] = states

    handles = []
    try:
        for site in sites:
            hook = _module(model, site).register_forward_hook(lambda _, __, output, site=site: keep(site, output))
            handles.append(hook)
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def _module(model: "nn.Module", site: str) -> "nn.Module":
    stack, number, name = site.split(".")
    layer = _layers(model, stack, stacks_of(model)[stack])[int(number) - 1]  # type: ignore[index]
    kind: Any = model.config
    return layer.get_submodule(SUBLAYERS[kind.model_type][stack][name])  # type: ignore[index]


def _sublayer_names(model: "nn.Module", stack: Stack, layers: int) -> Iterator[str]:
    kind: Any = model.config
    modules = SUBLAYERS.get(kind.model_type, {}).get(stack, {})
    first = _layers(model, stack, layers)[0] if modules else None
    for name, path in modules.items():
        if first is not None and _has_submodule(first, path):
            yield from (f"{stack}.{number}.{name}" for number in range(1, layers + 1))


def _layers(model: "nn.Module", stack: str, count: int) -> Sequence["nn.Module"]:
    """The modules of a stack's layers: its outermost list of so many modules."""
    from torch import nn

    whole: Any = model
    root: nn.Module = whole.base_model
    if whole.config.is_encoder_decoder:
        root = whole.get_encoder() if stack == "encoder" else whole.get_decoder()
    lists = [(name.count("."), m) for name, m in root.named_modules() if isinstance(m, nn.ModuleList)]
    fitting = [(depth, m) for depth, m in lists if len(m) == count]
    assert fitting, f"{type(model).__name__}: no list of {count} layers"
    return list(min(fitting, key=lambda entry: entry[0])[1])


def _has_submodule(layer: "nn.Module", path: str) -> bool:
    return path in dict(layer.named_modules())


def _is_pattern(text: str) -> bool:
    return any(letter in text for letter in "*?[")


def _matches(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _no_site(model: "nn.Module", pattern: str, names: Sequence[str]) -> str:
    kind: Any = model.config
    unknown = pattern.count(".") > 1 and kind.model_type not in SUBLAYERS
    reason = f"; the sublayers of {kind.model_type!r} models are not known" if unknown else ""
    return f"the model has no site {pattern!r}{reason}; it has {summary(names)}"


def summary(names: Sequence[str]) -> str:
    """Sites in a line: `encoder.0 to encoder.12, encoder.1.attention to encoder.12.attention`."""

    def family(name: str) -> tuple[str, ...]:
        stack, _, *rest = name.split(".")
        return (stack, *rest)

    groups = [list(group) for _, group in groupby(names, key=family)]
    return ", ".join(group[0] if len(group) == 1 else f"{group[0]} to {group[-1]}" for group in groups)
