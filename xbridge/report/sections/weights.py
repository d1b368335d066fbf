"""What continued training did to the parameters: how far they moved, and the shape of their spectra."""

import re
from statistics import fmean

from xbridge.report import plots
from xbridge.report.document import Block, Column, Figure, Panel, Paragraph, Row, Section, Table
from xbridge.report.format import decimal, one_decimal, shorten
from xbridge.report.load import Rows, Study
from xbridge.report.sections import not_run

_WORDS = (
    (r"(^|\.)(model|transformer|backbone)\.", r"\1"),
    (r"\.weight$", ""),
    (r"\.(layers|layer|block|h)\.\d+\.", "."),
    (r"encoder_attn|EncDecAttention", "cross attention"),
    (r"self_attn|SelfAttention|attention\.self", "self-attention"),
    (r"_proj\b", ""),
)
_CURVE_PANELS = 6
_CURVE_POINTS = 64


def matrix_type(matrix: str) -> str:
    """`model.encoder.layers.0.self_attn.q_proj.weight` -> `encoder self-attention q`."""
    for pattern, replacement in _WORDS:
        matrix = re.sub(pattern, replacement, matrix)
    return re.sub(r"[._]+", " ", matrix).strip()


def section(study: Study) -> Section:
    """Weights."""
    if not study.spectra:
        return Section("weights", "Weights", [not_run("spectra of the weight matrices")])
    blocks: list[Block] = []
    deltas = [r for r in study.spectra if r["kind"] == "delta"]
    weights = [r for r in study.spectra if r["kind"] == "weight"]
    if deltas:
        blocks += [_change_figure(study, deltas)]
    if weights:
        blocks += [
            Paragraph(
                "Stable rank is the squared Frobenius norm over the squared spectral norm; effective rank is the "
                "exponential of the entropy of the normalised singular values (Roy and Vetterli 2007). Both are low "
                "where few directions carry a matrix."
            ),
            _rank_table(study, weights, deltas),
            _curves(study, weights, "spectra", "Singular values", "the weights"),
        ]
    if deltas:
        blocks.append(
            _curves(study, deltas, "spectra-change", "Singular values of the change", "the change from the base")
        )
    return Section("weights", "Weights", blocks)


def _types(study: Study, rows: Rows) -> list[str]:
    return list(dict.fromkeys(matrix_type(r["matrix"]) for r in rows))


def _change_figure(study: Study, deltas: Rows) -> Figure:
    types = _types(study, deltas)
    arms = [arm for arm in study.arms if any(r["arm"] == arm for r in deltas)]
    marks, rows = [], []
    for index, kind in enumerate(types):
        for arm, shift in zip(arms, plots.offsets(len(arms)), strict=True):
            by_model: dict[str, list[float]] = {}
            for r in deltas:
                if r["arm"] == arm and matrix_type(r["matrix"]) == kind and r["relative_change"] is not None:
                    by_model.setdefault(r["model"], []).append(float(r["relative_change"]))
            if not by_model:
                continue
            values = [fmean(changes) for changes in by_model.values()]
            low, high = min(values), max(values)
            marks.append(plots.Mark(index, fmean(values), study.styles[arm], low, high, offset=shift))
            rows.append(
                {"matrix_type": kind, "arm": arm, "relative_change": fmean(values), "model_min": low, "model_max": high,
                 "num_models": len(values), "num_layers": max(map(len, by_model.values()))}
            )  # fmt: skip
    draw = plots.dots(marks, types, x_label="|ΔW| / |W of the base| (Frobenius)")
    height = 0.7 + len(types) * max(0.24, 0.075 * len(arms))
    panel = Panel("", "relative change of each matrix type by arm", draw, width=5.4, height=height)
    caption = "Mean over layers and training seeds; bars: lowest to highest training seed."
    return Figure("weight-change", "Relative change from the base", caption, [panel], rows, plots.legend(study, arms))


def _rank_table(study: Study, weights: Rows, deltas: Rows) -> Table:
    rows: list[Row] = []
    for kind in _types(study, weights):
        for arm in study.arms:
            mine = [r for r in weights if r["arm"] == arm and matrix_type(r["matrix"]) == kind]
            moved = [r for r in deltas if r["arm"] == arm and matrix_type(r["matrix"]) == kind]
            if not mine:
                continue
            rows.append(
                {
                    "matrix_type": kind,
                    "arm": arm,
                    "stable_rank": fmean(r["stable_rank"] for r in mine),
                    "effective_rank": fmean(r["effective_rank"] for r in mine),
                    "spectral": fmean(r["spectral"] for r in mine),
                    "delta_stable_rank": fmean(r["stable_rank"] for r in moved) if moved else None,
                    "delta_effective_rank": fmean(r["effective_rank"] for r in moved) if moved else None,
                    "full_rank": min(mine[0]["rows"], mine[0]["cols"]),
                }
            )
    columns = [
        Column("arm", "Arm", is_number=False, is_row_header=True),
        Column("stable_rank", "Stable rank", one_decimal),
        Column("effective_rank", "Effective rank", one_decimal),
        Column("full_rank", "Full rank"),
        Column("spectral", "Spectral norm", decimal),
        Column("delta_stable_rank", "Stable rank of ΔW", one_decimal),
        Column("delta_effective_rank", "Effective rank of ΔW", one_decimal),
    ]
    caption = "Ranks by matrix type and arm, mean over layers and training seeds. ΔW: difference to the base."
    return Table("ranks", caption, columns, rows, group="matrix_type")


def _curves(study: Study, source: Rows, name: str, title: str, what: str) -> Figure:
    panels, rows = [], []
    types = _types(study, source)
    shown = [kind for kind in types if not re.search(r"embed|shared|lm head", kind)][:_CURVE_PANELS]
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
    caption = f"Singular values of {what}, largest first, mean over layers and training seeds of the value at each index.{more}"
    return Figure(name, title, caption, panels, rows, plots.legend(study, arms))


def _thinned(count: int) -> list[int]:
    """At most about `_CURVE_POINTS` indices, the first and the last among them."""
    step = max(1, -(-count // _CURVE_POINTS))
    return sorted({*range(0, count, step), count - 1})
