"""Texts as a family's source sequences, and how long a sequence a model can read."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from xbridge.models.families import Conventions

if TYPE_CHECKING:
    from torch import Tensor, nn


def max_positions(model: "nn.Module") -> int:
    """Longest sequence in tokens, special tokens counted; 512 where the model has no limit of its own."""
    return position_limit(model) or 512


def position_limit(model: "nn.Module") -> int | None:
    """Longest sequence in tokens, special tokens counted; None where positions are relative, as T5's are."""
    whole: Any = model
    stacks = [whole.encoder, whole.decoder] if whole.config.model_type == "encoder-decoder" else [whole]
    limits = [limit for limit in map(_limit_of_stack, stacks) if limit]
    return min(limits) if limits else None


def encode_source(
    texts: Sequence[str],
    languages: str | Sequence[str],
    tokenizer: Any,
    conventions: Conventions,
    *,
    max_tokens: int,
    targets: Sequence[str] | None = None,
) -> dict[str, "Tensor"]:
    """Source sequences of `texts`, cut after `max_tokens` text tokens: `input_ids`, `attention_mask` (n, width).

    languages: one for each text, or one for all; targets: the languages they are translated into, None = only read.
    """
    import torch

    sources = [languages] * len(texts) if isinstance(languages, str) else languages
    ways = [(source, targets[i] if targets else None) for i, source in enumerate(sources)]
    around = {way: conventions.source(*way) for way in dict.fromkeys(ways)}
    rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    rows = [around[way][0] + row[:max_tokens] + around[way][1] for row, way in zip(rows, ways, strict=True)]
    width = max(map(len, rows), default=0)
    input_ids = torch.full((len(rows), width), conventions.pad)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = torch.tensor(row)
    lengths = torch.tensor([len(row) for row in rows])
    return {"input_ids": input_ids, "attention_mask": (torch.arange(width) < lengths[:, None]).long()}


def _limit_of_stack(model: Any) -> int | None:
    positions = getattr(model.config, "max_position_embeddings", None)
    table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    reserved = getattr(table, "padding_idx", None)  # RoBERTa numbers positions from here on
    return int(positions) - (0 if reserved is None else reserved + 1) if positions else None
