"""The verdict in words, by fixed rules from the transfer table.

A difference is called higher (lower) only where three things hold: its 95 % interval excludes 0, there are at least
two training seeds, and all of them have its sign. With one training seed it is "higher on one seed", which no summary
counts as higher. Everything else is "not distinguishable". Tasks are never averaged: where they
disagree, the verdict says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

from xbridge.report.document import Strong, Text
from xbridge.report.format import decimal, interval, listed, p_value, signed
from xbridge.report.load import Rows, Study
from xbridge.report.readings import ZERO_SHOT, Reading, macro, per_train_seed, primary_readings, single_scores

Word = Literal["higher", "lower", "higher on one seed", "lower on one seed", "not distinguishable"]
NOT_DISTINGUISHABLE: Word = "not distinguishable"
_ALPHA = 0.05


@dataclass(frozen=True)
class Comparison:
    """An arm against the reference in one reading, on the macro mean over target languages."""

    reading: Reading
    arm: str
    reference: str
    value: float | None
    reference_value: float | None
    difference: float | None
    low: float | None
    high: float | None
    p_holm: float | None
    seed_differences: dict[int, float] = field(default_factory=dict)
    """Training seed -> difference of the two models with that seed."""
    num_scores: int = 0

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def seeds_agree(self) -> bool:
        """True when there are at least two training seeds and all differences have the sign of the mean difference."""
        values = list(self.seed_differences.values())
        if len(values) < 2 or self.difference is None:
            return False
        return all(v > 0 for v in values) if self.difference > 0 else all(v < 0 for v in values)

    @property
    def word(self) -> Word:
        if self.difference is None or not self.excludes_zero:
            return NOT_DISTINGUISHABLE
        if len(self.seed_differences) < 2:
            return "higher on one seed" if self.difference > 0 else "lower on one seed"
        if not self.seeds_agree:
            return NOT_DISTINGUISHABLE
        return "higher" if self.difference > 0 else "lower"

    @property
    def survives_holm(self) -> bool:
        return self.p_holm is not None and self.p_holm < _ALPHA


def compare(study: Study, reading: Reading, arm: str) -> Comparison | None:
    """The comparison of `arm` with the reference, or None where the transfer table has no such row."""
    rows = [row for row in reading.rows(study.transfer) if macro(row)]
    by_arm = {row["arm"]: row for row in rows}
    if arm not in by_arm or study.reference not in by_arm:
        return None
    row, seeds = by_arm[arm], reading.rows(study.seeds)
    ours, theirs = per_train_seed(seeds, arm), per_train_seed(seeds, study.reference)
    return Comparison(
        reading=reading,
        arm=arm,
        reference=study.reference,
        value=row["value"],
        reference_value=by_arm[study.reference]["value"],
        difference=row["difference"],
        low=row["ci_low"],
        high=row["ci_high"],
        p_holm=row["p_holm"],
        seed_differences={seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs},
        num_scores=len(single_scores(seeds, arm)),
    )


def scored_readings(study: Study) -> list[Reading]:
    """The readings that the verdict and the headline show: transfer and alignment. Translation has its own section."""
    return [r for r in primary_readings(study.transfer) if r.kind != "generation"]


def overall(comparisons: Sequence[Comparison], arm: str, reference: str) -> str:
    """The summary of all zero-shot readings together; only words that every reading bears out."""
    words = [c.word for c in comparisons]
    higher, lower = words.count("higher"), words.count("lower")
    rest = len(words) - higher - lower
    if not words:
        return f"No zero-shot task was run with both {arm} and {reference}, so this study does not answer the question."
    all_of_them = "the one zero-shot reading" if len(words) == 1 else f"all {len(words)} zero-shot readings"
    if higher and lower:
        summary = (
            f"The readings disagree: {arm} is higher than {reference} in {higher} and lower in {lower} "
            f"of {len(words)} zero-shot readings."
        )
    elif not higher and not lower:
        summary = f"A difference in zero-shot transfer between {arm} and {reference} is not established here."
        if any(word.endswith("one seed") for word in words):
            summary += " There is one training seed, so whether another would agree is unknown."
    elif not rest:
        better = "better" if higher else "worse"
        summary = f"Here {arm} transfers {better} than {reference}: {words[0]} in {all_of_them}."
    else:
        word, number = ("higher", higher) if higher else ("lower", lower)
        other = "the other" if rest == 1 else f"the other {rest}"
        summary = (
            f"Here {arm} is {word} than {reference} in {number} of {len(words)} zero-shot readings; in {other} a "
            "difference is not distinguishable."
        )
    weak = sum(c.word in ("higher", "lower") and not c.survives_holm for c in comparisons)
    return f"{summary} {_weak_sentence(weak, higher + lower)}" if weak else summary


def _weak_sentence(weak: int, counted: int) -> str:
    if weak == counted:
        return "None of it survives Holm's correction for the number of arms."
    return f"{weak} of these {counted} do{'es' if weak == 1 else ''} not survive Holm's correction."


def sentence(comparison: Comparison) -> Text:
    """One reading in words: both values, the difference, its interval, the seeds and the Holm-adjusted p-value."""
    c = comparison
    if c.word == NOT_DISTINGUISHABLE:
        verdict = f"{c.arm} and {c.reference} are not distinguishable here"
    else:
        word, _, on = c.word.partition(" ")
        verdict = f"{c.arm} is {word} than {c.reference}{' ' + on if on else ''}"
    numbers = f": {decimal(c.value)} against {decimal(c.reference_value)}, difference {signed(c.difference)}"
    tail = f" (95 % interval {interval(c.low, c.high)}; Holm p\u00a0{_p(c.p_holm)}). {_seeds(c)}"
    return [Strong(c.reading.label), " \N{EM DASH} ", verdict, numbers, tail]


def _p(value: float | None) -> str:
    text = p_value(value)
    return text.replace("<", "<\u00a0") if text.startswith("<") else f"=\u00a0{text}"


def _seeds(c: Comparison) -> str:
    values = list(c.seed_differences.values())
    if not values:
        return "No training seed has both arms."
    if len(values) == 1:
        return "One training seed: whether another would agree is unknown."
    shown = ", ".join(signed(v) for v in values)
    if c.seeds_agree:
        return f"{'Both' if len(values) == 2 else f'All {len(values)}'} training seeds agree in sign ({shown})."
    return f"The {len(values)} training seeds do not agree in sign ({shown})."


def control_sentence(treated: Comparison, control: Comparison | None) -> str:
    """What the shuffled control says about one reading of the treated arm."""
    if control is None:
        return f"{treated.reading.short}: the control was not run."
    arm, name, reference = treated.arm, control.arm, treated.reference
    shown = f"{signed(control.difference)} {interval(control.low, control.high)}"
    head = f"{treated.reading.short}: {name} differs from {reference} by {shown}, {arm} by {signed(treated.difference)}"
    if treated.word == NOT_DISTINGUISHABLE:
        return f"{head}. With no distinguishable effect of {arm}, there is nothing for the control to explain."
    if control.word == NOT_DISTINGUISHABLE and _is_clear_of(treated, control):
        return f"{head}. The control is not distinguishable from {reference} and does not explain the difference."
    if control.excludes_zero and _sign(control) != _sign(treated):
        return f"{head}. The control moves the other way and does not explain the difference."
    if _is_clear_of(treated, control):
        return f"{head}. The control has the same sign but the intervals do not overlap: it explains a part at most."
    return f"{head}. The intervals overlap: the control may explain the difference."


def _sign(comparison: Comparison) -> bool:
    assert comparison.difference is not None
    return comparison.difference > 0


def _is_clear_of(treated: Comparison, control: Comparison) -> bool:
    if treated.low is None or treated.high is None or control.low is None or control.high is None:
        return False
    return treated.low > control.high if _sign(treated) else treated.high < control.low


def floor_sentences(study: Study, readings: Sequence[Reading]) -> list[str]:
    """Which arms stand clear of the constant predictor and of random initialisation.

    Clear of the constant predictor: every single score is above it. Clear of random initialisation: the lowest score of
    the arm is above the highest of random initialisation.
    """
    checks: dict[str, list[tuple[Reading, list[str], list[str]]]] = {
        "the constant predictor": [],
        "random initialisation": [],
    }
    for reading in readings:
        seeds = reading.rows(study.seeds)
        scores = {arm: single_scores(seeds, arm) for arm in study.arms}
        floors = [row["floor"] for row in reading.rows(study.transfer) if macro(row) and row["floor"] is not None]
        if floors:
            checks["the constant predictor"].append((reading, *_split(scores, fmean(floors))))
        if scores.get("random"):
            trained = {arm: values for arm, values in scores.items() if arm != "random"}
            checks["random initialisation"].append((reading, *_split(trained, max(scores["random"]))))
    return [_floor_sentence(bar, results) for bar, results in checks.items() if results]


def _floor_sentence(bar: str, results: Sequence[tuple[Reading, list[str], list[str]]]) -> str:
    everyone = "every arm" if bar == "the constant predictor" else "every pretrained arm"
    which = "the one reading" if len(results) == 1 else f"all {len(results)} readings"
    if all(not failed for _, _, failed in results):
        return f"Above {bar}: {everyone} in {which}."
    if all(not clear for _, clear, _ in results):
        return f"Above {bar}: no arm in {which}."
    parts = []
    for reading, clear, failed in results:
        who = everyone if not failed else "no arm" if not clear else f"{listed(clear)}, but not {listed(failed)}"
        parts.append(f"{reading.short}: {who}")
    return f"Above {bar}, by reading: {'; '.join(parts)}."


def _split(scores: dict[str, list[float]], bar: float) -> tuple[list[str], list[str]]:
    """Arms with every score above the bar, and the others."""
    clear = [arm for arm, values in scores.items() if values and min(values) > bar]
    return clear, [arm for arm, values in scores.items() if values and arm not in clear]


def headline_rows(study: Study) -> Rows:
    """One row per reading and arm: mean over seeds, spread, difference with interval, seeds, floor."""
    rows: Rows = []
    for reading in scored_readings(study):
        mine = {row["arm"]: row for row in reading.rows(study.transfer) if macro(row)}
        for arm in [a for a in study.arms if a in mine]:
            row = mine[arm]
            is_reference = arm == study.reference
            comparison = compare(study, reading, arm)
            rows.append(
                {
                    "reading": reading.label,
                    "task": reading.task,
                    "mode": reading.mode,
                    "metric": reading.metric,
                    "site": reading.site,
                    "arm": arm,
                    "target_lang": ZERO_SHOT,
                    "value": row["value"],
                    "seed_sd": row["seed_sd"],
                    "num_seeds": row["num_seeds"],
                    "n": row["n"],
                    "difference": None if is_reference else row["difference"],
                    "ci_low": None if is_reference else row["ci_low"],
                    "ci_high": None if is_reference else row["ci_high"],
                    "p_value": None if is_reference else row["p_value"],
                    "p_holm": None if is_reference else row["p_holm"],
                    "word": "reference" if is_reference or comparison is None else comparison.word,
                    "floor": row["floor"],
                }
            )
    return rows
