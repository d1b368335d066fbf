"""Files are whole or absent."""

import pyarrow as pa
import pytest

from xbridge.core.errors import UserError
from xbridge.core.files import (
    atomic,
    read_json,
    read_rows,
    read_table,
    sha256_of_path,
    size_of,
    write_json,
    write_table,
)


def write_half_and_fail(target):
    with atomic(target) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError("killed here")


def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path):
    target = tmp_path / "a.json"
    write_json(target, {"old": 1})
    with pytest.raises(RuntimeError):
        write_half_and_fail(target)
    assert read_json(target) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_json_refuses_nan_and_keeps_other_scripts_readable(tmp_path):
    write_json(tmp_path / "a.json", {"text": "语言"})
    assert "语言" in (tmp_path / "a.json").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "b.json", {"loss": float("nan")})
    assert not (tmp_path / "b.json").exists()


def test_rows_survive_a_parquet_round_trip_also_when_there_are_none(tmp_path):
    rows = [{"id": "a", "n": 1}, {"id": "b", "n": None}]
    write_table(tmp_path / "t.parquet", rows)
    assert read_rows(tmp_path / "t.parquet") == rows
    schema = pa.schema([("id", pa.string())])
    write_table(tmp_path / "empty.parquet", [], schema=schema)
    assert read_table(tmp_path / "empty.parquet").schema == schema


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match=r"x\.parquet: not a readable parquet file"):
        read_table(tmp_path / "x.parquet")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(UserError, match=r"x\.json: damaged"):
        read_json(tmp_path / "x.json")
    with pytest.raises(UserError, match="no such file"):
        read_table(tmp_path / "absent.parquet")


def test_a_folder_hash_depends_on_names_and_contents(tmp_path):
    folder = tmp_path / "f"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a").write_text("1")
    before = sha256_of_path(folder)
    (folder / "sub" / "a").rename(folder / "sub" / "b")
    assert sha256_of_path(folder) != before
    (folder / "sub" / "b").rename(folder / "sub" / "a")
    assert sha256_of_path(folder) == before
    assert size_of(folder) == 1


def test_the_hash_of_a_file_is_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of_path(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
