"""Sentence retrieval: which layer aligns languages, and how much near-duplicates help."""

from statistics import fmean

from xbridge.core.files import read_rows
from xbridge.report import plots
from xbridge.report.document import Block, Column, Figure, Panel, Paragraph, Row, Section, Table
from xbridge.report.format import count, decimal, shorten
from xbridge.report.load import Evaluation, Rows, Study
from xbridge.report.readings import (
    ZERO_SHOT,
    Reading,
    all_readings,
    arms_of,
    macro,
    metric_name,
    metric_rank,
    per_train_seed,
    primary_readings,
    site_order,
)
from xbridge.report.sections import not_run

# Word Jaccard of the pivot side with the nearest training sentence: [low, high).
STRATA = (("below 0.4", 0.0, 0.4), ("0.4 to 0.6", 0.4, 0.6), ("0.6 and above", 0.6, 1.01))


def section(study: Study) -> Section:
    """Retrieval by layer."""
    readings = [r for r in all_readings(study.transfer) if r.kind == "alignment" and r.site and not _is_one_way(r)]
    readings.sort(key=lambda r: metric_rank(r.metric))
    if not readings:
        return Section("retrieval", "Retrieval by layer", [not_run("sentence retrieval")])
    blocks: list[Block] = [_by_layer(study, readings)]
    strata = _strata_table(study)
    if strata is not None:
        blocks += [
            Paragraph(
                "Held-out items whose pivot sentence is close to a training sentence are easier. The table splits the "
                "score by that closeness: an advantage that stays in the first column is not made by near-duplicates."
            ),
            strata,
        ]
    return Section("retrieval", "Retrieval by layer", blocks)


def _by_layer(study: Study, readings: list[Reading]) -> Figure:
    panels, rows = [], []
    for task, metric in dict.fromkeys((r.task, r.metric) for r in readings):
        mine = sorted((r for r in readings if (r.task, r.metric) == (task, metric)), key=lambda r: site_order(r.site))
        points = [_point(study, reading, arm) for reading in mine for arm in study.arms]
        points = [point for point in points if point["value"] is not None]
        sites = [r.site for r in mine]
        series = [_series(study, arm, [p for p in points if p["arm"] == arm], sites) for arm in arms_of(study, points)]
        floors = [r["floor"] for reading in mine for r in reading.rows(study.transfer) if r["floor"] is not None]
        name = metric_name(metric)
        draw = plots.lines(
            series, x_label="encoder layer (0 = embeddings)", y_label="accuracy", ticks=_numbers(sites),
            level=(fmean(floors), "") if floors else None,
        )  # fmt: skip
        panels.append(Panel(shorten(name[:1].upper() + name[1:], 40), f"{task}, {name}, by layer and arm", draw))
        rows += points
    caption = (
        "Macro mean over target languages of the accuracy@1 of both directions, mean over training seeds; bars reach "
        "the farthest training seed; the dotted line is chance. Partners share no word, digit or run of 4 characters "
        "(the corpus card has the rule); what short pieces still give away, the random model shows."
    )
    legend = plots.legend(study, [row["arm"] for row in rows])
    return Figure("retrieval", "Retrieval accuracy by layer", caption, panels, rows, legend)


def _point(study: Study, reading: Reading, arm: str) -> Row:
    """An arm's macro mean at one layer, and the range of its training seeds."""
    by_seed = per_train_seed(reading.rows(study.seeds), arm).values()
    row = next((r for r in reading.rows(study.transfer) if r["arm"] == arm and macro(r)), None)
    return {
        "task": reading.task,
        "metric": reading.metric,
        "site": reading.site,
        "arm": arm,
        "target_lang": ZERO_SHOT,
        "value": None if row is None else row["value"],
        "seed_min": min(by_seed, default=None),
        "seed_max": max(by_seed, default=None),
    }


def _series(study: Study, arm: str, points: Rows, sites: list[str]) -> plots.Series:
    reach = [
        max(p["value"] - p["seed_min"], p["seed_max"] - p["value"]) if p["seed_min"] is not None else 0.0
        for p in points
    ]
    x = [float(sites.index(p["site"])) for p in points]
    return plots.Series(x, [float(p["value"]) for p in points], study.styles[arm], reach)


def _is_one_way(reading: Reading) -> bool:
    return reading.metric.endswith(("_forward", "_backward"))


def _numbers(sites: list[str]) -> list[str]:
    return [site.rpartition(".")[2] for site in sites]


def _strata_table(study: Study) -> Table | None:
    jaccard = {row["id"]: row["jaccard"] for row in study.near_duplicates}
    readings = [r for r in primary_readings(study.transfer) if r.kind == "alignment" and r.site]
    if not jaccard or not readings:
        return None
    reading = readings[0]
    rows: Rows = []
    for arm in study.arms:
        hits: dict[str, list[float]] = {}
        for evaluation in study.evaluations:
            if evaluation.arm == arm and evaluation.labels.get("task") == reading.task:
                _add_hits(hits, evaluation, reading, jaccard)
        if hits:
            rows.append(_strata_row(arm, hits))
    if not rows:
        return None
    columns = [Column("arm", "Arm", is_number=False, is_row_header=True)]
    for name, _, _ in STRATA:
        columns += [Column(name, f"Jaccard\n{name}", decimal)]
    columns += [Column("all", "All", decimal)]
    largest = rows[0]
    sizes = ", ".join(f"{count(largest[f'n {name}'])} ({name})" for name, _, _ in STRATA)
    caption = (
        f"Scores of {reading.label} by word Jaccard of the pivot sentence with its nearest "
        f"training sentence; mean over items, languages, both directions and seeds. Items per model: {sizes}, "
        "counted once per target language."
    )
    return Table("retrieval-near-duplicates", caption, columns, rows)


def _add_hits(
    hits: dict[str, list[float]], evaluation: Evaluation, reading: Reading, jaccard: dict[str, float]
) -> None:
    for path in sorted((evaluation.path / "predictions").glob("*.parquet")):
        rows = read_rows(path)
        for row in rows:
            if (row["site"], row["margin"]) != (reading.site, reading.metric) or jaccard.get(row["id"]) is None:
                continue
            for name, low, high in STRATA:
                if low <= jaccard[row["id"]] < high:
                    hits.setdefault(name, []).append((row["forward_hit"] + row["backward_hit"]) / 2)
    hits["models"] = [*hits.get("models", []), 1.0]


def _strata_row(arm: str, hits: dict[str, list[float]]) -> Row:
    models = len(hits["models"])
    row: Row = {"arm": arm}
    everything: list[float] = []
    for name, _, _ in STRATA:
        values = hits.get(name, [])
        everything += values
        row[name] = fmean(values) if values else None
        row[f"n {name}"] = len(values) // models
    row["all"] = fmean(everything) if everything else None
    return row
