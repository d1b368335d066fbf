"""Stage: all evaluations of a study in one table, each arm against the reference with its uncertainty.

The difference of an arm to the reference has a 95 % interval over new test examples and new training seeds; what it is
an interval for, and how it is made, is said at `xbridge.analysis.statistics.difference`. Examples are drawn for all
runs together, language by language. Corpus-level metrics (chrF, BLEU) vary over seeds only.

Holm's correction is over the arms of one task, mode, metric and site: separately for the means over languages and for
the single languages. It does not know of the other metrics and sites, so choose one before looking.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from xbridge.analysis.correlations import SCHEMA as CORRELATIONS
from xbridge.analysis.correlations import correlate
from xbridge.analysis.resampling import Counts, Predictions, resample
from xbridge.analysis.statistics import Arm, difference, holm, resampling_weights
from xbridge.core.artifact import MANIFEST, read_manifest
from xbridge.core.console import log, progress
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import read_rows, write_json, write_table
from xbridge.core.runtime import derive_seed

VERSION = 1
ZERO_SHOT, SOURCE = "zero-shot", "source"
_KEYS = [("task", pa.string()), ("mode", pa.string()), ("metric", pa.string()), ("site", pa.string())]
TRANSFER = pa.schema(
    [*_KEYS, ("arm", pa.string()), ("target_lang", pa.string()), ("value", pa.float64()), ("seed_sd", pa.float64()),
     ("num_seeds", pa.int64()), ("n", pa.int64()), ("difference", pa.float64()), ("ci_low", pa.float64()),
     ("ci_high", pa.float64()), ("p_value", pa.float64()), ("p_holm", pa.float64()), ("floor", pa.float64())]
)  # fmt: skip
SEEDS = pa.schema(
    [*_KEYS, ("arm", pa.string()), ("model", pa.string()), ("target_lang", pa.string()), ("train_seed", pa.int64()),
     ("finetune_seed", pa.int64()), ("value", pa.float64()), ("n", pa.int64())]
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config:
    """How arms are compared."""

    reference: str = "denoise"
    """The arm that all others are compared with."""
    num_resamples: int = 2000
    """Bootstrap replicates."""
    seed: int = 0
    """Seed of the resampling."""

    def __post_init__(self) -> None:
        if self.num_resamples < 100:
            raise ConfigError("num_resamples", f"must be at least 100, got {self.num_resamples}")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the stage reads."""

    evaluations: dict[str, Path]
    """Evaluate folders; what each is (arm, task, seeds ...) stands in its manifest."""
    separability: dict[str, Path] = field(default_factory=dict)
    """Separability folders; with them, correlations.parquet says whether separability goes with transfer."""


class Run(NamedTuple):
    """One evaluation: a model, scored once on one task."""

    name: str
    path: Path
    model: str
    arm: str
    task: str
    mode: str
    train_seed: int | None
    finetune_seed: int | None
    scores: list[dict[str, Any]]

    def targets(self) -> dict[str, str]:
        """Language -> what the tables call it: a code, or "source"."""
        return {
            r["target_lang"]: SOURCE if r["target_lang"] == r["source_lang"] else r["target_lang"] for r in self.scores
        }


class Score(NamedTuple):
    """One number of one run, and the same on every resampling of its test set."""

    value: float
    n: int
    resampled: np.ndarray


Cell = tuple[str, str, str]  # metric, site, target


def run(config: Config, inputs: Inputs, out: Path) -> None:
    """Write transfer.parquet, seeds.parquet, correlations.parquet and gaps.json (cells that are missing)."""
    gaps: list[dict[str, Any]] = []
    runs = load_runs(inputs.evaluations, gaps)
    groups: dict[tuple[str, str], list[Run]] = {}
    for one in runs:
        groups.setdefault((one.task, one.mode), []).append(one)
    rows: list[dict[str, Any]] = []
    seeds: list[dict[str, Any]] = []
    with progress("transfer", total=len(groups), unit="task") as bar:
        for (task, mode), members in groups.items():
            scores = score_runs(members, config, gaps)
            keys = {"task": task, "mode": mode}
            rows += [{**keys, **row} for row in _rows(members, scores, config)]
            seeds += [{**keys, **row} for row in _seed_rows(members, scores)]
            bar.update(1, task=task, mode=mode)
    write_table(out / "transfer.parquet", rows, TRANSFER)
    write_table(out / "seeds.parquet", seeds, SEEDS)
    write_table(out / "correlations.parquet", correlate(seeds, inputs.separability, config.seed), CORRELATIONS)
    write_json(out / "gaps.json", gaps)
    if gaps:
        log("transfer", missing_cells=len(gaps), see="gaps.json")


def load_runs(evaluations: Mapping[str, Path], gaps: list[dict[str, Any]]) -> list[Run]:
    """The finished evaluations; unfinished ones are listed in `gaps`."""
    runs = []
    for name, path in evaluations.items():
        if not (path / MANIFEST).exists():
            gaps.append({"evaluation": name, "target_lang": None, "problem": "not finished"})
            continue
        labels = read_manifest(path)["labels"]
        scores = read_rows(path / "scores.parquet")
        if not scores:
            gaps.append({"evaluation": name, "target_lang": None, "problem": "no scores"})
            continue
        runs.append(
            Run(
                name=name,
                path=path,
                model=str(labels.get("model", name)),
                arm=str(labels.get("arm", labels.get("model", name))),
                task=str(labels.get("task", scores[0]["task"])),
                mode=str(labels.get("mode", "finetune")),
                train_seed=labels.get("train_seed"),
                finetune_seed=labels.get("finetune_seed"),
                scores=scores,
            )
        )
    if not runs:
        raise UserError("transfer: no finished evaluation; give evaluate folders under inputs.evaluations")
    return runs


def score_runs(runs: Sequence[Run], config: Config, gaps: list[dict[str, Any]]) -> dict[Cell, dict[str, Score]]:
    """Cell -> run's name -> its score. Zero-shot means are over the languages that any run has, for runs with all."""
    names = {lang: name for one in runs for lang, name in one.targets().items()}
    cells: dict[Cell, dict[str, Score]] = {}
    for lang, target in names.items():
        for one in runs:
            if lang not in one.targets():
                gaps.append({"evaluation": one.name, "target_lang": lang, "problem": "no scores in this language"})
        for one, row, resampled in _score_language(runs, lang, config):
            score = Score(float(row["value"]), int(row["n"]), resampled)
            cells.setdefault((row["metric"], row["site"], target), {})[one.name] = score
    return {**cells, **_macro(cells, [t for t in dict.fromkeys(names.values()) if t != SOURCE])}


def _score_language(
    runs: Sequence[Run], lang: str, config: Config
) -> Iterator[tuple[Run, Mapping[str, Any], np.ndarray]]:
    """Each run's scores in one language, with their values on resamplings that all runs share."""
    counted: list[tuple[Run, Mapping[str, Any], Counts]] = []
    for one in runs:
        mine = [r for r in one.scores if r["target_lang"] == lang and r["predictor"] == "model"]
        predictions = Predictions.read(one.path, lang)
        for row in mine:
            counts = None if predictions is None else predictions.counts(row["metric"], row["site"])
            if counts is None:
                yield one, row, np.full(config.num_resamples, row["value"])
            else:
                check_counts(counts, row, counted[0][2].ids if counted else counts.ids, one)
                counted.append((one, row, counts))
    if counted:
        seed = derive_seed("transfer", config.seed, runs[0].task, runs[0].mode, lang)
        weights = resampling_weights(len(counted[0][2].ids), config.num_resamples, np.random.default_rng(seed))
        resampled = resample([counts for _, _, counts in counted], weights)
        yield from ((one, row, values) for (one, row, _), values in zip(counted, resampled, strict=True))


def check_counts(counts: Counts, row: Mapping[str, Any], ids: Sequence[str], one: Run) -> None:
    """UserError unless the predictions give the score that stands beside them, on the examples of the other runs."""
    where = f"{one.path}: {row['target_lang']}"
    if list(counts.ids) != list(ids):
        raise UserError(f"{where}: scored on other examples than the runs it is compared with; evaluate all on one set")
    if abs(counts.value() - row["value"]) > 1e-9:
        raise UserError(
            f"{where}: predictions give {row['metric']} {counts.value():.6f}, scores.parquet says {row['value']:.6f}; "
            "delete the folder and evaluate again"
        )


def _macro(cells: Mapping[Cell, Mapping[str, Score]], languages: Sequence[str]) -> dict[Cell, dict[str, Score]]:
    """Means over the languages other than the source."""
    macro: dict[Cell, dict[str, Score]] = {}
    for metric, site in dict.fromkeys((metric, site) for metric, site, _ in cells):
        columns = [cells.get((metric, site, lang), {}) for lang in languages]
        for name in columns[0] if columns else ():
            scores = [column[name] for column in columns if name in column]
            if len(scores) == len(columns):
                macro.setdefault((metric, site, ZERO_SHOT), {})[name] = Score(
                    fmean(s.value for s in scores),
                    sum(s.n for s in scores),
                    np.mean([s.resampled for s in scores], axis=0),
                )
    return macro


def _rows(runs: Sequence[Run], cells: Mapping[Cell, Mapping[str, Score]], config: Config) -> Iterator[dict[str, Any]]:
    """Rows of one task and mode, p-values corrected."""
    families: dict[tuple[str, str, bool], list[dict[str, Any]]] = {}
    for (metric, site, target), scores in cells.items():
        for row in _cell_rows(runs, (metric, site, target), scores, config):
            families.setdefault((metric, site, target == ZERO_SHOT), []).append(row)
    for family in families.values():
        for row, p_holm in zip(family, holm([row["p_value"] for row in family]), strict=True):
            yield {**row, "p_holm": p_holm}


def _cell_rows(
    runs: Sequence[Run], cell: Cell, scores: Mapping[str, Score], config: Config
) -> Iterator[dict[str, Any]]:
    metric, site, target = cell
    members = {
        arm: [r for r in runs if r.arm == arm and r.name in scores] for arm in dict.fromkeys(r.arm for r in runs)
    }
    reference = members.get(config.reference)
    for arm, mine in members.items():
        if not mine:
            continue
        sample = _arm(mine, scores)
        means = _seed_means(mine, scores)
        row: dict[str, Any] = {
            "metric": metric,
            "site": site,
            "arm": arm,
            "target_lang": target,
            "value": fmean(means),
            "seed_sd": _seed_sd(mine, means, scores),
            "num_seeds": len(mine),
            "n": scores[mine[0].name].n,
            **dict.fromkeys(("difference", "ci_low", "ci_high", "p_value")),
            "floor": _floor(mine, cell),
        }
        if reference and arm != config.reference:
            rng = np.random.default_rng(derive_seed("difference", config.seed, mine[0].task, mine[0].mode, arm, *cell))
            found = difference(sample, _arm(reference, scores), num_examples=row["n"], rng=rng)
            row |= {"difference": found.value, "ci_low": found.low, "ci_high": found.high, "p_value": found.p_value}
        yield row


def _arm(runs: Sequence[Run], scores: Mapping[str, Score]) -> Arm:
    mine = [scores[r.name] for r in runs]
    return Arm(
        score=np.array([s.value for s in mine]),
        resampled=np.stack([s.resampled for s in mine]),
        cluster=[r.train_seed or 0 for r in runs],
    )


def _seed_means(runs: Sequence[Run], scores: Mapping[str, Score]) -> list[float]:
    """Mean score of each training seed over its fine-tuning runs."""
    clusters: dict[int | None, list[float]] = {}
    for one in runs:
        clusters.setdefault(one.train_seed, []).append(scores[one.name].value)
    return [fmean(values) for values in clusters.values()]


def _seed_sd(runs: Sequence[Run], means: Sequence[float], scores: Mapping[str, Score]) -> float | None:
    """Sample standard deviation over training seeds; over fine-tuning runs where there is one training seed."""
    values = means if len(means) > 1 else [scores[one.name].value for one in runs]
    return stdev(values) if len(values) > 1 else None


def _floor(runs: Sequence[Run], cell: Cell) -> float | None:
    """The constant predictor's score, averaged over languages for a zero-shot mean."""
    metric, site, target = cell
    floors: dict[str, float] = {}
    for one in runs:
        names = one.targets()
        for r in one.scores:
            wanted = names[r["target_lang"]] == target or (target == ZERO_SHOT and names[r["target_lang"]] != SOURCE)
            if (r["metric"], r["site"], r["predictor"]) == (metric, site, "constant") and wanted:
                floors[r["target_lang"]] = r["value"]
    return fmean(floors.values()) if floors else None


def _seed_rows(runs: Sequence[Run], cells: Mapping[Cell, Mapping[str, Score]]) -> Iterator[dict[str, Any]]:
    by_name = {one.name: one for one in runs}
    for (metric, site, target), scores in cells.items():
        for name, score in scores.items():
            one = by_name[name]
            yield {
                "metric": metric,
                "site": site,
                "arm": one.arm,
                "model": one.model,
                "target_lang": target,
                "train_seed": one.train_seed,
                "finetune_seed": one.finetune_seed,
                "value": score.value,
                "n": score.n,
            }
