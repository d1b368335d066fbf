"""A data set read by the `datasets` library: an id on its hub (with a revision), or a folder saved by it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xbridge.core.config import InputPath
from xbridge.core.errors import ConfigError, UserError
from xbridge.data.entries import Entry, check_language_keys, entry_of_record, file_facts, select


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which data set, and which column holds which language. Give `id` and `revision`, or `folder`."""

    columns: dict[str, str]
    """Language code to column; `translation.de` reaches into a nested feature."""
    id: str | None = None
    """Name on the hub, for example `Helsinki-NLP/opus-100`."""
    revision: str | None = None
    """Commit of the data set: with it, results can be made again."""
    name: str | None = None
    """Configuration of the data set, for example `de-en`."""
    split: str = "train"
    """Split to read; xbridge makes its own train, dev and test of it."""
    folder: InputPath | None = None
    """A local folder: one that `save_to_disk` wrote, or data files that `load_dataset` understands."""
    key: str | None = None
    """Column that names each row, or null."""
    licence: str = "not stated"
    """The text's licence, for the data card."""

    def __post_init__(self) -> None:
        check_language_keys(self.columns, "columns")
        if (self.id is None) == (self.folder is None):
            raise ConfigError("id", "give either `id` (with `revision`) or `folder`")
        if self.id is not None and self.revision is None:
            raise ConfigError("revision", f"is required with `id`: pin the commit of {self.id} that results stand on")


def read(config: Config, languages: tuple[str, ...], pivot: str) -> Iterator[Entry]:
    """One entry per row."""
    name = config.id or str(config.folder)
    columns = select(config.columns, languages, pivot, f"{name}: columns")
    for row, record in enumerate(load(config), start=1):
        yield entry_of_record(record, columns, config.key, f"{name}: row {row}")


def describe(config: Config) -> dict[str, Any]:
    """Kind, licence, and id and revision or file hashes, for the data card."""
    if config.folder is not None:
        return file_facts("datasets", [Path(config.folder)], config.licence)
    return {"kind": "datasets", "licence": config.licence, "id": config.id, "version": config.revision}


def load(config: Config) -> Any:
    """The data set itself; `UserError` where it cannot be had."""
    import datasets

    datasets.disable_progress_bars()
    try:
        if config.folder is None:
            return datasets.load_dataset(config.id, config.name, split=config.split, revision=config.revision)
        folder = Path(config.folder)
        if not folder.exists():
            raise UserError(f"{folder}: no such folder")
        if (folder / "state.json").exists() or (folder / "dataset_dict.json").exists():
            loaded = datasets.load_from_disk(str(folder))
            return loaded[config.split] if isinstance(loaded, datasets.DatasetDict) else loaded
        return datasets.load_dataset(str(folder), config.name, split=config.split)
    except UserError:
        raise
    except Exception as error:  # the library raises dozens of types, its own and its file systems'
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{config.id or config.folder}: `datasets` cannot load split {config.split}: {first}") from None
