"""Accumulator states on disk: safetensors, their scalars as JSON in its metadata."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from xbridge.core.files import atomic

KIND, SCALARS = "xbridge", "scalars"


def save_state(path: str | Path, kind: str, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> None:
    """Write atomically: a killed run leaves the old file or the new one."""
    on_cpu = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    with atomic(Path(path)) as temporary:
        temporary.write_bytes(save(on_cpu, {KIND: kind, SCALARS: json.dumps(dict(scalars))}))


def load_state(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_state` wrote. ValueError names the file when it is not a state of this kind."""
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            if metadata.get(KIND) != kind:
                raise ValueError(f"{path}: holds no {kind} (it says: {metadata.get(KIND, 'nothing')})")
            return {key: stream.get_tensor(key) for key in stream.keys()}, json.loads(metadata[SCALARS])  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None
