"""Text of a corpus as content tokens: where every objective's strings come from."""

from collections.abc import Sequence

import numpy as np

from xbridge.core.errors import UserError
from xbridge.data.corpus_text import CorpusText
from xbridge.data.token_store import Store, open_store
from xbridge.data.tokens import Selection
from xbridge.objectives.base import Material


def store_of(material: Material) -> Store:
    """The token store of the material's corpus and tokenizer, built now where there is none yet."""
    return open_store(material.tokens, CorpusText(material.corpus, material.tokenizer))


def monolingual(material: Material, languages: Sequence[str] | None) -> tuple[tuple[str, ...], list[Selection]]:
    """The languages (`None` = all of the corpus) and the tokens of each one's strings in the material's split.

    `UserError` where a language has no text.
    """
    store = store_of(material)
    table = store.tables.get("mono", {})
    chosen = tuple(languages or dict.fromkeys(language for _, language in table))
    selections = []
    for language in chosen:
        columns = table.get((material.split, language))
        if columns is None:
            raise UserError(f"{material.corpus}: holds no {material.split} text in {language}")
        selections.append(Selection(store.tokens, np.asarray(columns["text"])))
    return chosen, selections
