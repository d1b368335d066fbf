"""The translation catalogues of Home Assistant, read from its wheel: 36,690 distinct English strings, 64 locales.

Messages are aligned by component and key. The wheel is on every package index, under Apache-2.0; it is pinned by
version and sha256 because translations come and go between versions. It is read in place, never installed.
"""

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xbridge.core.config import InputPath, undigested
from xbridge.core.console import progress
from xbridge.core.errors import UserError
from xbridge.data.entries import Entry
from xbridge.data.languages import from_tag
from xbridge.data.sources._wheel import check_sha256, fetch_wheel

PACKAGE = "homeassistant"
_MAX_CATALOGUE_BYTES = 16 << 20
"""The largest catalogue of 2026.11.0 has 0.2 MB; a member that claims far more is not one."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which release. A change of `version` needs that wheel's `sha256`."""

    version: str = "2026.11.0"
    """Release of the package."""
    sha256: str = "7ca5fbde9dea879ac7723949fc84347aac5182e6309c357b2e4973fd391b00f7"
    """Hash of `homeassistant-<version>-py3-none-any.whl`."""
    python_version: str = undigested("3.14.2")
    """The Python that pip resolves for (the release's Requires-Python); it need not be the one that runs."""
    wheel: InputPath | None = undigested(None)
    """Path of the wheel where it cannot be downloaded; null = download it to the cache."""


def read(config: Config, languages: tuple[str, ...], pivot: str) -> Iterator[Entry]:
    """One entry per message of the pivot; keys are `component/path/of/the/message`."""
    path = locate(config)
    try:
        with zipfile.ZipFile(path) as archive:
            catalogues = _catalogues(archive, languages)
            with progress("read", total=len(catalogues), unit="component") as bar:
                for component in sorted(catalogues):
                    yield from _entries(archive, component, catalogues[component], pivot)
                    bar.update()
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: not a readable wheel ({error})") from None


def describe(config: Config) -> dict[str, Any]:
    """Kind, licence, version and hash, for the data card."""
    file = {"name": f"{PACKAGE}-{config.version}-py3-none-any.whl", "sha256": config.sha256}
    return {"kind": "homeassistant", "licence": "Apache-2.0", "version": config.version, "files": [file]}


def locate(config: Config) -> Path:
    """The checked wheel: `config.wheel`, or the one in the cache, downloaded if need be."""
    if config.wheel is None:
        return fetch_wheel(PACKAGE, config.version, config.sha256, python_version=config.python_version)
    path = Path(config.wheel)
    if not path.is_file():
        raise UserError(f"wheel: {path}: no such file")
    check_sha256(path, config.sha256, f"`wheel:` must be {PACKAGE} {config.version}")
    return path


def _catalogues(archive: zipfile.ZipFile, languages: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """{component: {language: member}} of `homeassistant/components/<component>/translations/<locale>.json`."""
    found: dict[str, dict[str, str]] = {}
    for member in archive.namelist():
        parts = member.split("/")
        if len(parts) != 5 or parts[1] != "components" or parts[3] != "translations" or not member.endswith(".json"):
            continue
        locale = parts[4].removesuffix(".json")
        if "." in locale:  # `sensor.de.json`: releases before 2024.4 kept old per-platform copies
            continue
        known = from_tag(locale)
        if known is not None and known.code in languages:
            found.setdefault(parts[2], {})[known.code] = member
    return found


def _entries(archive: zipfile.ZipFile, component: str, members: dict[str, str], pivot: str) -> Iterator[Entry]:
    if pivot not in members:
        return
    messages = {code: dict(_flatten(_load(archive, member), component)) for code, member in members.items()}
    for key in messages[pivot]:
        yield Entry(key, {code: texts[key] for code, texts in messages.items() if key in texts})


def _load(archive: zipfile.ZipFile, member: str) -> Any:
    if archive.getinfo(member).file_size > _MAX_CATALOGUE_BYTES:
        raise UserError(f"{archive.filename}: {member} claims {archive.getinfo(member).file_size} bytes; refused")
    try:
        return json.loads(archive.read(member))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{archive.filename}: {member} is not valid JSON ({error})") from None


def _flatten(node: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for name, child in node.items():
            yield from _flatten(child, f"{path}/{name}")
    elif isinstance(node, str):
        yield path, node
