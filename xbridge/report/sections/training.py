"""Loss curves, what each arm consumed, and what it cost."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from xbridge.report import plots
from xbridge.report.document import Block, Column, Figure, Panel, Paragraph, Row, Section, Table
from xbridge.report.format import count, decimal, duration, shorten
from xbridge.report.load import Rows, Study, Training
from xbridge.report.sections import not_run

_POINTS_PER_CURVE = 60
_UNIT_NAMES = {
    "steps": "optimiser steps",
    "nonpad_tokens": "non-padded tokens",
    "padded_tokens": "padded tokens",
    "tokens": "supervised target tokens",
    "supervised_tokens": "supervised target tokens",
}


def section(study: Study) -> Section:
    """Training."""
    trained = [t for t in study.trainings if t.steps]
    if not trained:
        return Section("training", "Training", [not_run("training with logged losses")])
    blocks: list[Block] = [_loss_figure(study, trained)]
    validation = _validation_figure(study, trained)
    if validation is not None:
        blocks.append(validation)
    blocks += [Paragraph(_budget_sentence(study)), _accounting(study)]
    return Section("training", "Training", blocks)


def nonpad_at(training: Training) -> dict[int, int]:
    """Step -> non-padded tokens consumed up to it; step 0 has consumed none."""
    return {0: 0, **{int(line["step"]): int(line["total_nonpad_tokens"]) for line in training.steps}}


def binned(lines: Rows, points: int = _POINTS_PER_CURVE) -> list[tuple[float, float, int]]:
    """(tokens at the end, mean loss, number of steps) of up to `points` runs of consecutive steps of equal length."""
    width = max(1, -(-len(lines) // points))
    chunks = [lines[start : start + width] for start in range(0, len(lines), width)]
    return [(c[-1]["total_nonpad_tokens"], fmean(line["loss"] for line in c), len(c)) for c in chunks]


def _phase(training: Training) -> str:
    return "base" if training.arm == "base" else "arms"


def _loss_figure(study: Study, trained: list[Training]) -> Figure:
    panels, rows = [], []
    titles = {"base": "Base", "arms": "Arms, continued from the base"}
    for phase in ("base", "arms"):
        series = []
        for training in trained:
            if _phase(training) != phase:
                continue
            curve = binned(training.steps)
            series.append(plots.Series([p[0] for p in curve], [p[1] for p in curve], study.styles[training.arm]))
            for tokens, loss, num_steps in curve:
                rows.append(
                    {"model": training.model, "arm": training.arm, "train_seed": training.labels.get("train_seed"),
                     "total_nonpad_tokens": tokens, "loss": loss, "num_steps": num_steps}
                )  # fmt: skip
        if series:
            draw = plots.lines(
                series, x_label="non-padded tokens", y_label="loss (nats per target token)", markers=False
            )
            panels.append(Panel(titles[phase], f"{titles[phase]}: training loss against non-padded tokens", draw))
    caption = (
        f"Each point is the mean over consecutive steps (at most {_POINTS_PER_CURVE} points per model); one line per "
        "training seed. Objectives differ between arms, so the height of two arms' curves is not comparable; that each "
        "still falls, or has levelled off, is."
    )
    legend = plots.legend(study, [t.arm for t in trained])
    return Figure("training-loss", "Training loss", caption, panels, rows, legend)


def _validation_figure(study: Study, trained: list[Training]) -> Figure | None:
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    rows: Rows = []
    by_model = {t.model: t for t in trained}
    for training in trained:
        if _phase(training) != "arms":
            continue
        tokens = nonpad_at(training)
        for line in training.validation:
            for objective, loss in _by_objective(line["validation"]).items():
                at = tokens.get(int(line["step"]))
                if at is None:
                    continue
                found.setdefault(objective, {}).setdefault(training.model, []).append((at, loss))
                rows.append(
                    {"model": training.model, "arm": training.arm, "objective": objective, "step": line["step"],
                     "total_nonpad_tokens": at, "loss": loss}
                )  # fmt: skip
    panels = []
    for objective, models in found.items():
        if max(len(curve) for curve in models.values()) < 2:
            continue
        series = [
            plots.Series([p[0] for p in curve], [p[1] for p in curve], study.styles[by_model[model].arm])
            for model, curve in models.items()
        ]
        draw = plots.lines(series, x_label="non-padded tokens", y_label="loss (nats per target token)")
        title = objective[:1].upper() + objective[1:]
        panels.append(Panel(shorten(title, 40), f"validation loss, {objective}", draw))
    if not panels:
        return None
    caption = (
        "Held-out loss on the same examples with the same noise at every step, one line per training seed: over "
        "directions for translation, over languages for denoising, which are not comparable."
    )
    legend = plots.legend(study, [by_model[m].arm for models in found.values() for m in models])
    return Figure("validation-loss", "Validation loss", caption, panels, rows, legend)


def _by_objective(losses: Mapping[str, Any]) -> dict[str, float]:
    """Means over the parts of an objective: `{"eng_Latn-deu_Latn": 3.1, ...}` -> `{"mean over directions": ...}`."""
    groups: dict[str, list[float]] = {}
    for key, value in losses.items():
        objective, _, part = key.rpartition("/")
        kind = "mean over directions" if "-" in part else "mean over languages"
        if isinstance(value, int | float):
            groups.setdefault(f"{objective}, {kind}" if objective else kind, []).append(float(value))
    return {key: fmean(values) for key, values in groups.items()}


def _budget_sentence(study: Study) -> str:
    config = study.lock.get("config", {})
    budgets = [config.get(part, {}).get("budget") for part in ("continued", "train")]
    unit = next((b["unit"] for b in budgets if isinstance(b, dict) and "unit" in b), None)
    if unit is None:
        return "The columns below show which counts are equal between the arms and which are not."
    return (
        f"The arms are given the same number of {_UNIT_NAMES.get(unit, unit)}. The other counts differ with the "
        "objective, as the columns show."
    )


def _accounting(study: Study) -> Table:
    rows: list[Row] = []
    for training in sorted(study.trainings, key=lambda t: study.arms.index(t.arm)):
        last = training.steps[-1] if training.steps else {}
        rows.append(
            {
                "model": training.model,
                "arm": training.arm,
                "train_seed": training.labels.get("train_seed"),
                "steps": last.get("step", 0),
                "padded": last.get("total_padded_tokens", 0),
                "nonpad": last.get("total_nonpad_tokens", 0),
                "supervised": last.get("total_tokens", 0),
                "loss": fmean(line["loss"] for line in training.steps[-20:]) if training.steps else None,
                "seconds": training.manifest.get("seconds"),
                "cpu_seconds": training.manifest.get("cpu_seconds"),
            }
        )
    columns = [
        Column("model", "Model", is_number=False, is_row_header=True),
        Column("steps", "Steps", count),
        Column("nonpad", "Non-padded\ntokens", count),
        Column("padded", "Padded\ntokens", count),
        Column("supervised", "Supervised\ntokens", count),
        Column("loss", "Final\nloss", decimal, hint="mean of the last 20 steps, nats per target token"),
        Column("seconds", "Wall time", duration),
        Column("cpu_seconds", "CPU time", duration),
    ]
    caption = (
        "What each training consumed. Non-padded and padded tokens count source and target; supervised tokens are "
        "those the loss is taken over; final loss is the mean of the last 20 steps. Wall times of "
        "runs side by side overlap."
    )
    return Table("training", caption, columns, rows)
