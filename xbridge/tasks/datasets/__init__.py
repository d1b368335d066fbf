"""Sources of labelled sentences, one module each; `type: table` in a config is `xbridge.tasks.datasets.table`.

A module has a `Config`, `read(config, languages, source_lang, corpus)`, which yields `Sentence`s in a fixed order, and
`describe(config)`, what the card says of it. `corpus` is a corpus folder or None.
"""

from typing import NamedTuple


class Sentence(NamedTuple):
    """One labelled sentence. `label` is None in tagging data; `words` and `tags` are empty in classification data."""

    id: str
    split: str
    lang: str
    text: str
    label: str | None
    words: tuple[str, ...]
    tags: tuple[str, ...]
    group: str
    """What it was made from (a template): groups do not cross splits."""
