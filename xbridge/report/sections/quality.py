"""Translation quality of the arms on held-out pairs."""

from collections.abc import Iterator
from statistics import fmean
from typing import Any

from xbridge.report.document import Block, Bullets, Code, Column, Paragraph, Row, Section, Table
from xbridge.report.format import one_decimal
from xbridge.report.load import Rows, Study
from xbridge.report.readings import metric_name, spread
from xbridge.report.sections import not_run

_METRICS = ("chrf", "bleu")


def section(study: Study) -> Section:
    """MT quality."""
    title = "Translation quality"
    rows = scores(study)
    if not rows:
        return Section("quality", title, [not_run("translation of held-out pairs")])
    blocks: list[Block] = [
        Paragraph(
            "Whether the MT arm learned to translate at all: a low score here means that whatever it gained, it did not "
            "gain by becoming a translator. Arms without an MT objective are not expected to translate."
        ),
        _table(study, rows),
    ]
    signatures = sorted({(metric, text) for e in study.evaluations for metric, text in _signatures(e.summary)})
    if signatures:
        blocks.append(Paragraph("sacrebleu signatures:"))
        blocks.append(Bullets([[f"{metric}: ", Code(text)] for metric, text in signatures]))
    return Section("quality", title, blocks)


def scores(study: Study) -> Rows:
    """Mean over seeds of every metric, arm and direction, with the spread and the number of seeds."""
    groups: dict[tuple[str, str, str, str], list[tuple[float, int]]] = {}
    for evaluation in study.evaluations:
        for row in evaluation.scores:
            if row["metric"] in _METRICS and row["predictor"] == "model":
                key = (row["metric"], evaluation.arm, row["source_lang"], row["target_lang"])
                groups.setdefault(key, []).append((float(row["value"]), int(row["n"])))
    return [
        {"metric": metric, "arm": arm, "source_lang": source, "target_lang": target,
         "value": fmean(v for v, _ in values), "seed_sd": spread([v for v, _ in values]), "num_seeds": len(values),
         "n": values[0][1]}
        for (metric, arm, source, target), values in groups.items()
    ]  # fmt: skip


def _table(study: Study, data: Rows) -> Table:
    order = {code: index for index, code in enumerate(study.languages)}
    directions = sorted(
        {(r["source_lang"], r["target_lang"]) for r in data}, key=lambda d: [order.get(code, 999) for code in d]
    )
    rows: list[Row] = []
    for metric in _METRICS:
        for arm in study.arms:
            mine = {(r["source_lang"], r["target_lang"]): r for r in data if (r["metric"], r["arm"]) == (metric, arm)}
            if mine:
                cells = {f"{a}>{b}": mine[(a, b)]["value"] for a, b in mine}
                mean = fmean(r["value"] for r in mine.values())
                rows.append({"metric": metric_name(metric), "arm": arm, "mean": mean, **cells})
    columns = [
        Column("arm", "Arm", is_number=False, is_row_header=True),
        Column("mean", "Mean", one_decimal),
        *[
            Column(f"{a}>{b}", f"{study.short(a)}→{study.short(b)}", one_decimal, hint=f"{a} to {b}")
            for a, b in directions
        ],
    ]
    sizes = sorted({r["n"] for r in data})
    n = f"n = {sizes[0]:,}" if len(sizes) == 1 else f"n = {sizes[0]:,} to {sizes[-1]:,}"
    caption = (
        "chrF (Popović 2015) and BLEU (Papineni et al. 2002) from 0 to 100 on held-out pairs, mean over training seeds; "
        f"{n} sentences per direction. Seed spread is in the CSV."
    )
    return Table("translation", caption, columns, rows, group="metric", data=data)


def _signatures(summary: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """(metric, signature) wherever the summary of an evaluation keeps one."""
    if isinstance(summary, dict):
        for key, value in summary.items():
            if isinstance(value, str) and "version:" in value:
                yield (metric_name(key.removesuffix("_signature")), value)
            else:
                yield from _signatures(value, key)
