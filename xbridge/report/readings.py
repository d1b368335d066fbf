"""Which scores are read: one metric per task and mode, chosen by rule before any number is seen.

The transfer table holds every metric and, for retrieval, every layer. A reading is the one that the verdict and the
headline use: macro accuracy, span F1, or the centred margin at the last layer.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from xbridge.report.load import Rows, Study

ZERO_SHOT = "zero-shot"
SOURCE = "source"
PREFERRED_METRICS = (
    "macro_accuracy",
    "span_f1",
    "span_f1_strict",
    "accuracy",
    "centred_margin",
    "margin",
    "centred_cosine",
    "cosine",
    "tag_accuracy",
    "chrf",
    "chrf++",
    "bleu",
    "spbleu",
)
_METRIC_NAMES = {
    "macro_accuracy": "macro accuracy",
    "span_f1": "span F1",
    "span_f1_strict": "span F1 (strict IOB2)",
    "tag_accuracy": "tag accuracy",
    "centred_margin": "accuracy@1, centred margin",
    "margin": "accuracy@1, margin",
    "centred_cosine": "accuracy@1, centred cosine",
    "cosine": "accuracy@1, cosine",
    "chrf": "chrF",
    "chrf++": "chrF++",
    "bleu": "BLEU",
    "spbleu": "spBLEU",
}
_MODE_NAMES = {"finetune": "fine-tuned", "probe": "frozen probe", "zeroshot": "no training"}
Kind = Literal["transfer", "alignment", "generation"]


@dataclass(frozen=True)
class Reading:
    """One task in one mode, read by one metric at one site."""

    task: str
    mode: str
    metric: str
    site: str

    @property
    def kind(self) -> Kind:
        """transfer: a head trained on the source language; generation: chrF or BLEU; alignment: the rest."""
        if re.match(r"chrf|(sp)?bleu|ter|comet", self.metric.lower()):
            return "generation"
        return "alignment" if self.mode == "zeroshot" else "transfer"

    @property
    def label(self) -> str:
        """`intents, fine-tuned (macro accuracy)`."""
        where = f", {self.site}" if self.site else ""
        mode = "" if self.mode == "zeroshot" else f", {_MODE_NAMES.get(self.mode, self.mode)}"
        return f"{self.task}{mode} ({metric_name(self.metric)}{where})"

    @property
    def short(self) -> str:
        """`intents, fine-tuned`."""
        return self.task if self.mode == "zeroshot" else f"{self.task}, {_MODE_NAMES.get(self.mode, self.mode)}"

    def rows(self, rows: Rows) -> Rows:
        """Those of `rows` that belong to this reading."""
        keys = (self.task, self.mode, self.metric, self.site)
        return [row for row in rows if (row["task"], row["mode"], row["metric"], row["site"] or "") == keys]


def metric_name(metric: str) -> str:
    """A metric's name in words."""
    return _METRIC_NAMES.get(metric, metric.replace("_", " "))


def site_order(site: str) -> tuple[str, int]:
    """Sort key that puts encoder.10 after encoder.9."""
    stem, _, number = site.rpartition(".")
    return (stem, int(number)) if number.isdecimal() else (site, -1)


def layer_of(site: str) -> int:
    """The number in `encoder.3`; 0 for a site without one."""
    return max(0, site_order(site)[1])


def all_readings(rows: Rows) -> list[Reading]:
    """Every (task, mode, metric, site) in the order of first appearance."""
    return list(dict.fromkeys(Reading(r["task"], r["mode"], r["metric"], r["site"] or "") for r in rows))


def primary_readings(rows: Rows) -> list[Reading]:
    """One reading per task and mode: transfer first, then alignment, then generation."""
    groups: dict[tuple[str, str], list[Reading]] = {}
    for reading in all_readings(rows):
        groups.setdefault((reading.task, reading.mode), []).append(reading)
    chosen = [min(group, key=_preference) for group in groups.values()]
    return sorted(chosen, key=lambda r: ("transfer", "alignment", "generation").index(r.kind))


def metric_rank(metric: str) -> int:
    """Place of a metric in `PREFERRED_METRICS`; unknown ones come last."""
    return PREFERRED_METRICS.index(metric) if metric in PREFERRED_METRICS else len(PREFERRED_METRICS)


def _preference(reading: Reading) -> tuple[int, str, int]:
    return (metric_rank(reading.metric), reading.metric, -layer_of(reading.site))


def macro(row: dict[str, Any]) -> bool:
    """True for the row of the macro mean over target languages."""
    return bool(row["target_lang"] == ZERO_SHOT)


def per_train_seed(rows: Rows, arm: str, target: str = ZERO_SHOT) -> dict[int, float]:
    """Mean score of each training seed of an arm over its fine-tuning seeds, from rows of `seeds.parquet`."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if row["arm"] == arm and row["target_lang"] == target and row["value"] is not None:
            found.setdefault(int(row["train_seed"] or 0), []).append(float(row["value"]))
    return {seed: fmean(values) for seed, values in sorted(found.items())}


def single_scores(rows: Rows, arm: str, target: str = ZERO_SHOT) -> list[float]:
    """Every single score of an arm."""
    return [
        float(r["value"]) for r in rows if r["arm"] == arm and r["target_lang"] == target and r["value"] is not None
    ]


def targets_of(study: Study, rows: Rows) -> list[str]:
    """Languages of a reading in the study's order, then any others."""
    found = {row["target_lang"] for row in rows} - {ZERO_SHOT, SOURCE}
    return [code for code in study.languages if code in found] + sorted(found - set(study.languages))


def arms_of(study: Study, rows: Rows) -> list[str]:
    """Arms of a reading in the report's order."""
    found = {row["arm"] for row in rows}
    return [arm for arm in study.arms if arm in found]


def spread(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None for fewer than two values."""
    if len(values) < 2:
        return None
    mean = fmean(values)
    return float((sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5)
