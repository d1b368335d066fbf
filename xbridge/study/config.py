"""What a study YAML may say. Sections that belong to a stage stay plain data; the stage's `Config` parses them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xbridge.core.config import apply_overrides, load_yaml, parse, undigested
from xbridge.core.errors import ConfigError, UserError
from xbridge.study.stages import MODULES


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One task. With `finetune` (or `probe`) a head is trained in the source language first."""

    data: str | None = None
    """Name of an entry of the study's `data`; none = the corpus (retrieval, translation)."""
    finetune: dict[str, Any] | None = None
    """Settings of the finetune stage: head and model are trained."""
    probe: dict[str, Any] | None = None
    """Settings of the finetune stage with the model frozen: only the head is trained."""
    evaluate: dict[str, Any] = field(default_factory=dict)
    """Settings of the evaluate stage."""
    arms: tuple[str, ...] | None = None
    """Arms (and `base`, `random`) that are scored; none = all."""
    finetune_seeds: tuple[int, ...] | None = None
    """Instead of the study's."""


@dataclass(frozen=True, kw_only=True)
class AnalysisSpec:
    """Settings of the analysis stages; a section set to null is left out of the study."""

    extract: dict[str, Any] | None = field(default_factory=dict)
    """Settings of the extract stages; without them there is no compare and no separability."""
    compare: dict[str, Any] | None = field(default_factory=dict)
    """Settings of the compare stage."""
    spectra: dict[str, Any] | None = field(default_factory=dict)
    """Settings of the spectra stages."""
    separability: dict[str, Any] | None = field(default_factory=dict)
    """Settings of the separability stages."""
    transfer: dict[str, Any] | None = field(default_factory=dict)
    """Settings of the transfer stage."""
    label_data: str | None = None
    """Entry of `data` whose test sentences are extracted as well, for label separability."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a stage's job asks for under `xbridge study run --via`."""

    nodes: int = 1
    """Nodes."""
    gpus: int = 1
    """GPUs of each node, or processes where nodes have none."""
    time: str | None = None
    """Time limit, as Slurm writes it; null = the cluster profile's."""

    def __post_init__(self) -> None:
        for name in ("nodes", "gpus"):
            if getattr(self, name) < 1:
                raise ConfigError(name, f"must be at least 1, got {getattr(self, name)}")

    @property
    def num_ranks(self) -> int:
        """Processes of the job."""
        return self.nodes * self.gpus


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study: arms trained from one base on one budget, compared by what they transfer and by what they became."""

    study: str
    """Name; results go to <runs>/<name>."""
    question: str = "Does machine translation, as continued training, help or hurt cross-lingual transfer?"
    """Shown on top of the report."""
    languages: tuple[str, ...]
    """Codes such as deu_Latn; the first is the pivot of the bitext and the source language of the tasks."""
    corpus: dict[str, Any]
    """Settings of the corpus stage."""
    tokenizer: dict[str, Any] = field(default_factory=dict)
    """Settings of the tokenizer stage."""
    train: dict[str, Any] = field(default_factory=dict)
    """Settings that base and arms share."""
    base: dict[str, Any]
    """Settings of the base's training (or `{pretrained: ...}`), on top of `train`."""
    arms: dict[str, dict[str, Any]]
    """Settings of each arm's training from the base, on top of `train` and `continued`."""
    continued: dict[str, Any] = field(default_factory=dict)
    """Settings that the arms share."""
    random_control: bool = True
    """Also score the base's architecture with random weights."""
    seeds: tuple[int, ...] = (0, 1)
    """Training seeds of each arm."""
    finetune_seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of each fine-tuning."""
    reference: str
    """Arm that the others are compared with."""
    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings of the taskdata stages, by name."""
    tasks: dict[str, TaskSpec] = field(default_factory=dict)
    """What every model is scored on, by name."""
    analysis: AnalysisSpec = AnalysisSpec()
    """What is looked at inside the models."""
    report: dict[str, Any] = field(default_factory=dict)
    """Settings of the report stage."""
    workers: int = undigested(2)
    """Stages that run side by side."""
    threads: int | None = undigested(None)
    """Threads of each worker; none = the cores shared out."""
    resources: dict[str, Resources] = field(default_factory=dict, metadata={"digest": False})
    """What the jobs of a stage ask for, by stage, with `study run --via`."""

    def __post_init__(self) -> None:
        if len(self.languages) < 2:
            raise ConfigError("languages", "give the source language and at least one target language")
        if len(set(self.languages)) != len(self.languages):
            raise ConfigError("languages", "a language is given twice")
        if not self.study or not all(c.isalnum() or c in "-_." for c in self.study) or self.study.startswith("."):
            raise ConfigError("study", f"{self.study!r}: use letters, digits, '-', '_' and '.'")
        for reserved in {"base", "random"} & set(self.arms):
            raise ConfigError(f"arms.{reserved}", "this name is the study's own; choose another")
        if self.reference not in self.arms:
            raise ConfigError("reference", f"{self.reference!r} is not an arm; arms: {', '.join(self.arms)}")
        if not self.seeds or self.workers < 1:
            raise ConfigError("workers" if self.seeds else "seeds", "must be at least one")
        for stage in set(self.resources) - set(MODULES):
            raise ConfigError(f"resources.{stage}", f"no such stage; stages: {', '.join(MODULES)}")
        self._check_tasks()

    def _check_tasks(self) -> None:
        models = {"base", "random", *self.arms}
        for name, task in self.tasks.items():
            if task.data is not None and task.data not in self.data:
                raise ConfigError(f"tasks.{name}.data", f"{task.data!r} is not an entry of data")
            for arm in task.arms or ():
                if arm not in models:
                    raise ConfigError(f"tasks.{name}.arms", f"{arm!r} is not one of {', '.join(sorted(models))}")
        if self.analysis.label_data is not None and self.analysis.label_data not in self.data:
            raise ConfigError("analysis.label_data", f"{self.analysis.label_data!r} is not an entry of data")


def load_study(path: Path, overrides: Sequence[str] = ()) -> tuple[Study, dict[str, Any]]:
    """Read a study file, follow `extends`, apply overrides; return the study and its plain data."""
    data = apply_overrides(load_extended(path), overrides)
    for section in ("arms", "tasks", "data"):  # null takes an inherited entry out
        if isinstance(data.get(section), dict):
            data[section] = {name: entry for name, entry in data[section].items() if entry is not None}
    return parse(Study, data), data


def is_study(path: Path) -> bool:
    """True when the file is a study rather than the config of one stage."""
    return "study" in load_yaml(path)


def load_extended(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The data of a config file over that of the files that it `extends`: a path relative to it, or a list of them."""
    data = load_yaml(path)
    parents = data.pop("extends", None)
    if parents is None:
        return data
    if isinstance(parents, str):
        parents = [parents]
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise ConfigError("extends", "expected the path of a config file, relative to this one, or a list of paths")
    under: dict[str, Any] = {}
    for parent in parents:
        parent_path = path.parent / parent
        if parent_path.resolve() in (*seen, path.resolve()):
            raise UserError(f"{path}: extends itself through {parent_path}")
        under = merge(under, load_extended(parent_path, (*seen, path.resolve())))
    return merge(under, data)


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Deep merge: mappings are merged key by key, everything else in `over` replaces."""
    result = dict(under)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(result.get(key), Mapping) and _same_kind(result[key], value):
            result[key] = merge(result[key], value)
        else:
            result[key] = value
    return result


def _same_kind(under: Mapping[str, Any], over: Mapping[str, Any]) -> bool:
    """A plug-in of another type replaces the whole mapping: its other keys would not fit."""
    return "type" not in over or over["type"] == under.get("type")
