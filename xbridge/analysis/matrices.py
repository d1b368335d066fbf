"""Weight matrices of a model folder, under names that do not depend on the model family.

    encoder.1.self_attn.q   decoder.2.cross_attn.v   encoder.0.fc1   embedding   encoder.positions   lm_head

Read from safetensors alone; no model is built. Tied matrices appear once. Vectors (biases, norms) are left out.
"""

import re
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from xbridge.core.errors import UserError

_RENAMES: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"^(model|transformer|roberta|bert|xlm_roberta|deberta|base_model)\.", ""),
    (r"\.(layers|layer|block)\.(\d+)\.", r".\2."),
    # T5 counts sub-layers: encoder.block.0.layer.0.SelfAttention.q
    (r"(\.\d+)\.layer\.\d+\.", r"\1."),
    (r"\.\d+\.SelfAttention\.", lambda m: m.group().replace("SelfAttention", "self_attn")),
    (r"EncDecAttention", "cross_attn"),
    (r"DenseReluDense\.wi_0$", "fc1_gate"),
    (r"DenseReluDense\.(wi|wi_1)$", "fc1"),
    (r"DenseReluDense\.wo$", "fc2"),
    (r"relative_attention_bias$", "relative_positions"),
    # BERT: encoder.layer.0.attention.self.query, attention.output.dense, intermediate.dense, output.dense
    (r"attention\.self\.(query|key|value)$", lambda m: "self_attn." + m.group(1)[0]),
    (r"attention\.output\.dense$", "self_attn.out"),
    (r"intermediate\.dense$", "fc1"),
    (r"(\.\d+)\.output\.dense$", r"\1.fc2"),
    # BART
    (r"encoder_attn", "cross_attn"),
    (r"\.(q|k|v|out)_proj$", r".\1"),
    (r"_attn\.o$", "_attn.out"),
    (r"^(shared|embed_tokens|embeddings\.word_embeddings)$", "embedding"),
    (r"embed_positions$", "positions"),
    (r"^embeddings\.position_embeddings$", "encoder.positions"),
    (r"^embeddings\.token_type_embeddings$", "token_types"),
]

_EMBEDDINGS = ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head", "lm_head.decoder", "cls.predictions.decoder")


def neutral_name(parameter: str) -> str:
    """`model.encoder.layers.1.self_attn.q_proj.weight` -> `encoder.1.self_attn.q`; unknown names stay readable."""
    name = parameter.removesuffix(".weight")
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def load_matrices(folder: Path) -> dict[str, Tensor]:
    """Name -> (rows, cols) float64 for every weight matrix, in the order encoder, decoder, rest.

    `folder`: a train folder, or a folder that `from_pretrained` reads. UserError where it holds no safetensors.
    """
    path = folder / "model" if (folder / "model").is_dir() else folder
    files = sorted(path.glob("model*.safetensors"))
    if not files:
        raise UserError(f"{path}: no model.safetensors; give a folder that save_pretrained wrote")
    matrices = {neutral_name(parameter): tensor for file in files for parameter, tensor in _tensors(file)}
    return dict(sorted(_untie(matrices).items(), key=lambda item: _order(item[0])))


def _untie(matrices: dict[str, Tensor]) -> dict[str, Tensor]:
    """One entry, `embedding`, for all that are tied to it: which of their names a file keeps is an accident."""
    tied = [name for name in ("embedding", *_EMBEDDINGS) if name in matrices]
    if not tied:
        return matrices
    embedding = matrices[tied[0]]
    same = {name for name in tied if torch.equal(matrices[name], embedding)}
    return {"embedding": embedding, **{name: w for name, w in matrices.items() if name not in same}}


def _tensors(file: Path) -> list[tuple[str, Tensor]]:
    try:
        with safe_open(file, framework="pt") as stream:
            found = [(key, stream.get_tensor(key)) for key in stream.keys()]  # noqa: SIM118  (not a mapping)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: cannot be read ({str(error).splitlines()[0]})") from None
    return [(key, t.double()) for key, t in found if t.ndim == 2 and t.is_floating_point() and min(t.shape) > 1]


def _order(name: str) -> tuple[int, list[tuple[int, str]]]:
    """encoder before decoder before the rest; numbers by value."""
    part = {"encoder": 0, "decoder": 1}.get(name.split(".")[0], 2)
    return part, [(int(p), "") if p.isdecimal() else (-1, p) for p in name.split(".")]
