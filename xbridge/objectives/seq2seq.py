"""Batches and loss of encoder-decoder objectives: what translation and denoising share.

Layout, for mBART-50's family: source `[lang] X </s>`, decoder input `</s> [lang] Y`, labels `[lang] Y </s>` with the
label at the language code not scored, because generation is given that token and never has to predict it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xbridge.data.tokens import TokenTable, layout
from xbridge.objectives.base import LossSum

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xbridge.models.families import Conventions
    from xbridge.ops.linear_cross_entropy import Smoothing

IGNORED = -100


@dataclass(frozen=True)
class Seq2SeqBatch:
    """Tensors of one micro-batch, all int64."""

    input_ids: "Tensor"
    """(batch, source_len)"""
    attention_mask: "Tensor"
    """(batch, source_len), 1 on tokens, 0 on padding"""
    decoder_input_ids: "Tensor"
    """(batch, target_len)"""
    labels: "Tensor"
    """(batch, target_len), -100 = not scored"""
    count: int
    """Labels that are scored."""


class Layouts:
    """Prefix and suffix ids by language number, as arrays, for `languages` in their order."""

    def __init__(self, conventions: "Conventions", languages: Sequence[str]):
        self.pad = conventions.pad
        sources = [conventions.source(language) for language in languages]
        targets = [conventions.target(language) for language in languages]
        self.source_prefix, self.source_suffix = (_matrix([pair[side] for pair in sources]) for side in (0, 1))
        self.target_prefix, self.target_suffix = (_matrix([pair[side] for pair in targets]) for side in (0, 1))

    @property
    def source_extra(self) -> int:
        """Special tokens per source."""
        return int(self.source_prefix.shape[1] + self.source_suffix.shape[1])

    @property
    def target_extra(self) -> int:
        """Special tokens per decoder input: the whole sequence without its last token."""
        return int(self.target_prefix.shape[1] + self.target_suffix.shape[1]) - 1

    @property
    def scored_extra(self) -> int:
        """Scored special tokens per target: `</s>`."""
        return int(self.target_suffix.shape[1])


def make_batch(
    layouts: Layouts,
    source: TokenTable,
    source_language: NDArray[np.int64],
    target: TokenTable,
    target_language: NDArray[np.int64],
    *,
    scored: bool = True,
) -> Seq2SeqBatch:
    """Lay out content tokens; the languages are numbers into `layouts`, (n,) each."""
    import torch

    input_ids = layout(
        source,
        prefix=layouts.source_prefix[source_language],
        suffix=layouts.source_suffix[source_language],
        pad=layouts.pad,
    )
    whole = layout(
        target,
        prefix=layouts.target_prefix[target_language],
        suffix=layouts.target_suffix[target_language],
        pad=layouts.pad,
    )
    columns = np.arange(whole.shape[1])
    end = (target.lengths + layouts.target_extra + 1)[:, None]
    labels = np.where(columns < end, whole, IGNORED)
    labels[:, : layouts.target_prefix.shape[1]] = IGNORED
    if not scored:
        labels[:] = IGNORED
    lengths = (source.lengths + layouts.source_extra)[:, None]
    decoder_input_ids = np.where(columns[:-1] < end - 1, whole[:, :-1], layouts.pad)
    return Seq2SeqBatch(
        torch.from_numpy(input_ids),
        torch.from_numpy((np.arange(input_ids.shape[1]) < lengths).astype(np.int64)),
        torch.from_numpy(decoder_input_ids),
        torch.from_numpy(np.ascontiguousarray(labels[:, 1:])),
        int((labels[:, 1:] != IGNORED).sum()),
    )


def seq2seq_loss(
    model: "nn.Module", batch: Seq2SeqBatch, *, label_smoothing: float = 0.0, convention: "Smoothing" = "huggingface"
) -> LossSum:
    """Summed cross-entropy of the decoder's predictions; the full logits are never stored."""
    from xbridge.ops.linear_cross_entropy import linear_cross_entropy

    whole: Any = model
    device = whole.get_input_embeddings().weight.device
    states = whole.model(
        input_ids=batch.input_ids.to(device),
        attention_mask=batch.attention_mask.to(device),
        decoder_input_ids=batch.decoder_input_ids.to(device),
        use_cache=False,
    ).last_hidden_state
    total = linear_cross_entropy(
        states,
        whole.lm_head.weight,
        batch.labels.to(device),
        bias=_output_bias(whole),
        label_smoothing=label_smoothing,
        convention=convention,
        ignore_index=IGNORED,
    )
    return LossSum(total, batch.count)


def fits(lengths: NDArray[np.int64], max_tokens: int) -> NDArray[np.bool_]:
    """Which strings are trained on: not empty, and not longer than `max_tokens`."""
    return (lengths > 0) & (lengths <= max_tokens)


def _output_bias(model: Any) -> "Tensor | None":
    bias: Tensor | None = getattr(model, "final_logits_bias", None)
    return bias[0] if bias is not None and bool(bias.any()) else None


def _matrix(rows: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    return np.asarray(rows, dtype=np.int32).reshape(len(rows), -1)
