"""Monolingual text of a corpus as content tokens: what the objectives on single strings start from."""

from collections.abc import Sequence

import numpy as np

from xbridge.core.errors import UserError
from xbridge.core.files import read_table
from xbridge.data.tokens import TokenTable, encode
from xbridge.objectives.base import Material


def monolingual(material: Material, languages: Sequence[str] | None) -> tuple[tuple[str, ...], list[TokenTable]]:
    """The languages (`None` = all of the corpus) and the tokens of each one's strings in the material's split.

    `UserError` where a language has no text.
    """
    file = material.corpus / "mono.parquet"
    table = read_table(file, ["split", "lang", "text"])
    split, lang = (np.asarray(table[name].to_pylist()) for name in ("split", "lang"))
    chosen = tuple(languages or dict.fromkeys(lang.tolist()))
    tables = []
    for language in chosen:
        rows = np.flatnonzero((lang == language) & (split == material.split))
        if not len(rows):
            raise UserError(f"{file}: no {material.split} text in {language}")
        tables.append(encode(material.tokenizer, table["text"].take(rows).to_pylist()))
    return chosen, tables
