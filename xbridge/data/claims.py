"""Folders that several processes, also of several machines, may want to make at once: whole or absent, made once.

A folder is made under a temporary name and renamed. A file system lets one rename to a name win and refuses the others,
also across machines, so nobody ever sees half a folder. That alone is what correctness rests on. A `Claim` saves work
on top of it: the first to create its file builds, the others wait. No lock is taken, for locks do not hold on every
network file system, and clocks of two machines are never compared: a claim is dead when its owner is a process of this
machine that has ended, or when the waiting process has not seen it renewed for `PATIENCE_SECONDS`.
"""

import errno
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from xbridge.core.console import log

PATIENCE_SECONDS = 150.0
"""Longer than a network file system may show an old time of change (NFS: 60 s)."""
RENEW_SECONDS = 2.0


class Claim:
    """`with Claim(path) as claim`: either `is_mine` is true, or whoever had it has just given it up or died."""

    def __init__(self, path: Path):
        self._path = path
        self._owner = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(8)}"
        self._renewed = time.monotonic()
        self.is_mine = False

    def __enter__(self) -> "Claim":
        try:
            with self._path.open("x", encoding="utf-8") as stream:
                stream.write(self._owner)
            self.is_mine = True
        except FileExistsError:
            self._wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.is_mine and _text(self._path) == self._owner:
            self._path.unlink(missing_ok=True)

    def renew(self) -> None:
        """Say that the work goes on; call it as often as you like."""
        if time.monotonic() - self._renewed > RENEW_SECONDS:
            self._renewed = time.monotonic()
            if self._path.exists():
                os.utime(self._path)

    def _wait(self) -> None:
        log("waiting", until_another_process_has_made=self._path.stem)
        seen, since, pause = _changed(self._path), time.monotonic(), 0.02
        while (now := _changed(self._path)) is not None:
            if now != seen:
                seen, since = now, time.monotonic()
            if time.monotonic() - since > PATIENCE_SECONDS or _has_ended(_text(self._path)):
                self._path.unlink(missing_ok=True)
                return
            time.sleep(pause)
            pause = min(2 * pause, 1.0)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder` and rename it to that when the block ends without an error.

    Where another process was faster, its folder stays and this one's goes.
    """
    temporary = folder.with_name(f".{folder.name}.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        try:
            temporary.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def discard(folder: Path) -> None:
    """Remove a folder that others may be looking at: it is gone at once, not file by file."""
    away = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        folder.rename(away)
    except FileNotFoundError:
        return
    shutil.rmtree(away, ignore_errors=True)


def _changed(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _has_ended(owner: str) -> bool:
    """True where the owner was a process of this machine and is no more; False where that cannot be told."""
    host, _, rest = owner.partition(" ")
    process = rest.partition(" ")[0]
    if host != socket.gethostname() or not process:
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
