"""Every kind of corpus file: what it yields, and the one line that a malformed one gets."""

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xbridge.core.config import parse_plugin
from xbridge.core.errors import ConfigError, UserError

LANGUAGES = ("eng_Latn", "deu_Latn", "rus_Cyrl")
PAIR = {"eng_Latn": "en", "deu_Latn": "de"}
ROWS = [{"en": "Open the door", "de": "Öffne die Tür"}, {"en": "Close it", "de": "Schließe es"}]
TEXTS = [{"eng_Latn": row["en"], "deu_Latn": row["de"]} for row in ROWS]


def read(data, languages=LANGUAGES):
    source = parse_plugin("xbridge.data.sources", data, "sources.0")
    return list(source.load().read(source.config, languages, languages[0]))


def texts(entries):
    return [entry.texts for entry in entries]


def error_of(data, languages=LANGUAGES):
    with pytest.raises(UserError) as caught:
        read(data, languages)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def compress(data: bytes, suffix: str) -> bytes:
    if suffix == ".gz":
        return gzip.compress(data)
    if suffix == ".zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(data)
        return sink.getvalue().to_pybytes()
    return data


# --- plain text ----------------------------------------------------------------------------------------------------


def write_sides(folder, left: bytes, right: bytes, suffix=""):
    paths = {"eng_Latn": folder / f"a.en{suffix}", "deu_Latn": folder / f"a.de{suffix}"}
    for path, data in zip(paths.values(), (left, right), strict=True):
        path.write_bytes(compress(data, suffix))
    return {"type": "text", "files": {code: str(path) for code, path in paths.items()}}


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_aligned_text_is_read_line_by_line(tmp_path, suffix):
    left = "".join(row["en"] + "\n" for row in ROWS).encode()
    right = "".join(row["de"] + "\r\n" for row in ROWS).encode()
    assert texts(read(write_sides(tmp_path, b"\xef\xbb\xbf" + left, right, suffix))) == TEXTS


def test_only_a_newline_ends_a_line(tmp_path):
    source = write_sides(tmp_path, "a\u2028b\x0cc\nd".encode(), b"e\nf\n")
    assert [e.texts["eng_Latn"] for e in read(source)] == ["a\u2028b\x0cc", "d"]


def test_unequal_sides_are_an_error_with_both_counts(tmp_path):
    message = error_of(write_sides(tmp_path, b"a\nb\nc\n", b"a\n"))
    assert f"{tmp_path}/a.en has 3 lines" in message
    assert f"{tmp_path}/a.de has 1 lines" in message


def test_invalid_utf8_is_an_error_with_file_and_line(tmp_path):
    message = error_of(write_sides(tmp_path, b"a\nb\n", b"a\n\xe4b\n"))
    assert message.startswith(f"{tmp_path}/a.de:2: not UTF-8 (byte 1 of the line is 0xe4)")


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_truncated_archive_is_an_error_with_its_name(tmp_path, suffix):
    source = write_sides(tmp_path, b"abcdefgh\n" * 9000, b"abcdefgh\n" * 9000, suffix)
    path = tmp_path / f"a.de{suffix}"
    path.write_bytes(path.read_bytes()[:-12])
    assert error_of(source).startswith(f"{path}: cannot be read")


def test_a_missing_file_is_an_error_with_its_name(tmp_path):
    source = write_sides(tmp_path, b"", b"")
    (tmp_path / "a.de").unlink()
    assert error_of(source) == f"{tmp_path}/a.de: no such file"


# --- tables ----------------------------------------------------------------------------------------------------


def test_tsv_takes_columns_by_name_and_keeps_quotes(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('id\tde\ten\n7\tÖffne "die" Tür\tOpen the door\n', encoding="utf-8")
    (entry,) = read({"type": "tsv", "path": str(path), "columns": PAIR, "key": "id"})
    assert entry.key == "7"
    assert entry.texts == {"eng_Latn": "Open the door", "deu_Latn": 'Öffne "die" Tür'}


def test_tsv_without_a_header_takes_columns_by_number(tmp_path):
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress("".join(f"{r['de']}\tx\t{r['en']}\n" for r in ROWS).encode()))
    source = {"type": "tsv", "path": str(path), "has_header": False, "columns": {"eng_Latn": 3, "deu_Latn": 1}}
    assert texts(read(source)) == TEXTS


def test_csv_cells_may_hold_commas_and_newlines(tmp_path):
    path = tmp_path / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([["en", "de"], ["a, b", "one\ntwo"]])
    source = {"type": "tsv", "path": str(path), "separator": "comma", "columns": PAIR}
    assert texts(read(source)) == [{"eng_Latn": "a, b", "deu_Latn": "one\ntwo"}]


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("en\tde\na\tb\nc\n", PAIR, ":3: 1 cells where the first row has 2"),
        ("en\tfr\na\tb\n", PAIR, ": no column 'de'; there is: en, fr"),
        ("", PAIR, ": no column 'en'; there is: nothing (the file is empty)"),
        ("en\tde\na\tb\n", {"deu_Latn": "de", "rus_Cyrl": "ru"}, ": columns: has no eng_Latn, the pivot"),
        ("en\tde\na\tb\n", {"eng_Latn": "en", "fra_Latn": "fr"}, "of which only the pivot is among"),
    ],
)
def test_a_malformed_table_gets_one_line(tmp_path, content, columns, message):
    path = tmp_path / "a.tsv"
    path.write_text(content, encoding="utf-8")
    found = error_of({"type": "tsv", "path": str(path), "columns": columns})
    assert found.startswith(str(path))
    assert message in found


def test_jsonl_reaches_into_nested_objects_and_null_is_absent(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [{"translation": {"en": "a", "de": "b"}}, {"translation": {"en": "c", "de": None}}]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
    columns = {"eng_Latn": "translation.en", "deu_Latn": "translation.de"}
    found = texts(read({"type": "jsonl", "path": str(path), "columns": columns}))
    assert found == [{"eng_Latn": "a", "deu_Latn": "b"}, {"eng_Latn": "c"}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"en": "a",', ":2: not valid JSON"),
        ('{"en": "a"}', ":2: no column 'de' (for deu_Latn); there is: en"),
        ('{"en": "a", "de": 3}', ":2: column 'de' (for deu_Latn) is int, expected text"),
        ('["a"]', ":2: no column 'en' (for eng_Latn); there is: list"),
    ],
)
def test_a_malformed_json_line_is_named(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + line + "\n", encoding="utf-8")
    assert error_of({"type": "jsonl", "path": str(path), "columns": PAIR}).startswith(f"{path}{message}")


def test_parquet_reads_a_folder_in_the_order_of_names_and_structs(tmp_path):
    columns = {"eng_Latn": "translation.en", "deu_Latn": "translation.de"}
    for name, row in (("b.parquet", ROWS[1]), ("a.parquet", ROWS[0])):
        pq.write_table(pa.Table.from_pylist([{"translation": row, "score": 1.0}]), tmp_path / name)
    assert texts(read({"type": "parquet", "path": str(tmp_path), "columns": columns})) == TEXTS


def test_a_malformed_parquet_file_gets_one_line(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 nothing")
    assert error_of({"type": "parquet", "path": str(path), "columns": PAIR}).startswith(f"{path}: not a readable")
    pq.write_table(pa.table({"en": ["a"]}), path)
    assert "row 1: no column 'de' (for deu_Latn)" in error_of({"type": "parquet", "path": str(path), "columns": PAIR})
    assert error_of({"type": "parquet", "path": str(tmp_path / "x"), "columns": PAIR}).endswith("x: no such file")


def test_a_saved_data_set_is_read_from_its_folder(tmp_path):
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    assert texts(read({"type": "hub", "folder": str(tmp_path / "saved"), "columns": PAIR})) == TEXTS


@pytest.mark.parametrize(
    ("settings", "path"),
    [({}, "id"), ({"id": "a/b", "folder": "x"}, "id"), ({"id": "a/b"}, "revision")],
)
def test_a_hub_id_needs_a_revision_and_no_folder(settings, path):
    with pytest.raises(ConfigError) as caught:
        parse_plugin("xbridge.data.sources", {"type": "hub", "columns": PAIR, **settings}, "sources.0")
    assert caught.value.path == f"sources.0.{path}"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"eng_Latn": "en", "de": "de"}, "sources.0.columns.de: unknown language 'de'; did you mean deu_Latn"),
        ({"eng_Latn": "en"}, "sources.0.columns: name at least two languages"),
    ],
)
def test_columns_are_checked_when_the_config_is_read(columns, message):
    with pytest.raises(ConfigError) as caught:
        parse_plugin("xbridge.data.sources", {"type": "jsonl", "path": "x", "columns": columns}, "sources.0")
    assert str(caught.value).startswith(message)


# --- TMX -------------------------------------------------------------------------------------------------------

TMX = """<?xml version="1.0" encoding="{encoding}"?>
<!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4"><header srclang="en"/><body><tu tuid="u1">
<tuv xml:lang="EN-US"><seg>Open &amp; close <bpt i="1">&lt;b&gt;</bpt>the <hi>door</hi><ept i="1"/></seg></tuv>
<tuv xml:lang="de"><seg>Öffne</seg></tuv><tuv xml:lang="fr-FR"><seg>Ouvre</seg></tuv></tu>
<tu><tuv lang="en"><seg>Second</seg></tuv><tuv xml:lang="ru"><seg>Второй</seg></tuv></tu>
</body></tmx>
"""


def tmx(path, content, encoding="utf-8", suffix="", **settings):
    path = path / f"a.tmx{suffix}"
    path.write_bytes(compress(content.encode(encoding), suffix))
    return {"type": "tmx", "path": str(path), **settings}


@pytest.mark.parametrize(("encoding", "suffix"), [("utf-8", ""), ("utf-16", ""), ("utf-8", ".gz")])
def test_tmx_units_are_read_without_native_codes_and_other_languages(tmp_path, encoding, suffix):
    entries = read(tmx(tmp_path, TMX.format(encoding=encoding), encoding, suffix))
    assert texts(entries) == [
        {"eng_Latn": "Open & close the door", "deu_Latn": "Öffne"},
        {"eng_Latn": "Second", "rus_Cyrl": "Второй"},
    ]
    assert [entry.key for entry in entries] == ["u1", ""]


def test_an_unknown_tmx_language_is_named_and_can_be_mapped(tmp_path):
    content = TMX.format(encoding="utf-8").replace('"de"', '"no"')
    assert error_of(tmx(tmp_path, content)) == (
        f"{tmp_path}/a.tmx:5: unknown language 'no'; say what it is with tags: {{no: code}}"
    )
    entries = read(tmx(tmp_path, content, tags={"no": "nob_Latn"}), ("eng_Latn", "nob_Latn"))
    assert entries[0].texts["nob_Latn"] == "Öffne"


def test_a_bomb_of_entities_is_refused_before_it_grows(tmp_path):
    levels = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
    content = f'<?xml version="1.0"?><!DOCTYPE tmx [<!ENTITY e0 "ha">{levels}]><tmx><seg>&e11;</seg></tmx>'
    assert "declares the entity 'e0'" in error_of(tmx(tmp_path, content))


def test_damaged_xml_is_an_error_with_its_line(tmp_path):
    content = TMX.format(encoding="utf-8").replace("</seg></tuv></tu>", "</tuv></tu>", 1)
    assert error_of(tmx(tmp_path, content)).startswith(f"{tmp_path}/a.tmx:5: not valid TMX (mismatched tag)")
