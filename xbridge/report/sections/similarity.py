"""Linear CKA between models, layer by layer, and between languages inside each model."""

import math
import re
from itertools import combinations
from statistics import fmean

from xbridge.report import plots
from xbridge.report.document import Block, Details, Figure, Heading, Panel, Paragraph, Section
from xbridge.report.format import decimal, shorten
from xbridge.report.load import Rows, Study, Training
from xbridge.report.readings import site_order
from xbridge.report.sections import not_run

ALL_LANGUAGES = "all"
_MAX_PER_GROUP = 6
_MAX_LANGUAGE_PANELS = 12
_CELL_INCHES = 0.3
_NAMES = {"cka": "CKA", "mutual_knn": "mutual kNN"}
_EXPLANATIONS = {
    "cka": (
        "Linear CKA (Kornblith et al. 2019) of pooled sentence representations is 1 where two layers hold the same "
        "geometry up to rotation and scale; the unbiased estimator is about 0 where they are unrelated."
    ),
    "mutual_knn": (
        "Mutual kNN (Huh et al. 2024) is the share of a sentence's nearest neighbours that two representations have in "
        "common: unlike CKA, it sees local structure only."
    ),
}


def section(study: Study) -> Section:
    """What changed inside the model."""
    title = "Similarity of representations"
    if not study.similarity:
        return Section("similarity", title, [not_run("comparison of representations")])
    blocks: list[Block] = []
    kinds = sorted(dict.fromkeys((r["measure"], r["estimator"]) for r in study.similarity), key=lambda k: k[0] != "cka")
    for index, (measure, estimator) in enumerate(kinds):
        rows = [r for r in study.similarity if (r["measure"], r["estimator"]) == (measure, estimator)]
        name = _NAMES.get(measure, measure.replace("_", " ")) + (f" ({estimator})" if estimator else "")
        slug = re.sub(r"[^a-z0-9]+", "-", f"{measure} {estimator}".lower()).strip("-")
        explained = [Paragraph(_EXPLANATIONS[measure])] if measure in _EXPLANATIONS else []
        found = [*explained, *_between_models(study, rows, name, slug), *_between_languages(study, rows, name, slug)]
        blocks += found if index == 0 else [Details(f"The same by {name}", found)]
    return Section("similarity", title, blocks)


def pairs_to_show(study: Study) -> list[tuple[str, str, str]]:
    """(model a, model b, group): base and each arm, reference and each arm, and two seeds of each arm."""
    first: dict[str, Training] = {}
    for training in study.trainings:
        first.setdefault(training.arm, training)
    arms = [arm for arm in study.arms if arm in first]
    continued = [arm for arm in arms if arm not in ("random", "base")]
    pairs = []
    if "base" in first:
        pairs += [(first["base"].model, first[arm].model, "Base and each arm") for arm in arms if arm != "base"]
    if study.reference in first:
        ours = first[study.reference].model
        pairs += [
            (ours, first[a].model, f"{study.reference} and each other arm") for a in continued if a != study.reference
        ]
    for arm in continued:
        models = [t.model for t in study.trainings if t.arm == arm]
        pairs += [(a, b, "Two training seeds of one arm") for a, b in list(combinations(models, 2))[:1]]
    return pairs


def _between_models(study: Study, rows: Rows, name: str, slug: str) -> list[Block]:
    across = [r for r in rows if r["model_a"] != r["model_b"] and r["language_a"] == r["language_b"]]
    if any(r["language_a"] != ALL_LANGUAGES for r in across):
        across = [r for r in across if r["language_a"] != ALL_LANGUAGES]
    languages = {r["language_a"] for r in across}
    cells: dict[tuple[str, str], dict[tuple[str, str], list[float]]] = {}
    for r in across:
        value = float(r["value"])
        cells.setdefault((r["model_a"], r["model_b"]), {}).setdefault((r["site_a"], r["site_b"]), []).append(value)
        cells.setdefault((r["model_b"], r["model_a"]), {}).setdefault((r["site_b"], r["site_a"]), []).append(value)
    errors = _errors(across)
    wanted = [pair for pair in pairs_to_show(study) if pair[:2] in cells]
    chosen = [pair for i, pair in enumerate(wanted) if sum(p[2] == pair[2] for p in wanted[:i]) < _MAX_PER_GROUP]
    if not chosen:
        return []
    panels = []
    for a, b, group in chosen:
        grid = cells[(a, b)]
        rows_of, columns_of = (sorted({key[i] for key in grid}, key=site_order) for i in (0, 1))
        values = [[fmean(grid[(r, c)]) if (r, c) in grid else None for c in columns_of] for r in rows_of]
        labels = [[site.rpartition(".")[2] for site in sites] for sites in (rows_of, columns_of)]
        draw = plots.heat(
            values, labels[0], labels[1], y_label=f"{shorten(a, 15)} layer", x_label=f"{shorten(b, 15)} layer"
        )
        side = max(1.6, 0.75 + _CELL_INCHES * max(len(rows_of), len(columns_of)))
        panels.append(Panel("", f"{name} between the layers of {a} and {b}", draw, side, side, group))
    more = f" {len(wanted) - len(chosen)} more pairs are in the CSV." if len(wanted) > len(chosen) else ""
    mean_over = (
        f"mean over {len(languages)} languages of each language's value" if len(languages) > 1 else "all sentences"
    )
    caption = (
        f"{name} between every layer of one model (rows) and of another (columns), 0 = embeddings: base with each arm, "
        f"{study.reference} with each other arm, and two seeds of an arm, which shows how much of a difference is the "
        f"seed's; {mean_over}.{_error_sentence(errors)} {_n_sentence(across)}{more}"
    )
    figure = Figure(f"similarity-models-{slug}", "Between models", caption, panels, across, scale=(name, 0, 1))
    return [Heading("Between models"), figure]


def _between_languages(study: Study, rows: Rows, name: str, slug: str) -> list[Block]:
    inside = [
        r
        for r in rows
        if r["model_a"] == r["model_b"] and r["site_a"] == r["site_b"] and r["language_a"] != r["language_b"]
    ]
    if not inside:
        return []
    sites = sorted({r["site_a"] for r in inside}, key=site_order)
    first: dict[str, str] = {}
    for training in study.trainings:
        first.setdefault(training.arm, training.model)
    by_cell: dict[tuple[str, str, frozenset[str]], float] = {
        (r["model_a"], r["site_a"], frozenset((r["language_a"], r["language_b"]))): float(r["value"]) for r in inside
    }
    errors = _errors(inside)
    blocks: list[Block] = [Heading("Between languages, inside each model")]
    blocks.append(_mean_by_layer(study, by_cell, sites, name, slug))
    codes = [c for c in study.languages if any(c in key[2] for key in by_cell)]
    panels = []
    for arm in [a for a in study.arms if a in first][:_MAX_LANGUAGE_PANELS]:
        values = [[by_cell.get((first[arm], sites[-1], frozenset((a, b)))) for b in codes] for a in codes]
        labels = [study.short(code) for code in codes]
        side = max(1.8, 0.75 + _CELL_INCHES * len(codes))
        draw = plots.heat(values, labels, labels)
        words = f"{name} between languages at {sites[-1]} of {first[arm]}"
        panels.append(Panel(shorten(first[arm], 28), words, draw, width=side, height=side + 0.2))
    caption = (
        f"{name} between the representations of the same sentences in two languages, at {sites[-1]} of the first seed "
        f"of each arm; every layer and seed is in the CSV.{_error_sentence(errors)} {_n_sentence(inside)}"
    )
    blocks.append(
        Figure(f"similarity-languages-{slug}", "Between languages", caption, panels, inside, scale=(name, 0, 1))
    )
    return blocks


def _mean_by_layer(
    study: Study, by_cell: dict[tuple[str, str, frozenset[str]], float], sites: list[str], name: str, slug: str
) -> Figure:
    series, rows = [], []
    for training in study.trainings:
        points = []
        for index, site in enumerate(sites):
            values = [v for (model, at, _), v in by_cell.items() if (model, at) == (training.model, site)]
            if values:
                points.append((index, fmean(values)))
                rows.append(
                    {"model": training.model, "arm": training.arm, "site": site, "value": fmean(values),
                     "num_pairs": len(values)}
                )  # fmt: skip
        if points:
            series.append(plots.Series([p[0] for p in points], [p[1] for p in points], study.styles[training.arm]))
    ticks = [site.rpartition(".")[2] for site in sites]
    draw = plots.lines(series, x_label="encoder layer (0 = embeddings)", y_label=name, ticks=ticks)
    panel = Panel("Mean over language pairs", f"mean {name} over language pairs by layer and model", draw, width=4.2)
    caption = "Mean over language pairs; one line per training seed."
    legend = plots.legend(study, [t.arm for t in study.trainings])
    return Figure(f"similarity-languages-by-layer-{slug}", "Between languages by layer", caption, [panel], rows, legend)


def _errors(rows: Rows) -> list[float]:
    return [float(r["stderr"]) for r in rows if r["stderr"] is not None and not math.isnan(r["stderr"])]


def _error_sentence(errors: list[float]) -> str:
    if not errors:
        return ""
    ranked = sorted(errors)
    middle, largest = ranked[len(ranked) // 2], ranked[-1]
    return f" Standard errors: median {decimal(middle)}, largest {decimal(largest)}; each is in the CSV."


def _n_sentence(rows: Rows) -> str:
    sizes = sorted({int(r["n"]) for r in rows})
    return f"n = {sizes[0]:,} sentences." if len(sizes) == 1 else f"n = {sizes[0]:,} to {sizes[-1]:,} sentences."
