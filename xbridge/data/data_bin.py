"""Folders that fairseq-preprocess has written, read as a corpus: dict.txt, train.en-de.en.idx, train.en-de.en.bin, ...

Any number of pairs may stand in one folder; `valid` is read as the dev split. Tokens are fairseq's numbers: `<s>` 0,
`<pad>` 1, `</s>` 2, `<unk>` 3, then the lines of the dictionary (dict.<language>.txt, or dict.txt for all). They become
the tokenizer's by the text of their pieces; the `</s>` that ends each row is left out.

An index (`--dataset-impl mmap`) holds, little-endian: the 9 bytes `MMIDIDX\\0\\0`, the version 1 (uint64), the number
of the token type (uint8), the number of rows (uint64), the tokens of each row (int32), and where each row begins in the
.bin file, in bytes (int64).
"""

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xbridge.core.config import digest_of
from xbridge.core.errors import UserError
from xbridge.core.files import sha256_of_path
from xbridge.data.languages import from_tag
from xbridge.data.numbering import Block
from xbridge.data.textfiles import read_lines
from xbridge.data.tokenizer_identity import identity_of
from xbridge.data.tokens import TokenTable, starts_of

MAGIC, HEADER = b"MMIDIDX\0\0", struct.Struct("<9sQBQ")
TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2", 9: "<u4", 10: "<u8"}
END = 2
ROWS = 65_536  # per block
FILLER = re.compile(r"madeupword\d+")  # fairseq fills dictionaries up to a multiple of 8; no text has these
NAME = re.compile(r"(train|valid|test)\d*\.([^.-]+)-([^.-]+)\.([^.]+)\.idx")
SPLITS = {"train": "train", "valid": "dev", "test": "test"}


def is_data_bin(folder: Path) -> bool:
    """True for a folder with an index of a pair."""
    return any(NAME.fullmatch(path.name) for path in folder.glob("*.idx"))


@dataclass(frozen=True)
class _Pair:
    """One split of one pair: paths without .idx and .bin, and the languages as the file names have them."""

    split: str
    names: tuple[str, str]
    source: Path
    target: Path


class DataBin:
    """The pairs of a folder in a tokenizer's vocabulary. `UserError` for a piece or a language that is not known."""

    def __init__(self, folder: Path, tokenizer: Any):
        self._folder, self._tokenizer = folder, tokenizer
        self._pairs = list(_pairs_in(folder))
        self._codes = {name: _code(name, folder) for pair in self._pairs for name in pair.names}
        vocabulary = tokenizer.get_vocab()
        special = [tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]
        files = {name: _dictionary(folder, name) for name in self._codes}
        maps = {file: _numbers_of(file, vocabulary, special) for file in set(files.values())}
        self._maps = {name: maps[file] for name, file in files.items()}
        self._files = sorted(maps)

    def identity(self) -> str:
        """The dictionaries, the indices, the sizes of what they index, and the tokenizer."""
        indices = [path.with_name(path.name + ".idx") for pair in self._pairs for path in (pair.source, pair.target)]
        return digest_of(
            "data-bin",
            [sha256_of_path(path) for path in self._files],
            [(path.name, sha256_of_path(path), path.with_suffix(".bin").stat().st_size) for path in indices],
            identity_of(self._tokenizer),
        )

    def blocks(self) -> Iterator[Block]:
        """The pairs; a string's bytes are its tokens in the tokenizer's numbers."""
        for pair in self._pairs:
            sides = [read_index(path) for path in (pair.source, pair.target)]
            if len(sides[0]) != len(sides[1]):
                raise UserError(f"{pair.source}: has {len(sides[0])} rows, its other side has {len(sides[1])}")
            group = (pair.split, *(self._codes[name] for name in pair.names))
            for start in range(0, len(sides[0]), ROWS):
                rows = np.arange(start, min(start + ROWS, len(sides[0])))
                source, target = (
                    self._strings(side.take(rows), name) for side, name in zip(sides, pair.names, strict=True)
                )
                yield Block("bitext", [group] * len(rows), {"source": source, "target": target})

    def encode(self, strings: Sequence[bytes]) -> TokenTable:
        """The tokens that the strings are made of."""
        lengths = np.fromiter((len(string) // 4 for string in strings), dtype=np.int64, count=len(strings))
        return TokenTable(np.frombuffer(b"".join(strings), dtype="<i4"), starts_of(lengths))

    def largest_id(self) -> int:
        """The largest number in the tokenizer's vocabulary."""
        return int(max(self._tokenizer.get_vocab().values()))

    def _strings(self, table: TokenTable, name: str) -> list[bytes]:
        numbers = self._maps[name]
        if table.ids.max(initial=0) >= len(numbers):
            raise UserError(
                f"{self._folder}: a {name} text has token {table.ids.max()}, its dictionary ends at {len(numbers) - 1}"
            )
        raw = numbers[table.ids].astype("<i4").tobytes()
        lengths = table.lengths
        ends = table.starts[1:] - ((lengths > 0) & (table.ids[np.maximum(table.starts[1:] - 1, 0)] == END))
        return [raw[4 * a : 4 * b] for a, b in zip(table.starts[:-1].tolist(), ends.tolist(), strict=True)]


def read_index(prefix: Path) -> TokenTable:
    """The rows of `prefix`.idx and `prefix`.bin as a map; `UserError` where the two are not what they should be."""
    index, data = (prefix.with_name(f"{prefix.name}.{kind}") for kind in ("idx", "bin"))
    for path in (index, data):
        if not path.exists():
            raise UserError(f"{path}: no such file; an index and its .bin file belong together")
    head = index.open("rb").read(HEADER.size)
    if len(head) < HEADER.size or not head.startswith(MAGIC):
        raise UserError(f"{index}: not an index of memory maps; run fairseq-preprocess with --dataset-impl mmap")
    _, version, kind, count = HEADER.unpack(head)
    if version != 1 or kind not in TYPES:
        raise UserError(f"{index}: version {version} with token type {kind} is not known")
    if index.stat().st_size != HEADER.size + 12 * count:
        raise UserError(f"{index}: has {index.stat().st_size} bytes, {count} rows take {HEADER.size + 12 * count}")
    sizes = np.fromfile(index, dtype="<i4", count=count, offset=HEADER.size).astype(np.int64)
    places = np.fromfile(index, dtype="<i8", count=count, offset=HEADER.size + 4 * count)
    starts, width = starts_of(sizes), np.dtype(TYPES[kind]).itemsize
    if data.stat().st_size != int(starts[-1]) * width or not np.array_equal(places, starts[:-1] * width):
        raise UserError(f"{data}: is not what {index.name} describes; one of the two is damaged or of another run")
    if not starts[-1]:
        return TokenTable(np.zeros(0, dtype=TYPES[kind]), starts)
    return TokenTable(np.memmap(data, dtype=TYPES[kind], mode="r"), starts)


def _pairs_in(folder: Path) -> Iterator[_Pair]:
    """Each pair once, by its source side; train, train1, train2 ... are all the training split."""
    for path in sorted(folder.glob("*.idx")):
        found = NAME.fullmatch(path.name)
        if found and found[4] == found[2]:
            stem = path.name.removesuffix(f".{found[4]}.idx")
            yield _Pair(
                SPLITS[found[1]], (found[2], found[3]), folder / f"{stem}.{found[2]}", folder / f"{stem}.{found[3]}"
            )


def _code(name: str, folder: Path) -> str:
    language = from_tag(name)
    if language is None:
        raise UserError(f"{folder}: {name!r} names no one language; link its files under a code such as deu_Latn")
    return language.code


def _dictionary(folder: Path, name: str) -> Path:
    for path in (folder / f"dict.{name}.txt", folder / "dict.txt"):
        if path.exists():
            return path
    raise UserError(f"{folder}: has neither dict.{name}.txt nor dict.txt")


def _numbers_of(file: Path, vocabulary: dict[str, int], special: Sequence[int | None]) -> NDArray[np.int32]:
    """The tokenizer's number of each of fairseq's; filler words that the tokenizer lacks become unknown."""
    numbers = list(special)
    for line in read_lines(file):
        piece = line.rsplit(" ", 1)[0].removesuffix(" #fairseq:overwrite")
        number = vocabulary.get(piece, special[3] if FILLER.fullmatch(piece) else None)
        if number is None:
            line_number = len(numbers) - len(special) + 1
            raise UserError(
                f"{file}:{line_number}: the tokenizer has no piece {piece!r}; the folder was made with another"
            )
        numbers.append(number)
    if None in numbers:
        raise UserError(f"{file}: the tokenizer needs the tokens <s>, <pad>, </s> and <unk> to read it")
    return np.asarray(numbers, dtype=np.int32)
