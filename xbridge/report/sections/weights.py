"""What continued training did to the parameters: how far they moved, and the shape of their spectra."""

import re
from statistics import fmean

from xbridge.report import plots
from xbridge.report.document import Block, Column, Details, Figure, Panel, Paragraph, Row, Section, Table
from xbridge.report.format import decimal, one_decimal, shorten
from xbridge.report.load import Rows, Study
from xbridge.report.sections import not_run

_WORDS = (
    (r"(^|\.)(model|transformer|backbone)\.", r"\1"),
    (r"\.weight$", ""),
    (r"\.(layers\.)?\d+\.", "."),
    (r"encoder_attn|cross_attn", "cross-attention"),
    (r"self_attn", "self-attention"),
    (r"_proj\b", ""),
)
_CURVE_PANELS = 6
_CURVE_POINTS = 64


def matrix_type(matrix: str) -> str:
    """`encoder.0.self_attn.q` (or a parameter's own name) -> `encoder self-attention q`."""
    for pattern, replacement in _WORDS:
        matrix = re.sub(pattern, replacement, matrix)
    return re.sub(r"[._]+", " ", matrix).strip()


def section(study: Study) -> Section:
    """Weights."""
    if not study.spectra:
        return Section("weights", "Weights", [not_run("spectra of the weight matrices")])
    deltas = [r for r in study.spectra if r["kind"] == "delta"]
    weights = [r for r in study.spectra if r["kind"] == "weight"]
    blocks: list[Block] = [
        Paragraph(
            "The relative change is |ΔW| / |W of the base| in the Frobenius norm. Stable rank is the squared Frobenius "
            "norm over the squared spectral norm; effective rank is the exponential of the entropy of the normalised "
            "singular values (Roy and Vetterli 2007). Both are low where few directions carry a matrix. Subspace "
            "overlap is 1 where the leading singular vectors span the same as in the base, 0 where they share nothing."
        ),
        _summary_figure(study, weights, deltas),
        Details("Ranks of every matrix type", [_rank_table(study, weights, deltas)]),
    ]
    if weights:
        blocks.append(_curves(study, weights, "spectra", "Singular values", "the weights"))
    if deltas:
        title = "Singular values of the change"
        blocks.append(_curves(study, deltas, "spectra-change", title, "the change from the base"))
    return Section("weights", "Weights", blocks)


def _types(rows: Rows) -> list[str]:
    return list(dict.fromkeys(matrix_type(r["matrix"]) for r in rows))


def _summary_figure(study: Study, weights: Rows, deltas: Rows) -> Figure:
    """A dot per matrix type and arm: how far it moved, and its ranks."""
    panels: list[Panel] = []
    rows: Rows = []
    for title, axis, quantity, source in (
        ("Relative change", "|ΔW| / |W of the base|", "relative_change", deltas),
        ("Subspace overlap with the base", "subspace overlap", "subspace_overlap", deltas),
        ("Effective rank of W", "effective rank", "effective_rank", weights),
        ("Effective rank of ΔW", "effective rank", "effective_rank", deltas),
    ):
        types = _types(source)
        arms = [arm for arm in study.arms if any(r["arm"] == arm for r in source)]
        marks = []
        for index, kind in enumerate(types):
            for arm, shift in zip(arms, plots.offsets(len(arms)), strict=True):
                values = _per_model(source, arm, kind, quantity)
                if not values:
                    continue
                low, high = min(values), max(values)
                marks.append(plots.Mark(index, fmean(values), study.styles[arm], low, high, offset=shift))
                rows.append(
                    {"quantity": title, "matrix_type": kind, "arm": arm, "value": fmean(values), "seed_min": low,
                     "seed_max": high, "num_models": len(values)}
                )  # fmt: skip
        if marks:
            draw = plots.dots(marks, types, x_label=axis, label_length=28)
            height = 0.7 + 0.21 * len(types)
            panels.append(Panel(title, f"{title} of each matrix type by arm", draw, width=4.3, height=height))
    caption = "Mean over layers and training seeds; bars: lowest to highest training seed. ΔW: difference to the base."
    legend = plots.legend(study, [r["arm"] for r in rows])
    return Figure("weights", "Change and rank by matrix type", caption, panels, rows, legend)


def _per_model(source: Rows, arm: str, kind: str, quantity: str) -> list[float]:
    """Mean over layers of a quantity, for each model of an arm."""
    found: dict[str, list[float]] = {}
    for r in source:
        if r["arm"] == arm and matrix_type(r["matrix"]) == kind and r.get(quantity) is not None:
            found.setdefault(r["model"], []).append(float(r[quantity]))
    return [fmean(values) for values in found.values()]


def _rank_table(study: Study, weights: Rows, deltas: Rows) -> Table:
    rows: list[Row] = []
    for kind in _types(weights):
        for arm in study.arms:
            mine = [r for r in weights if r["arm"] == arm and matrix_type(r["matrix"]) == kind]
            moved = [r for r in deltas if r["arm"] == arm and matrix_type(r["matrix"]) == kind]
            if not mine:
                continue
            rows.append(
                {
                    "matrix_type": kind,
                    "arm": arm,
                    "stable_rank": _mean(mine, "stable_rank"),
                    "effective_rank": _mean(mine, "effective_rank"),
                    "spectral": _mean(mine, "spectral"),
                    "delta_stable_rank": _mean(moved, "stable_rank"),
                    "delta_effective_rank": _mean(moved, "effective_rank"),
                    "full_rank": min(mine[0]["rows"], mine[0]["cols"]),
                }
            )
    columns = [
        Column("arm", "Arm", is_number=False, is_row_header=True),
        Column("stable_rank", "Stable rank", one_decimal),
        Column("effective_rank", "Effective rank", one_decimal),
        Column("full_rank", "Full rank"),
        Column("spectral", "Spectral norm", decimal),
        Column("delta_stable_rank", "Stable rank\nof ΔW", one_decimal),
        Column("delta_effective_rank", "Effective rank\nof ΔW", one_decimal),
    ]
    caption = "Ranks by matrix type and arm, mean over layers and training seeds. ΔW: difference to the base."
    return Table("ranks", caption, columns, rows, group="matrix_type")


def _mean(rows: Rows, key: str) -> float | None:
    values = [float(r[key]) for r in rows if r[key] is not None]
    return fmean(values) if values else None


def _curves(study: Study, source: Rows, name: str, title: str, what: str) -> Figure:
    panels, rows = [], []
    types = _types(source)
    inner = [kind for kind in types if not re.search(r"embed|shared|lm head|positions", kind)] or types
    shown = inner[:: -(-len(inner) // _CURVE_PANELS)]
    arms = [arm for arm in study.arms if any(r["arm"] == arm for r in source)]
    for kind in types:
        series = []
        for arm in arms:
            values = [r["singular_values"] for r in source if r["arm"] == arm and matrix_type(r["matrix"]) == kind]
            if not values:
                continue
            mean = [fmean(column) for column in zip(*values, strict=False)]
            picked = _thinned(len(mean))
            series.append(plots.Series([i + 1 for i in picked], [mean[i] for i in picked], study.styles[arm]))
            rows += [
                {"matrix_type": kind, "arm": arm, "index": i + 1, "singular_value": mean[i]} for i in range(len(mean))
            ]
        if kind in shown:
            draw = plots.lines(series, x_label="index", y_label="singular value", markers=False)
            panels.append(
                Panel(shorten(kind, 34), f"singular values of {what}, {kind}, by arm", draw, width=2.9, height=2.1)
            )
    more = " Other matrix types are in the CSV." if len(types) > len(shown) else ""
    caption = f"Singular values of {what}, largest first; at each index the mean over layers and training seeds.{more}"
    return Figure(name, title, caption, panels, rows, plots.legend(study, arms))


def _thinned(count: int) -> list[int]:
    """At most about `_CURVE_POINTS` indices, the first and the last among them."""
    step = max(1, -(-count // _CURVE_POINTS))
    return sorted({*range(0, count, step), count - 1})
