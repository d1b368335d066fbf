"""Everything the report shows, read from stage folders; what a study did not run is empty here, never an error."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xbridge.core.artifact import MANIFEST, folder_name
from xbridge.core.errors import UserError
from xbridge.core.files import read_json, read_rows
from xbridge.report.palette import Style, ordered, styles

Rows = list[dict[str, Any]]
LOCK = "study.lock.json"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage folder: its key in the inputs, labels, and manifest (empty where it has none)."""

    key: str
    path: Path
    labels: Mapping[str, Any]
    manifest: Mapping[str, Any]

    @property
    def arm(self) -> str:
        return str(self.labels.get("arm", self.key))

    @property
    def model(self) -> str:
        return str(self.labels.get("model", self.key))


@dataclass(frozen=True, kw_only=True)
class Training(Stage):
    """A training run: logged steps, validation lines and totals."""

    steps: Rows
    validation: Rows
    summary: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Evaluation(Stage):
    """Scores of one model on one task."""

    scores: Rows
    summary: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Study:
    """All inputs of the report."""

    lock: Mapping[str, Any]
    folder: Path
    trainings: Sequence[Training] = ()
    evaluations: Sequence[Evaluation] = ()
    transfer: Rows = field(default_factory=list)
    seeds: Rows = field(default_factory=list)
    correlations: Rows = field(default_factory=list)
    similarity: Rows = field(default_factory=list)
    spectra: Rows = field(default_factory=list)
    """Rows of all models with `model`, `arm` and `train_seed` added."""
    separability: Rows = field(default_factory=list)
    """Rows of all models with `model`, `arm` and `train_seed` added."""
    corpus: Mapping[str, Any] = field(default_factory=dict)
    near_duplicates: Rows = field(default_factory=list)
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    taskdata: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    stages: Sequence[Stage] = ()
    """Finished stages of the study in the plan's order, for times and versions."""

    @property
    def languages(self) -> list[str]:
        return list(self.lock["languages"])

    @property
    def source_lang(self) -> str:
        return self.languages[0]

    @property
    def reference(self) -> str:
        return str(self.lock["reference"])

    @property
    def arms(self) -> list[str]:
        """Arms with any result, in the order of every table and figure."""
        found = [t.arm for t in self.trainings] + [r["arm"] for r in self.transfer] + [e.arm for e in self.evaluations]
        return ordered([arm for arm in found if arm != "constant"])

    @property
    def styles(self) -> dict[str, Style]:
        return styles(self.arms)

    def short(self, language: str) -> str:
        """`deu` for `deu_Latn` where no other language of the study is written `deu`."""
        head = language.split("_")[0]
        return head if sum(code.split("_")[0] == head for code in self.languages) <= 1 else language


def load(inputs: Any) -> Study:
    """Read all of `inputs` (`page.Inputs`). A folder that is named but damaged raises `UserError`."""
    lock_path = inputs.study / LOCK
    if not lock_path.exists():
        raise UserError(f"{inputs.study}: has no {LOCK}; give the folder of a study (runs/<name>)")
    lock = read_json(lock_path)
    trainings = [_training(key, path) for key, path in inputs.trainings.items()]
    return Study(
        lock=lock,
        folder=inputs.study,
        trainings=trainings,
        evaluations=[_evaluation(key, path) for key, path in inputs.evaluations.items()],
        transfer=_rows(inputs.transfer, "transfer.parquet"),
        seeds=_rows(inputs.transfer, "seeds.parquet"),
        correlations=_rows(inputs.transfer, "correlations.parquet"),
        similarity=_rows(inputs.comparison, "similarity.parquet"),
        spectra=_labelled_rows(inputs.spectra, "spectra.parquet"),
        separability=_labelled_rows(inputs.separability, "separability.parquet"),
        corpus=_json(inputs.corpus, "card.json"),
        near_duplicates=_rows(inputs.corpus, "near_duplicates.parquet"),
        tokenizer=_json(inputs.tokenizer, "card.json"),
        taskdata={key: _json(path, "card.json") for key, path in inputs.taskdata.items()},
        stages=_stages(inputs.study, lock),
    )


def _labels(key: str, path: Path) -> dict[str, Any]:
    manifest = _json(path, MANIFEST)
    return {"key": key, "path": path, "labels": manifest.get("labels", {}), "manifest": manifest}


def _training(key: str, path: Path) -> Training:
    lines = _json_lines(path / "metrics.jsonl")
    return Training(
        **_labels(key, path),
        steps=[line for line in lines if "loss" in line],
        validation=[line for line in lines if "validation" in line],
        summary=_json(path, "summary.json"),
    )


def _evaluation(key: str, path: Path) -> Evaluation:
    return Evaluation(**_labels(key, path), scores=_rows(path, "scores.parquet"), summary=_json(path, "summary.json"))


def _labelled_rows(folders: Mapping[str, Path], name: str) -> Rows:
    rows: Rows = []
    for key, path in folders.items():
        stage = Stage(**_labels(key, path))
        label = {"model": stage.model, "arm": stage.arm, "train_seed": stage.labels.get("train_seed")}
        rows.extend({**row, **label} for row in _rows(path, name))
    return rows


def _stages(folder: Path, lock: Mapping[str, Any]) -> list[Stage]:
    """The plan's finished stages; a stage whose folder is elsewhere or unfinished is left out."""
    found = []
    for node in lock.get("nodes", []):
        path = folder / node["stage"] / folder_name(node["name"], node["digest"])
        if (path / MANIFEST).exists():
            found.append(Stage(**_labels(node["id"], path)))
    return found


def _rows(folder: Path | None, name: str) -> Rows:
    return read_rows(folder / name) if folder is not None and (folder / name).exists() else []


def _json(folder: Path | None, name: str) -> dict[str, Any]:
    if folder is None or not (folder / name).exists():
        return {}
    data: dict[str, Any] = read_json(folder / name)
    return data


def _json_lines(path: Path) -> Rows:
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            raise UserError(f"{path}:{number}: not a JSON line; delete the stage's folder and run again") from None
    return rows
