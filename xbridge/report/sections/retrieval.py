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
    per_train_seed,
    primary_readings,
    site_order,
)
from xbridge.report.sections import not_run

# Word Jaccard of the pivot side with the nearest training sentence: [low, high).
STRATA = (("below 0.4", 0.0, 0.4), ("0.4 to 0.6", 0.4, 0.6), ("0.6 and above", 0.6, 1.01))


def section(study: Study) -> Section:
    """Retrieval by layer."""
    readings = [r for r in all_readings(study.transfer) if r.kind == "alignment" and r.site]
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
    panels, rows, shown = [], [], set()
    for task, metric in dict.fromkeys((r.task, r.metric) for r in readings):
        mine = sorted((r for r in readings if (r.task, r.metric) == (task, metric)), key=lambda r: site_order(r.site))
        sites = [r.site for r in mine]
        series = []
        for arm in arms_of(study, [row for r in mine for row in r.rows(study.transfer)]):
            y, low_high = [], []
            for reading in mine:
                by_seed = per_train_seed(reading.rows(study.seeds), arm)
                row = next((x for x in reading.rows(study.transfer) if x["arm"] == arm and macro(x)), None)
                value = row["value"] if row is not None else None
                y.append(value)
                low_high.append(max(abs(v - value) for v in by_seed.values()) if by_seed and value is not None else 0.0)
                rows.append(
                    {"task": task, "metric": metric, "site": reading.site, "arm": arm, "target_lang": ZERO_SHOT,
                     "value": value, "seed_min": min(by_seed.values(), default=None),
                     "seed_max": max(by_seed.values(), default=None)}
                )  # fmt: skip
            keep = [i for i, value in enumerate(y) if value is not None]
            series.append(plots.Series(keep, [y[i] for i in keep], study.styles[arm], [low_high[i] for i in keep]))
            shown.add(arm)
        name = metric_name(metric)
        draw = plots.lines(series, x_label="encoder layer (0 = embeddings)", y_label=name, ticks=_numbers(sites))
        panels.append(Panel(shorten(f"{task}: {name}", 40), f"{task}, {name}, by layer and arm", draw))
    caption = (
        "Macro mean over target languages of both directions' accuracy, mean over training seeds; bars reach the "
        "farthest training seed. Candidates share no longer piece, digit or Latin run with their partner, so that a "
        "random encoder scores near chance."
    )
    return Figure("retrieval", "Retrieval accuracy by layer", caption, panels, rows, plots.legend(study, sorted(shown)))


def _numbers(sites: list[str]) -> list[str]:
    return [site.rpartition(".")[2] for site in sites]


def _strata_table(study: Study) -> Table | None:
    jaccard = {row["id"]: row["jaccard"] for row in study.near_duplicates}
    sites = [r.site for r in primary_readings(study.transfer) if r.kind == "alignment" and r.site]
    if not jaccard or not sites:
        return None
    rows: Rows = []
    for arm in study.arms:
        hits: dict[str, list[float]] = {}
        for evaluation in study.evaluations:
            if evaluation.arm == arm:
                _add_hits(hits, evaluation, sites[0], jaccard)
        if hits:
            rows.append(_strata_row(arm, hits))
    if not rows:
        return None
    columns = [Column("arm", "Arm", is_number=False, is_row_header=True)]
    for name, _, _ in STRATA:
        columns += [Column(name, f"Jaccard {name}", decimal)]
    columns += [Column("all", "All", decimal)]
    largest = rows[0]
    sizes = ", ".join(f"{count(largest[f'n {name}'])} ({name})" for name, _, _ in STRATA)
    caption = (
        f"Retrieval accuracy at {sites[0]} by word Jaccard of the pivot sentence with its nearest training sentence; "
        f"mean over items, languages, both directions and seeds. Items per model: {sizes}, counted per target language."
    )
    return Table("retrieval-near-duplicates", caption, columns, rows)


def _add_hits(hits: dict[str, list[float]], evaluation: Evaluation, site: str, jaccard: dict[str, float]) -> None:
    for path in sorted((evaluation.path / "predictions").glob("*.parquet")):
        rows = read_rows(path)
        if rows and "forward_hit" not in rows[0]:
            return
        for row in rows:
            if row["site"] != site or jaccard.get(row["id"]) is None:
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
