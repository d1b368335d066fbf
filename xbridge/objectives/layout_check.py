"""Do batches carry the language tokens of their family? Asked of every part's first example before the first step."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xbridge.core.errors import UserError
from xbridge.data.sampling import Examples
from xbridge.models.families import Conventions, decoder_start_of
from xbridge.objectives.base import Objective
from xbridge.objectives.seq2seq import IGNORED, Seq2SeqBatch

if TYPE_CHECKING:
    from torch import nn


def check_layouts(model: "nn.Module", objective: Objective, conventions: Conventions) -> None:
    """`UserError` naming the first direction whose batch, or whose model, does not keep to the conventions."""
    check_decoder_start(model, conventions)
    check_one_segmentation(conventions.tokenizer)
    for number, part in enumerate(objective.parts):
        zero = np.zeros(1, dtype=np.int64)
        batch = objective.collate(Examples(zero + number, zero, zero))
        for _, own in batch if isinstance(batch, list) else [(0, batch)]:
            if isinstance(own, Seq2SeqBatch) and own.count:  # a mixture's other objectives have an unscored row
                check_batch(part.name, own, conventions)
    check_directions([part.name for part in objective.parts], conventions)


def check_batch(part: str, batch: Seq2SeqBatch, conventions: Conventions) -> None:
    """`UserError` where a row lacks what the family puts around the texts of `part`, or scores what is given."""
    source, target = languages_of(part)
    before, after = conventions.source(source, target)
    given, end = conventions.target(target)
    for index in range(len(batch.input_ids)):
        tokens = batch.input_ids[index][batch.attention_mask[index].bool()].tolist()
        decoder, labels = batch.decoder_input_ids[index].tolist(), batch.labels[index].tolist()
        scored = [label for label in labels if label != IGNORED]
        found = {
            f"the source to begin with {before}": tokens[: len(before)] == before,
            f"the source to end with {after}": tokens[len(tokens) - len(after) :] == after,
            f"the decoder to start with {given}": decoder[: len(given)] == given,
            "no label at what the decoder is given": set(labels[: len(given) - 1]) <= {IGNORED},
            f"the labels to end with {end}": not scored or scored[-len(end) :] == end,
        }
        for expected, holds in found.items():
            if not holds:
                raise UserError(
                    f"{part}: the {conventions.family.name} layout wants {expected}; the batch has source {tokens}, "
                    f"decoder {decoder}, labels {labels}"
                )


def check_decoder_start(model: "nn.Module", conventions: Conventions) -> None:
    """`UserError` where the model's own files let the decoder start with another token than the family does."""
    whole: Any = model
    prefix = conventions.family.target_prefix
    if not prefix or prefix[0] == "language" or not whole.config.is_encoder_decoder:
        return
    start, wanted = decoder_start_of(whole), {"eos": conventions.eos, "pad": conventions.pad}.get(str(prefix[0]))
    if start is not None and wanted is not None and start != wanted:
        raise UserError(
            f"the model's decoder starts with token {start}, the {conventions.family.name} family's with {wanted}; "
            "set decoder_start_token_id in its config.json and generation_config.json, or use its own tokenizer"
        )


def check_one_segmentation(tokenizer: Any) -> None:
    """`UserError` for a tokenizer that cuts targets in another way than sources, as most of Marian's do."""
    models: list[Any] = [getattr(tokenizer, f"spm_{side}", None) for side in ("source", "target")]
    if None not in models and models[0].serialized_model_proto() != models[1].serialized_model_proto():
        raise UserError(
            f"this {type(tokenizer).__name__} cuts sources and targets by two sentencepiece models, and a training "
            "here has one; start from a model with one vocabulary model, such as M2M-100 or NLLB"
        )


def check_directions(parts: Sequence[str], conventions: Conventions) -> None:
    """`UserError` for a direction that the model does not translate, or that it cannot tell from another one."""
    seen: dict[tuple[Any, ...], str] = {}
    for part in parts:
        source, target = languages_of(part)
        if source == target:
            continue
        for asked, own in zip((source, target), conventions.direction, strict=True):
            if own is not None and asked != own:
                way = "-".join(language or "any" for language in conventions.direction)
                raise UserError(f"directions: {part}: this model translates {way} only; list that direction")
        look = (source, str(conventions.source(source, target)), str(conventions.target(target)))
        if look in seen and conventions.family.kind == "encoder-decoder":
            raise UserError(
                f"directions: {seen[look]} and {part} look the same to a model of this family "
                f"({conventions.family.name}): nothing says the target language; train one of them"
            )
        seen[look] = part


def languages_of(part: str) -> tuple[str, str]:
    """Source and target of a part's name, `eng_Latn-deu_Latn` or `mono/deu_Latn`, which is both."""
    source, _, target = part.rpartition("/")[2].partition("-")
    return source, target or source
