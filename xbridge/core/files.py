"""Files that are whole or absent: every write goes to a temporary name in the same folder and is renamed."""

import errno
import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xbridge.core.errors import UserError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path`; `UserError` where a living process holds it. A dead one's lock is free at once.

    File systems without locks are gone on with, unlocked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = stream.read().strip() or "unknown"
            raise UserError(f"{path.parent}: another run ({holder}) {what}; wait for it or stop it") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}")
        stream.flush()
        yield


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Write indented UTF-8 JSON atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; a damaged one raises `UserError` with its name."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: damaged ({error}); delete its folder and run again") from None


def write_table(path: Path, rows: pa.Table | Sequence[Mapping[str, Any]], schema: pa.Schema | None = None) -> None:
    """Write a parquet file atomically from a table or from rows. Give a schema where there may be no rows."""
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), schema=schema)
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_table(path: Path, columns: Sequence[str] | None = None, where: pc.Expression | None = None) -> pa.Table:
    """Read a parquet file, or its rows `where` something holds; a damaged or missing one raises `UserError`."""
    try:
        return pq.read_table(path, columns=list(columns) if columns is not None else None, filters=where)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a readable parquet file ({str(error).splitlines()[0]})") from None


def iterate_table(path: Path, columns: Sequence[str], *, rows: int) -> Iterator[pa.RecordBatch]:
    """Batches of at most `rows` rows of a parquet file; errors as in `read_table`."""
    try:
        yield from pq.ParquetFile(path).iter_batches(batch_size=rows, columns=list(columns))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a readable parquet file ({str(error).splitlines()[0]})") from None


def read_rows(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Rows of a parquet file as dictionaries."""
    rows: list[dict[str, Any]] = read_table(path, columns).to_pylist()
    return rows


def sha256_of_path(path: Path) -> str:
    """Hex sha256 of a file, or of the names and contents of all files below a folder."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_file():
        return _sha256_of_file(path)
    whole = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        whole.update(f"{file.relative_to(path).as_posix()}\0{_sha256_of_file(file)}\n".encode())
    return whole.hexdigest()


def _sha256_of_file(path: Path) -> str:
    result = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            result.update(block)
    return result.hexdigest()


def size_of(path: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
