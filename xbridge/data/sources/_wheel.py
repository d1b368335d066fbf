"""Fetching a pinned wheel from the user's package index, through pip so that mirror and proxy settings hold."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from xbridge.core.console import log
from xbridge.core.errors import UserError
from xbridge.core.files import sha256_of_path


def cache_folder() -> Path:
    """Where downloads are kept: $XBRIDGE_CACHE, else $XDG_CACHE_HOME/xbridge, else ~/.cache/xbridge."""
    if os.environ.get("XBRIDGE_CACHE"):
        return Path(os.environ["XBRIDGE_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "xbridge"


def fetch_wheel(package: str, version: str, sha256: str, *, python_version: str) -> Path:
    """Path of the wheel in the cache, downloaded if it is not there. `UserError` unless its sha256 is the one given.

    `python_version`: the Python to resolve for; the wheel is only read, so it need not be the one that runs.
    """
    path = cache_folder() / f"{package}-{version}-py3-none-any.whl"
    if not path.exists():
        _download(path, package, version, sha256, python_version)
    check_sha256(path, sha256, "delete it and run again to fetch it anew")
    return path


def check_sha256(path: Path, expected: str, remedy: str) -> None:
    """Raise `UserError` where the file is not the one that was pinned."""
    found = sha256_of_path(path)
    if found != expected:
        size = path.stat().st_size
        raise UserError(
            f"{path}: sha256 is {found} ({size} bytes), expected {expected}: truncated or changed; {remedy}"
        )


def _download(path: Path, package: str, version: str, sha256: str, python_version: str) -> None:
    manual = (
        f"fetch {path.name} (package {package}, version {version}, sha256 {sha256}) on a machine that has a network, "
        f"for example with `python -m pip download --no-deps --only-binary=:all: --python-version {python_version} "
        f"{package}=={version}`, and put it at {path}, or set `wheel:` of the homeassistant source to its path"
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent}: cannot make the cache folder ({error.strerror}); set XBRIDGE_CACHE") from None
    log("download", package=package, version=version, to=path.parent)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=path.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--python-version", python_version, "--dest", folder]
        done = subprocess.run([*command, f"{package}=={version}"], capture_output=True, text=True, check=False)
        fetched = Path(folder) / path.name
        if done.returncode != 0 or not fetched.exists():
            raise UserError(f"pip could not download {package}=={version} ({_reason(done.stderr)}); {manual}")
        check_sha256(fetched, sha256, f"the package index served another file; {manual}")
        fetched.replace(path)


def _reason(stderr: str) -> str:
    errors = [line.strip() for line in stderr.splitlines() if line.strip().startswith("ERROR:")]
    lines = errors or [line.strip() for line in stderr.splitlines() if line.strip()]
    return lines[-1].removeprefix("ERROR:").strip() if lines else "no message"
