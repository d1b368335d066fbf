"""What a study reads from outside: files, folders, and what it would fetch; where each lies here, or how to get it."""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from xbridge.core.config import InputPath, InputPathOrId, Plugin
from xbridge.core.errors import UserError
from xbridge.study.plan import Plan

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Need:
    """One thing that stages read. `path` is None where it is not here; `fetch` is the command that gets it then."""

    kind: Literal["path", "model", "dataset", "wheel", "pieces"]
    name: str
    path: Path | None
    fetch: str
    config: Any = None
    """The source's config, for a data set."""


def needs_of(plan: Plan) -> list[Need]:
    """Everything that the unfinished stages of a plan read from outside the study, each once."""
    found: dict[tuple[str, str], Need] = {}
    for node in plan.nodes.values():
        if not node.artifact.is_complete():
            for need in _walk(node.config, None):
                found.setdefault((need.kind, need.name), need)
    return list(found.values())


def check_all_here(plan: Plan) -> None:
    """`UserError` that names what is missing, and the commands that fetch it."""
    missing = [need for need in needs_of(plan) if need.path is None]
    if missing:
        lines = "; ".join(f"{need.name} (fetch it with: {need.fetch})" for need in missing)
        raise UserError(f"not here, and the jobs reach no network: {lines}")


def _walk(value: Any, owner: Any) -> Iterator[Need]:
    """The needs in a config, depth first; `owner` is the dataclass that holds `value`."""
    from xbridge.data.sources import homeassistant, hub

    if isinstance(value, Plugin):
        yield from _walk(value.config, value)
    elif isinstance(value, hub.Config) and value.id is not None:
        yield _dataset(value)
    elif isinstance(value, homeassistant.Config) and value.wheel is None:
        yield _wheel(value)
    elif dataclasses.is_dataclass(value):
        if "spbleu" in (getattr(value, "metrics", None) or ()) and not getattr(value, "pieces", None):
            yield _pieces()
        for field in dataclasses.fields(value):
            yield from _walk(getattr(value, field.name), value)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _walk(item, owner)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _walk(item, owner)
    elif isinstance(value, InputPath):
        yield _path_or_model(value, owner)


def _path_or_model(value: InputPath, owner: Any) -> Need:
    path = Path(value)
    if path.exists():
        is_model = path.is_dir() and isinstance(value, InputPathOrId)
        return Need("model" if is_model else "path", str(value), path, "")
    if isinstance(value, InputPathOrId) and HUB_ID.fullmatch(value):
        revision = getattr(owner, "revision", None) or "main"
        here = _snapshot(str(value), revision)
        return Need("model", str(value), here, f"hf download {value} --revision {revision}")
    return Need("path", str(value), None, f"copy it to {value}")


def _snapshot(name: str, revision: str) -> Path | None:
    """The folder of a model in the hub's cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _dataset(config: Any) -> Need:
    """A data set counts as here where `datasets` can build it from its cache."""
    named = f"{config.id!r}, {config.name!r}, split={config.split!r}, revision={config.revision!r}"
    cache = Path(os.environ.get("HF_DATASETS_CACHE") or _hf_home() / "datasets")
    folder = cache / config.id.replace("/", "___")
    fetch = f'python -c "import datasets; datasets.load_dataset({named})"'
    return Need("dataset", config.id, folder if folder.exists() else None, fetch, config)


def _hf_home() -> Path:
    return Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")


def _wheel(config: Any) -> Need:
    from xbridge.data.sources._wheel import cache_folder
    from xbridge.data.sources.homeassistant import PACKAGE

    path = cache_folder() / f"{PACKAGE}-{config.version}-py3-none-any.whl"
    fetch = (
        f"python -m pip download --no-deps --only-binary=:all: --python-version {config.python_version} "
        f"--dest {path.parent} {PACKAGE}=={config.version}"
    )
    return Need("wheel", path.name, path if path.exists() else None, fetch)


def _pieces() -> Need:
    from xbridge.training.translation_metrics import FETCH, pieces_file

    path = pieces_file()
    return Need("pieces", path.name, path if path.exists() else None, FETCH)
