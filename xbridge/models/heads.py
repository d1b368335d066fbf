"""Task heads of our own: a map from feature rows to label scores, the same for every model family.

Libraries' own heads differ from family to family (mBART's reads a decoder state, M2M-100 and NLLB have none), so that a
comparison of families would compare heads. Here the features are chosen by name (see `xbridge.tasks.features`), and
the head is a linear layer, or one hidden layer of GELU units before it.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xbridge.core.errors import UserError
from xbridge.core.files import atomic, read_json, write_json

WEIGHTS, RECORD = "head.safetensors", "head.json"


class Head(nn.Module):
    """Scores of `num_outputs` labels for each feature row: (rows, d) -> (rows, num_outputs), float32."""

    def __init__(
        self,
        num_features: int,
        num_outputs: int,
        *,
        hidden_units: int = 0,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ):
        """`hidden_units` 0 is a linear head. `dropout` is the share of features and hidden units that training drops.

        Weights are Xavier-uniform (Glorot and Bengio 2010) from `generator`, biases zero.
        """
        super().__init__()
        self.shape: dict[str, int | float] = {
            "num_features": num_features,
            "num_outputs": num_outputs,
            "hidden_units": hidden_units,
            "dropout": dropout,
        }
        self.dropout = nn.Dropout(dropout)
        sizes = [num_features, hidden_units, num_outputs] if hidden_units else [num_features, num_outputs]
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(layers)

    def forward(self, features_ND: Tensor) -> Tensor:
        x = self.dropout(features_ND.to(next(self.parameters()).dtype))
        for layer in self.layers[:-1]:
            x = self.dropout(nn.functional.gelu(layer(x)))
        scores: Tensor = self.layers[-1](x)
        return scores.float()


def save_head(head: Head, folder: Path, record: Mapping[str, Any]) -> None:
    """Write `head.safetensors` and `head.json`: the head's shape, and `record` (labels, task, features ...)."""
    with atomic(folder / WEIGHTS) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}, temporary)
    write_json(folder / RECORD, {"head": head.shape, **record})


def read_record(folder: Path) -> dict[str, Any]:
    """The `head.json` of a fine-tuned model; `UserError` where the folder is not one."""
    if not (folder / RECORD).exists():
        raise UserError(
            f"{folder}: has no {RECORD}, so it is not a fine-tuned model; run `xbridge finetune` first, "
            "or set `task` to one that needs no head"
        )
    record: dict[str, Any] = read_json(folder / RECORD)
    return record


def load_head(folder: Path) -> tuple[Head, dict[str, Any]]:
    """A saved head in eval mode, and its record."""
    record = read_record(folder)
    head = Head(**record["head"], generator=torch.Generator())
    try:
        head.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{folder / WEIGHTS}: cannot be read ({str(error).splitlines()[0]}); fine-tune again") from None
    return head.eval(), record
