"""A folder as fairseq-preprocess leaves it, written byte by byte from the description of its format."""

import struct

TYPE_NUMBERS = {"H": 8, "i": 4}  # uint16, int32


def write_rows(prefix, rows, *, kind="H", magic=b"MMIDIDX\0\0", version=1):
    """`prefix`.idx and `prefix`.bin of rows of numbers."""
    width = struct.calcsize(kind)
    index = magic + struct.pack("<QBQ", version, TYPE_NUMBERS[kind], len(rows))
    index += b"".join(struct.pack("<i", len(row)) for row in rows)
    place = 0
    for row in rows:
        index += struct.pack("<q", place)
        place += len(row) * width
    data = b"".join(struct.pack("<" + kind * len(row), *row) for row in rows)
    prefix.with_name(prefix.name + ".idx").write_bytes(index)
    prefix.with_name(prefix.name + ".bin").write_bytes(data)


def write_data_bin(folder, words, pairs, *, splits=("train", "valid"), kind="H"):
    """One dictionary of `words`, and in every split `pairs`: {(source, target): [(text, text), ...]}."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dict.txt").write_text("".join(f"{word} 1\n" for word in words), encoding="utf-8")
    number = {word: index + 4 for index, word in enumerate(words)}
    for split in splits:
        for (source, target), rows in pairs.items():
            for side, name in enumerate((source, target)):
                ids = [[*(number[word] for word in row[side].split()), 2] for row in rows]
                write_rows(folder / f"{split}.{source}-{target}.{name}", ids, kind=kind)
    return folder
