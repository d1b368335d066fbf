"""Reading users' text files: plain, .gz or .zst, UTF-8, one record per line."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from xbridge.core.errors import UserError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@contextmanager
def open_binary(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, decompressed by its suffix (.gz, .zst). Missing or damaged files raise `UserError`."""
    try:
        with _open(path) as stream:
            yield stream
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; give a file") from None
    except (EOFError, zlib.error, OSError) as error:
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: cannot be read ({problem}); is it whole?") from None


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if path.suffix == ".zst":
        import pyarrow as pa

        return io.BufferedReader(cast(io.RawIOBase, pa.input_stream(str(path), compression="zstd")))
    return path.open("rb")


def read_lines(path: Path) -> Iterator[str]:
    """Lines without their end (\\n or \\r\\n; no other character ends a line, so files stay aligned).

    Bytes that are not UTF-8 raise `UserError` with the file and the line.
    """
    with open_binary(path) as stream:
        for number, line in enumerate(stream, start=1):
            if number == 1:
                line = line.removeprefix(_BYTE_ORDER_MARK)
            yield decode(line.rstrip(b"\n").removesuffix(b"\r"), f"{path}:{number}")


def decode(data: bytes, where: str) -> str:
    """Strict UTF-8; `where` names the place in the error."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8 (byte {error.start + 1} of the line is 0x{data[error.start]:02x}); "
            "convert the file to UTF-8"
        ) from None
