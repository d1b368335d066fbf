"""Headline table, differences to the reference, and every language of every task."""

from typing import Any

from xbridge.report import plots
from xbridge.report.document import Block, Code, Column, Figure, Heading, Inline, Panel, Paragraph, Row, Section, Table
from xbridge.report.format import count, decimal, interval, p_value, shorten, signed
from xbridge.report.load import Rows, Study
from xbridge.report.readings import (
    SOURCE,
    ZERO_SHOT,
    Reading,
    all_readings,
    arms_of,
    per_train_seed,
    targets_of,
)
from xbridge.report.sections import not_run
from xbridge.report.verdict import compare, headline_rows, scored_readings

_ESTIMATOR = (
    "Mean: over target languages, then fine-tuning seeds, then training seeds. Difference: with a 95 % bootstrap "
    "interval over test examples (the same draws for both arms) and training seeds, widened for their small number. "
    "Verdict: higher or lower where the interval excludes 0 and the training seeds agree. Holm p: two-sided, adjusted "
    "over the arms of a reading. Seed SD: sample standard deviation over training seeds (over fine-tuning seeds where "
    "there is one). Runs: seeds behind the mean. Examples: over all target languages"
)


def section(study: Study) -> Section:
    """Zero-shot transfer."""
    readings = scored_readings(study)
    if not readings:
        return Section("transfer", "Zero-shot transfer", [not_run("evaluation, or the comparison of its scores")])
    blocks: list[Block] = [_headline(study), *_differences(study, readings), Heading("By language")]
    codes: list[Inline] = ["Languages are written by their ISO 639-3 code."]
    if any(reading.kind == "transfer" for reading in readings):
        codes += [" Models are fine-tuned in ", Code(study.source_lang), " only, which is not part of the mean."]
    blocks.append(Paragraph(codes))
    blocks += [_languages_figure(study, readings), _languages_table(study, readings)]
    return Section("transfer", "Zero-shot transfer", blocks)


def _headline(study: Study) -> Table:
    rows = headline_rows(study)
    shown = [{**row, "interval": interval(row["ci_low"], row["ci_high"])} for row in rows]
    columns = [
        Column("arm", "Arm", is_number=False, is_row_header=True),
        Column("value", "Mean", decimal),
        Column("difference", f"Difference\nto {shorten(study.reference, 17)}", signed),
        Column("interval", "95 % interval"),
        Column("word", "Verdict", is_number=False),
        Column("p_holm", "Holm p", p_value),
        Column("seed_sd", "Seed SD", decimal),
        Column("num_seeds", "Runs", count, hint="training seeds x fine-tuning seeds"),
        Column("n", "Examples", count),
        Column("floor", "Constant", decimal, hint="the same score of a constant predictor"),
    ]
    caption = f"Zero-shot scores by arm. {_ESTIMATOR}. Constant: the same score of a constant predictor."
    return Table("headline", caption, columns, shown, group="reading", data=rows)


def _differences(study: Study, readings: list[Reading]) -> list[Block]:
    """Forest plots: one panel per reading, a row per arm other than the reference."""
    panels, rows = [], []
    for reading in readings:
        arms = [arm for arm in arms_of(study, reading.rows(study.transfer)) if arm != study.reference]
        marks = []
        for index, arm in enumerate(arms):
            c = compare(study, reading, arm)
            if c is None or c.difference is None:
                continue
            seeds = list(c.seed_differences.values())
            singles = seeds if len(seeds) > 1 else []
            marks.append(plots.Mark(index, c.difference, study.styles[arm], c.low, c.high, singles))
            rows.append(_difference_row(reading, arm, c.difference, c.low, c.high, c.seed_differences))
        if not marks:
            continue
        framing = [m for m in marks if len(m.singles) > 1] or marks
        ends = [0.0, *(end for m in framing for end in (m.low, m.high) if end is not None)]
        frame = (min(ends), max(ends))
        draw = plots.dots(
            marks, arms, frame=frame, x_label=f"difference to {shorten(study.reference, 24)}", zero_line=True
        )
        words = f"{reading.label}: difference of each arm to {study.reference}"
        panels.append(Panel(shorten(reading.short, 36), words, draw, height=0.75 + 0.27 * len(arms)))
    if not panels:
        return []
    caption = (
        f"Points: mean difference; bars: its 95 % interval, as in the table above; ticks above: "
        f"the difference of each training seed to the same seed of {study.reference}. Bars of arms with a "
        "single training seed may leave the panel; the CSV has them whole. Right of the line is better than "
        f"{study.reference}."
    )
    return [Figure("differences", f"Difference to {study.reference}, zero-shot macro mean", caption, panels, rows)]


def _difference_row(reading: Reading, arm: str, value: float, low: Any, high: Any, seeds: dict[int, float]) -> Row:
    keys = {"task": reading.task, "mode": reading.mode, "metric": reading.metric, "site": reading.site, "arm": arm}
    by_seed = {f"difference_seed_{seed}": difference for seed, difference in seeds.items()}
    return {**keys, "difference": value, "ci_low": low, "ci_high": high, **by_seed}


def _languages_figure(study: Study, readings: list[Reading]) -> Figure:
    panels, rows, shown = [], [], set()
    for reading in readings:
        mine = reading.rows(study.transfer)
        languages = [code for code in targets_of(study, mine) if code != study.source_lang]
        arms = arms_of(study, mine)
        values = {(row["arm"], row["target_lang"]): row["value"] for row in mine}
        seeds = reading.rows(study.seeds)
        marks = []
        shifts = plots.offsets(len(arms))
        for index, code in enumerate(languages):
            for arm, shift in zip(arms, shifts, strict=True):
                value = values.get((arm, code))
                if value is None:
                    continue
                by_seed = list(per_train_seed(seeds, arm, code).values()) or [value]
                marks.append(plots.Mark(index, value, study.styles[arm], min(by_seed), max(by_seed), offset=shift))
                rows.append(
                    {"task": reading.task, "mode": reading.mode, "metric": reading.metric, "site": reading.site,
                     "arm": arm, "target_lang": code, "value": value, "seed_min": min(by_seed),
                     "seed_max": max(by_seed)}
                )  # fmt: skip
                shown.add(arm)
        if marks:
            labels = [study.short(code) for code in languages]
            height = 0.75 + len(languages) * max(0.26, 0.085 * len(arms))
            words = f"{reading.label} by target language and arm"
            panels.append(
                Panel(shorten(reading.short, 36), words, plots.dots(marks, labels, x_label="score"), height=height)
            )
    caption = "Points: mean over seeds; bars: lowest to highest training seed (mean over fine-tuning seeds)."
    legend = plots.legend(study, sorted(shown))
    return Figure("languages", "Scores by target language", caption, panels, rows, legend)


def _languages_table(study: Study, readings: list[Reading]) -> Table:
    rows: list[Row] = []
    data: Rows = []
    found: dict[str, None] = {}
    for reading in readings:
        mine = reading.rows(study.transfer)
        found.update(dict.fromkeys(targets_of(study, mine)))
        for arm in arms_of(study, mine):
            cells = {row["target_lang"]: row["value"] for row in mine if row["arm"] == arm}
            rows.append({"reading": reading.label, "arm": arm, **cells})
        floors = {row["target_lang"]: row["floor"] for row in mine if row["floor"] is not None}
        if floors:
            rows.append({"reading": reading.label, "arm": "constant predictor", **floors})
    targets = [code for code in [*study.languages, *sorted(found)] if code in found and code != study.source_lang]
    for reading in all_readings(study.transfer):
        data.extend(reading.rows(study.transfer))
    has_source = any(row["target_lang"] in (SOURCE, study.source_lang) for row in study.transfer)
    for row in rows:
        row.setdefault(SOURCE, row.get(study.source_lang))
    source = [Column(SOURCE, f"{study.short(study.source_lang)}\n(source)", decimal)] if has_source else []
    columns = [
        Column("arm", "Arm", is_number=False, is_row_header=True),
        Column(ZERO_SHOT, "Zero-shot\nmean", decimal),
        *[Column(code, study.short(code), decimal, hint=code) for code in list(dict.fromkeys(targets))],
        *source,
    ]
    caption = (
        "Every language, mean over seeds. Controls: random is the same architecture without pretraining, base the "
        "model before continued training. Spread, intervals and every other metric and layer are in the CSV."
    )
    return Table("transfer", caption, columns, rows, group="reading", data=data)
