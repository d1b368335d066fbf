"""A corpus stage's tables as the text that a token store is built from."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from xbridge.core.artifact import MANIFEST, read_manifest
from xbridge.core.config import digest_of
from xbridge.core.errors import UserError
from xbridge.core.files import iterate_table, sha256_of_path
from xbridge.data.numbering import Block
from xbridge.data.tokenizer_identity import identity_of
from xbridge.data.tokens import TokenTable, encode

ROWS = 65536  # per block
TABLES = {
    "bitext": (("split", "source_lang", "target_lang"), ("source", "target")),
    "mono": (("split", "lang"), ("text",)),
}
"""What names the group of a row, and which columns hold its strings."""


class CorpusText:
    """bitext.parquet and mono.parquet of a folder; one of the two may be missing."""

    def __init__(self, folder: Path, tokenizer: Any):
        self._folder, self._tokenizer = folder, tokenizer
        self._tables = [name for name in TABLES if self._file(name).exists()]
        if not self._tables:
            raise UserError(f"{folder}: holds neither bitext.parquet nor mono.parquet; give the folder of a corpus")

    def identity(self) -> str:
        """The stage's digest where it is one, else that of the files; and the tokenizer's content."""
        if (self._folder / MANIFEST).exists():
            content = [read_manifest(self._folder)["digest"]]
        else:
            content = [sha256_of_path(self._file(name)) for name in self._tables]
        sizes = [self._file(name).stat().st_size for name in self._tables]
        return digest_of("corpus", self._tables, content, sizes, identity_of(self._tokenizer))

    def blocks(self) -> Iterator[Block]:
        """The rows of the two tables."""
        for name in self._tables:
            groups, columns = TABLES[name]
            for batch in iterate_table(self._file(name), [*groups, *columns], rows=ROWS):
                names = list(zip(*(batch[group].to_pylist() for group in groups), strict=True))
                yield Block(name, names, {column: batch[column].cast(pa.binary()).to_pylist() for column in columns})

    def encode(self, strings: Sequence[bytes]) -> TokenTable:
        """Tokens by the tokenizer."""
        return encode(self._tokenizer, [string.decode("utf-8") for string in strings])

    def largest_id(self) -> int:
        """The largest number in the vocabulary, added tokens included."""
        return int(max(self._tokenizer.get_vocab().values()))

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.parquet"
