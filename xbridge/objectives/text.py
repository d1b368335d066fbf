"""Text of a corpus as content tokens: where every objective's strings come from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xbridge.core.errors import UserError
from xbridge.data.corpus_text import CorpusText
from xbridge.data.data_bin import DataBin, is_data_bin
from xbridge.data.sampling import Examples, Part, temperature_schedule
from xbridge.data.token_store import Corpus, Store, open_store
from xbridge.data.tokens import Selection, TokenTable, joined, starts_of
from xbridge.objectives.base import Material
from xbridge.objectives.seq2seq import fits


def store_of(material: Material) -> Store:
    """The token store of the material's corpus and tokenizer, built now where there is none yet."""
    return open_store(material.tokens, corpus_of(material.corpus, material.tokenizer))


def corpus_of(folder: Path, tokenizer: Any) -> Corpus:
    """What a folder holds: the tables of a corpus stage, or the pairs of fairseq-preprocess."""
    return DataBin(folder, tokenizer) if is_data_bin(folder) else CorpusText(folder, tokenizer)


def monolingual(material: Material, languages: Sequence[str] | None) -> tuple[tuple[str, ...], list[Selection]]:
    """The languages (`None` = all of the corpus) and the tokens of each one's strings in the material's split.

    `UserError` where a language has no text.
    """
    store = store_of(material)
    texts = _texts(store, material.split)
    everything = dict.fromkeys(group[-1] for group in store.tables.get("mono", {})) or texts
    chosen = tuple(languages or everything)
    for language in chosen:
        if language not in texts:
            raise UserError(f"{material.corpus}: holds no {material.split} text in {language}")
    return chosen, [Selection(store.tokens, texts[language]) for language in chosen]


class Strings:
    """The strings of some languages that are not too long, as parts of an objective: one per language."""

    def __init__(self, material: Material, languages: Sequence[str], texts: Sequence[Selection]):
        kept = [text.select(np.flatnonzero(fits(text.lengths, material.max_tokens))) for text in texts]
        self.num_dropped = sum(map(len, texts)) - sum(map(len, kept))
        for language, text in zip(languages, kept, strict=True):
            if not len(text):
                raise UserError(f"max_tokens: no {language} string has at most {material.max_tokens} tokens")
        self.parts = [Part(name=name, size=len(text)) for name, text in zip(languages, kept, strict=True)]
        self.shares = temperature_schedule([part.size for part in self.parts], material.temperature)
        self._text = joined(kept)
        self._first = starts_of(np.asarray([part.size for part in self.parts]))

    def lengths(self, examples: Examples) -> NDArray[np.int64]:
        """(n,) content tokens of examples."""
        return self._text.lengths_of(self._first[examples.part] + examples.row)

    def take(self, examples: Examples) -> TokenTable:
        """Content tokens of examples."""
        return self._text.take(self._first[examples.part] + examples.row)


def _texts(store: Store, split: str) -> dict[str, NDArray[np.int32]]:
    """Numbers of a split's strings by language: its single strings, or where there are none each side of its pairs."""
    single = {group[1]: columns["text"] for group, columns in store.tables.get("mono", {}).items() if group[0] == split}
    if "mono" in store.tables:
        return single
    sides: dict[str, list[NDArray[np.int32]]] = {}
    for (of, source, target), columns in store.tables["bitext"].items():
        if of == split:
            sides.setdefault(source, []).append(columns["source"])
            sides.setdefault(target, []).append(columns["target"])
    return {language: np.unique(np.concatenate(numbers)) for language, numbers in sides.items()}
