"""Tokenised text as two flat arrays: all token ids behind one another, and where each text begins."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_BATCH = 4096


def tokenise(texts: Sequence[str], tokenizer: Any) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Token ids of the texts alone: no language code, no `</s>`, no truncation.

    `tokenizer`: a transformers tokenizer. Returns ids (num_tokens,) and offsets (len(texts) + 1,): text i is
    `ids[offsets[i]:offsets[i + 1]]`. Language codes in the text are not special here: they come out as plain pieces.
    """
    parts: list[npt.NDArray[np.int32]] = []
    lengths = np.zeros(len(texts) + 1, dtype=np.int64)
    for start in range(0, len(texts), _BATCH):
        batch = list(texts[start : start + _BATCH])
        encoded = tokenizer(
            batch,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            truncation=False,
            verbose=False,
        )["input_ids"]
        lengths[start + 1 : start + 1 + len(batch)] = [len(ids) for ids in encoded]
        parts.extend(np.asarray(ids, dtype=np.int32) for ids in encoded)
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32), np.cumsum(lengths)
