"""Translation quality of the arms on held-out pairs."""

from statistics import fmean

from xbridge.report.document import Block, Bullets, Code, Column, Paragraph, Row, Section, Table, Text
from xbridge.report.format import listed, one_decimal
from xbridge.report.load import Rows, Study
from xbridge.report.readings import metric_name, spread
from xbridge.report.sections import not_run

_METRICS = ("chrf", "chrf++", "bleu", "spbleu")
_COPY = "copy"


def section(study: Study) -> Section:
    """MT quality."""
    title = "Translation quality"
    rows = scores(study)
    if not rows:
        return Section("quality", title, [not_run("translation of held-out pairs")])
    blocks: list[Block] = [
        Paragraph(
            "These scores say whether an MT arm learned to translate at all. Where they are low, whatever the arm "
            "gained elsewhere did not come with good translations. Arms without an MT objective are not expected to "
            "translate."
        ),
        _table(study, rows),
    ]
    signatures: dict[tuple[str, str], dict[str, None]] = {}
    for evaluation in study.evaluations:
        for lang, facts in evaluation.summary.get("languages", {}).items():
            for metric, text in facts.get("signatures", {}).items():
                signatures.setdefault((metric_name(metric.split("_")[0]), text), {})[study.short(lang)] = None
    if signatures:
        blocks.append(Paragraph("Signatures of sacrebleu (Post 2018):"))
        items: list[Text] = [
            [f"{name}, pairs with {listed(list(langs))}: ", Code(t)] for (name, t), langs in signatures.items()
        ]
        blocks.append(Bullets(items))
    return Section("quality", title, blocks)


def scores(study: Study) -> Rows:
    """Mean over seeds of every metric, direction, language and arm, with the spread and the number of seeds.

    The arm `copy` stands for giving back the source sentence, which scores the same whatever the model.
    """
    groups: dict[tuple[str, str, str, str], list[tuple[float, int]]] = {}
    for evaluation in study.evaluations:
        for row in evaluation.scores:
            if row["metric"].split("_")[0] in _METRICS and row["predictor"] in ("model", _COPY):
                arm = evaluation.arm if row["predictor"] == "model" else _COPY
                key = (row["metric"], arm, row["source_lang"], row["target_lang"])
                groups.setdefault(key, []).append((float(row["value"]), int(row["n"])))
    return [
        {"metric": metric, "arm": arm, "source_lang": source, "target_lang": target,
         "value": fmean(v for v, _ in values), "seed_sd": spread([v for v, _ in values]), "num_seeds": len(values),
         "n": values[0][1]}
        for (metric, arm, source, target), values in groups.items()
    ]  # fmt: skip


def _table(study: Study, data: Rows) -> Table:
    rows: list[Row] = []
    for metric in sorted({r["metric"] for r in data}, key=_metric_order):
        for arm in [*study.arms, _COPY]:
            mine = {r["target_lang"]: r["value"] for r in data if (r["metric"], r["arm"]) == (metric, arm)}
            if mine:
                label = "copy of the source" if arm == _COPY else arm
                rows.append({"metric": _direction(study, metric), "arm": label, "mean": fmean(mine.values()), **mine})
    found = {r["target_lang"] for r in data}
    columns = [
        Column("arm", "Arm", is_number=False, is_row_header=True),
        Column("mean", "Mean", one_decimal),
        *[Column(c, study.short(c), one_decimal, hint=c) for c in study.languages if c in found],
    ]
    sizes = sorted({r["n"] for r in data})
    n = f"n = {sizes[0]:,}" if len(sizes) == 1 else f"n = {sizes[0]:,} to {sizes[-1]:,}"
    caption = (
        "chrF (Popović 2015) and BLEU (Papineni et al. 2002), from 0 to 100, on held-out pairs; mean over training "
        f"seeds; {n} sentences per direction. Copy of the source: the sentence given back as it is. Seed spread is in "
        "the CSV."
    )
    return Table("translation", caption, columns, rows, group="metric", data=data)


def _metric_order(metric: str) -> tuple[int, str]:
    return (_METRICS.index(metric.split("_")[0]), metric)


def _direction(study: Study, metric: str) -> str:
    """`chrf_to_pivot` -> `chrF, X→eng`."""
    name, _, direction = metric.partition("_")
    pivot = study.short(study.source_lang)
    words = {"from_pivot": f", {pivot}→X", "to_pivot": f", X→{pivot}"}
    return metric_name(name) + words.get(direction, "")
