"""Does separability go with transfer? Correlations across the models of a study.

One point per model: its separability at a layer, and its zero-shot score averaged over fine-tuning runs. The points are
few and share a base, so this describes the models of one study; it does not test a claim about others.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa

from xbridge.analysis.statistics import correlation
from xbridge.core.artifact import read_manifest
from xbridge.core.files import read_rows
from xbridge.core.runtime import derive_seed

NUM_RESAMPLES = 2000
ZERO_SHOT = "zero-shot"
Kind = Literal["pearson", "spearman"]
SCHEMA = pa.schema(
    [("task", pa.string()), ("mode", pa.string()), ("metric", pa.string()), ("site", pa.string()),
     ("separability_target", pa.string()), ("separability_metric", pa.string()), ("separability_site", pa.string()),
     ("correlation", pa.string()), ("value", pa.float64()), ("ci_low", pa.float64()), ("ci_high", pa.float64()),
     ("p_value", pa.float64()), ("num_models", pa.int64())]
)  # fmt: skip


def correlate(seeds: Sequence[Mapping[str, Any]], separability: Mapping[str, Path], seed: int) -> list[dict[str, Any]]:
    """Rows of correlations.parquet. seeds: rows of seeds.parquet; separability: folders of that stage.

    A score that belongs to a layer (retrieval) is set against the same layer only. Combinations with fewer than three
    models, or where nothing varies, are left out.
    """
    points = _separability(separability)
    scores = _zero_shot(seeds)
    rows = []
    for (task, mode, metric, site), by_model in scores.items():
        for (target, measure, layer), values in points.items():
            models = [model for model in values if model in by_model]
            if site not in ("", layer):
                continue
            x, y = np.array([values[m] for m in models]), np.array([by_model[m] for m in models])
            for kind in get_args(Kind):
                rng = np.random.default_rng(
                    derive_seed("correlation", seed, kind, task, mode, metric, site, target, measure, layer)
                )
                found = correlation(x, y, kind=kind, num_replicates=NUM_RESAMPLES, rng=rng)
                if found is not None:
                    rows.append(
                        {"task": task, "mode": mode, "metric": metric, "site": site, "separability_target": target,
                         "separability_metric": measure, "separability_site": layer, "correlation": kind,
                         "value": found.value, "ci_low": found.low, "ci_high": found.high, "p_value": found.p_value,
                         "num_models": len(models)}
                    )  # fmt: skip
    return rows


def _separability(folders: Mapping[str, Path]) -> dict[tuple[str, str, str], dict[str, float]]:
    """(target, metric, site) -> model -> mean over languages."""
    found: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for name, path in folders.items():
        model = str(read_manifest(path)["labels"].get("model", name))
        for row in read_rows(path / "separability.parquet"):
            if row["value"] is not None and np.isfinite(row["value"]):
                cell = found.setdefault((row["target"], row["metric"], row["site"]), {})
                cell.setdefault(model, []).append(row["value"])
    return {key: {model: fmean(values) for model, values in cell.items()} for key, cell in found.items()}


def _zero_shot(seeds: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str, str], dict[str, float]]:
    """(task, mode, metric, site) -> model -> mean over its runs."""
    found: dict[tuple[str, str, str, str], dict[str, list[float]]] = {}
    for row in seeds:
        if row["target_lang"] == ZERO_SHOT and not row["metric"].endswith(("_forward", "_backward")):
            cell = found.setdefault((row["task"], row["mode"], row["metric"], row["site"]), {})
            cell.setdefault(row["model"], []).append(row["value"])
    return {key: {model: fmean(values) for model, values in cell.items()} for key, cell in found.items()}
