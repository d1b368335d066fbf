"""How separable languages and labels are, layer by layer, and whether that goes with transfer."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from xbridge.report import plots
from xbridge.report.document import Block, Column, Details, Figure, Heading, Panel, Paragraph, Section, Table
from xbridge.report.format import interval, shorten, signed
from xbridge.report.load import Rows, Study
from xbridge.report.readings import ZERO_SHOT, Reading, site_order
from xbridge.report.sections import not_run
from xbridge.report.verdict import scored_readings

_MIN_POINTS = 4
_IN_LANGUAGE = "in_language_"
_METRIC_NAMES = {
    "fisher_ratio": "Fisher ratio",
    "probe_accuracy": "probe accuracy",
    "in_language_fisher_ratio": "Fisher ratio, in language",
    "in_language_probe_accuracy": "probe accuracy, in language",
}


def section(study: Study) -> Section:
    """Separability by layer."""
    title = "Separability"
    if not study.separability:
        return Section("separability", title, [not_run("separability of languages and labels")])
    blocks: list[Block] = [
        Paragraph(
            "Language separability: how well the language of a sentence can be read off its representation, on the "
            "same sentences in every language. Label separability: how well its task label can be, by a discriminant "
            "that is fitted on the source language, or (in language) on other sentences of the same language. All "
            "values are on sentences that the discriminant has not seen."
        ),
        _by_layer(study),
    ]
    correlation = _correlation(study)
    if correlation:
        blocks += [
            Heading("Does separability go with transfer?"),
            Paragraph(
                "One point per model. The models are few, those of one arm share data and objective, and all continue "
                "one base: a rank correlation here describes these models and does not test a claim. How far it moves "
                "when one arm is left out shows how little it rests on."
            ),
            *correlation,
        ]
    return Section("separability", title, blocks)


def _metric(name: str) -> str:
    return _METRIC_NAMES.get(name, name.replace("_", " "))


def _by_layer(study: Study) -> Figure:
    panels, rows = [], []
    sites = sorted({r["site"] for r in study.separability}, key=site_order)
    for target, metric in dict.fromkeys((r["target"], r["metric"]) for r in study.separability):
        mine = [r for r in study.separability if (r["target"], r["metric"]) == (target, metric)]
        series = []
        for model in dict.fromkeys(r["model"] for r in mine):
            ours = [r for r in mine if r["model"] == model]
            points = []
            for index, site in enumerate(sites):
                at = [r for r in ours if r["site"] == site and r["value"] is not None]
                if not at:
                    continue
                value = fmean(float(r["value"]) for r in at)
                points.append((index, value))
                rows += [_row(r) for r in at]
            arm = ours[0]["arm"]
            series.append(plots.Series([p[0] for p in points], [p[1] for p in points], study.styles[arm]))
        chances = [float(r["chance"]) for r in mine if r["chance"] is not None and r["chance"] == r["chance"]]
        level = (fmean(chances), "chance") if chances and fmean(chances) > 0 else None
        ticks = [site.rpartition(".")[2] for site in sites]
        draw = plots.lines(
            series, x_label="encoder layer (0 = embeddings)", y_label=_metric(metric), ticks=ticks, level=level
        )
        title = f"{target}: {_metric(metric)}"
        panels.append(Panel(shorten(title[:1].upper() + title[1:], 36), f"{title} by layer and model", draw))
    caption = (
        "One line per training seed; label values are the mean over languages. Standard errors, n and chance of every "
        "value are in the CSV."
    )
    arms = [r["arm"] for r in study.separability]
    return Figure("separability", "Separability by layer", caption, panels, rows, plots.legend(study, arms))


def _row(row: dict[str, object]) -> dict[str, object]:
    keys = ("model", "arm", "train_seed", "target", "metric", "site", "language", "value", "stderr", "n", "chance")
    return {key: row[key] for key in keys}


def points_of(study: Study, reading: Reading, target: str, metric: str, site: str) -> Rows:
    """One row per model that has both: its separability at `site` and its zero-shot score."""
    scores: dict[tuple[str, int], list[float]] = {}
    for row in reading.rows(study.seeds):
        if row["target_lang"] == ZERO_SHOT and row["value"] is not None:
            scores.setdefault((row["arm"], int(row["train_seed"] or 0)), []).append(float(row["value"]))
    found: Rows = []
    for (arm, seed), values in sorted(scores.items(), key=lambda item: (study.arms.index(item[0][0]), item[0][1])):
        mine = [
            float(r["value"])
            for r in study.separability
            if (r["arm"], int(r["train_seed"] or 0)) == (arm, seed)
            and (r["target"], r["metric"], r["site"]) == (target, metric, site)
        ]
        if mine:
            found.append({"arm": arm, "train_seed": seed, "separability": fmean(mine), "score": fmean(values)})
    return found


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's rank correlation with mean ranks for ties (Spearman 1904); None where one side does not vary."""
    a, b = _ranks(x), _ranks(y)
    mean_a, mean_b = fmean(a), fmean(b)
    covariance = sum((p - mean_a) * (q - mean_b) for p, q in zip(a, b, strict=True))
    scale = (sum((p - mean_a) ** 2 for p in a) * sum((q - mean_b) ** 2 for q in b)) ** 0.5
    return covariance / scale if scale else None


def _ranks(values: Sequence[float]) -> list[float]:
    return [sum(v < value for v in values) + (sum(v == value for v in values) + 1) / 2 for value in values]


def without_one_arm(points: Rows) -> tuple[float | None, float | None]:
    """Lowest and highest rank correlation when one arm at a time is left out."""
    found = []
    for arm in dict.fromkeys(p["arm"] for p in points):
        rest = [p for p in points if p["arm"] != arm]
        rho = spearman([p["separability"] for p in rest], [p["score"] for p in rest]) if len(rest) > 2 else None
        if rho is not None:
            found.append(rho)
    return (min(found), max(found)) if found else (None, None)


def _correlation(study: Study) -> list[Block]:
    """A scatter for the first reading, and the coefficients of all."""
    last = max({r["site"] for r in study.separability}, key=site_order)
    readings = scored_readings(study)
    panels, rows, coefficients = [], [], []
    for target, metric in dict.fromkeys((r["target"], r["metric"]) for r in study.separability):
        name = f"{target} {_metric(metric)}"
        for reading in readings:
            points = points_of(study, reading, target, metric, last)
            if len(points) < _MIN_POINTS:
                continue
            low, high = without_one_arm(points)
            rho = spearman([p["separability"] for p in points], [p["score"] for p in points])
            bootstrap = _bootstrap(study, reading, target, metric, last)
            coefficients.append(
                {"separability": name, "reading": reading.label, "site": last, "rho": rho, "ci_low": bootstrap[0],
                 "ci_high": bootstrap[1], "rho_min": low, "rho_max": high, "num_models": len(points),
                 "num_arms": len({p["arm"] for p in points})}
            )  # fmt: skip
            keys = {"target": target, "metric": metric, "site": last, "task": reading.task, "mode": reading.mode}
            rows += [{**keys, **p} for p in points]
            if reading == readings[0] and not metric.startswith(_IN_LANGUAGE):
                series = [plots.Series([p["separability"]], [p["score"]], study.styles[p["arm"]]) for p in points]
                draw = plots.lines(series, x_label=name, y_label=shorten(reading.short, 28))
                title = shorten(name[:1].upper() + name[1:], 36)
                panels.append(Panel(title, f"{name} and {reading.short}, one point per model", draw))
    if not panels:
        return []
    caption = f"Separability at {last} against the zero-shot score of {readings[0].label}, one point per model."
    legend = plots.legend(study, [p["arm"] for p in rows])
    figure = Figure("separability-transfer", "Separability and transfer", caption, panels, rows, legend)
    return [figure, Details("Rank correlations", [_coefficients(coefficients, last)])]


def _bootstrap(study: Study, reading: Reading, target: str, metric: str, site: str) -> tuple[Any, Any]:
    """The 95 % interval over models that the transfer stage worked out."""
    for r in reading.rows(study.correlations):
        key = (r["separability_target"], r["separability_metric"], r["separability_site"], r["correlation"])
        if key == (target, metric, site, "spearman"):
            return r["ci_low"], r["ci_high"]
    return None, None


def _coefficients(rows: Rows, site: str) -> Table:
    shown = [
        {**r, "interval": interval(r["ci_low"], r["ci_high"]), "range": interval(r["rho_min"], r["rho_max"])}
        for r in rows
    ]
    columns = [
        Column("reading", "Zero-shot score", is_number=False, is_row_header=True),
        Column("rho", "Spearman ρ", signed),
        Column("interval", "95 % interval"),
        Column("range", "Without one arm"),
        Column("num_models", "Models"),
        Column("num_arms", "Arms"),
    ]
    caption = (
        f"Rank correlation over models of separability at {site} with the zero-shot score. Interval: bootstrap over "
        "models, as if they were independent, which they are not. Without one arm: lowest and highest coefficient when "
        "one arm at a time is left out."
    )
    return Table("separability-correlation", caption, columns, shown, group="separability", data=rows)
