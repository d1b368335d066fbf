"""The verdict in words, by fixed rules from the transfer table.

A difference is called higher (lower) only where three things hold: its 95 % interval excludes 0, there are at least two
training seeds, and all of them have its sign. Everything else is "not distinguishable here". Tasks are never averaged:
where they disagree, the verdict says so. Nothing is said about a population of models beyond the seeds that ran.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

from xbridge.report.document import Block, Bullets, Code, Inline, Link, Paragraph, Strong, Text
from xbridge.report.format import decimal, interval, listed, p_value, signed
from xbridge.report.load import Rows, Study
from xbridge.report.readings import ZERO_SHOT, Reading, macro, per_train_seed, primary_readings, single_scores

Word = Literal["higher", "lower", "not distinguishable"]
NOT_DISTINGUISHABLE: Word = "not distinguishable"


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
        if self.difference is None or not (self.excludes_zero and self.seeds_agree):
            return NOT_DISTINGUISHABLE
        return "higher" if self.difference > 0 else "lower"


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


def overall(comparisons: Sequence[Comparison], arm: str, reference: str) -> str:
    """One sentence for all zero-shot readings together; only words that every reading bears out."""
    words = [c.word for c in comparisons]
    higher, lower = words.count("higher"), words.count("lower")
    if not words:
        return f"No zero-shot task was run with both {arm} and {reference}, so this study does not answer the question."
    all_of_them = "the one zero-shot reading" if len(words) == 1 else f"all {len(words)} zero-shot readings"
    if higher == len(words):
        return f"Here {arm} transfers better than {reference}: higher in {all_of_them}."
    if lower == len(words):
        return f"Here {arm} transfers worse than {reference}: lower in {all_of_them}."
    if higher and lower:
        return (
            f"The readings disagree: {arm} is higher than {reference} in {higher} and lower in {lower} "
            f"of {len(words)} zero-shot readings."
        )
    if not higher and not lower:
        return f"A difference in zero-shot transfer between {arm} and {reference} is not distinguishable here."
    word, count = ("higher", higher) if higher else ("lower", lower)
    return (
        f"{arm} is {word} than {reference} in {count} of {len(words)} zero-shot readings; "
        f"in the other{'s' if len(words) - count > 1 else ''} a difference is not distinguishable here."
    )


def sentence(comparison: Comparison) -> Text:
    """One reading in words: both values, the difference, its interval, the seeds and the Holm-adjusted p-value."""
    c = comparison
    verdict = {
        "higher": f"{c.arm} is higher than {c.reference}",
        "lower": f"{c.arm} is lower than {c.reference}",
        NOT_DISTINGUISHABLE: f"{c.arm} and {c.reference} are not distinguishable here",
    }[c.word]
    numbers = f": {decimal(c.value)} against {decimal(c.reference_value)}, difference {signed(c.difference)}"
    ci = interval(c.low, c.high)
    tail = f" (95 % interval {ci}; Holm p {_p(c.p_holm)}). {_seeds(c)}"
    return [Strong(c.reading.label), " \N{EM DASH} ", verdict, numbers, tail]


def _p(value: float | None) -> str:
    text = p_value(value)
    return text if text.startswith("<") else f"= {text}"


def _seeds(c: Comparison) -> str:
    values = list(c.seed_differences.values())
    if not values:
        return "No training seed has both arms."
    if len(values) == 1:
        return "One training seed: whether another would agree is unknown."
    shown = ", ".join(signed(v) for v in values)
    if c.seeds_agree:
        return f"All {len(values)} training seeds agree in sign ({shown})."
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
    if control.word == NOT_DISTINGUISHABLE:
        return f"{head}. The control is not distinguishable from {reference}; it does not explain the difference."
    if control.word != treated.word:
        return f"{head}. The control moves the other way; it does not explain the difference."
    if _is_clear_of(treated, control):
        return f"{head}. The control has the same sign but the intervals do not overlap: it explains a part at most."
    return f"{head}. The control has the same sign and the intervals overlap: it may explain the difference."


def _is_clear_of(treated: Comparison, control: Comparison) -> bool:
    assert treated.low is not None
    assert treated.high is not None
    assert control.low is not None
    assert control.high is not None
    return treated.low > control.high if treated.word == "higher" else treated.high < control.low


def floor_sentence(study: Study, reading: Reading, arms: Sequence[str]) -> str:
    """Which arms stand clear of the constant predictor and of random initialisation in one reading.

    Clear of the constant predictor: every single score is above it. Clear of random initialisation: the lowest score of
    the arm is above the highest of random initialisation.
    """
    rows, seeds = reading.rows(study.transfer), reading.rows(study.seeds)
    floors = [row["floor"] for row in rows if macro(row) and row["floor"] is not None]
    scores = {arm: single_scores(seeds, arm) for arm in arms}
    scores = {arm: values for arm, values in scores.items() if values}
    parts = []
    if floors:
        parts.append(f"the constant predictor ({decimal(fmean(floors))}) {_clear(scores, fmean(floors))}")
    random_scores = single_scores(seeds, "random")
    if random_scores:
        trained = {arm: values for arm, values in scores.items() if arm != "random"}
        shown = decimal(fmean(random_scores))
        parts.append(f"random initialisation ({shown}) {_clear(trained, max(random_scores))}")
    return f"{reading.short}: {'; '.join(parts)}." if parts else f"{reading.short}: no control was run."


def _clear(scores: dict[str, list[float]], bar: float) -> str:
    clear = [arm for arm, values in scores.items() if min(values) > bar]
    not_clear = [arm for arm in scores if arm not in clear]
    if not scores:
        return "has nothing to be compared with"
    if not not_clear:
        return f"lies below every score of {listed(clear)}"
    if not clear:
        return f"lies clearly below none of {listed(not_clear)}"
    return f"lies below every score of {listed(clear)}, but not of {listed(not_clear)}"


def blocks(study: Study, *, arm: str, control: str) -> list[Block]:
    """The verdict's paragraphs."""
    readings = [r for r in primary_readings(study.transfer) if r.kind != "generation"]
    found = [c for c in (compare(study, reading, arm) for reading in readings) if c is not None]
    transfer = [c for c in found if c.reading.kind == "transfer"]
    alignment = [c for c in found if c.reading.kind == "alignment"]
    result: list[Block] = [Paragraph(overall(transfer, arm, study.reference), role="lead")]
    if found:
        result.append(Bullets([sentence(c) for c in transfer + alignment]))
    if alignment and not transfer:
        result.append(Paragraph("What was run measures alignment of sentence representations, not transfer of a task."))
    elif alignment:
        result.append(Paragraph("Retrieval measures alignment of sentence representations; it is not counted above."))
    if found and control in study.arms:
        result.append(Paragraph([Strong("Does the control explain it? "), *_control_intro(arm, control)]))
        result.append(Bullets([control_sentence(c, compare(study, c.reading, control)) for c in found]))
    if readings and study.transfer:
        result.append(Paragraph([Strong("Is anything above the floor? "), _FLOOR_RULE]))
        result.append(Bullets([floor_sentence(study, reading, study.arms) for reading in readings]))
    result.append(Paragraph([Strong("What this can and cannot support.")]))
    result.append(Bullets(limits(study, found)))
    return result


_FLOOR_RULE = (
    "The constant predictor always gives the commonest answer of the source language; random initialisation is the "
    "same architecture, fine-tuned without any pretraining. A model counts as above a control only where every single "
    "score of its seeds is."
)


def _control_intro(arm: str, control: str) -> list[Inline]:
    return [
        Code(control),
        " trains on the same text with the same objective as ",
        Code(arm),
        ", but its sentences are randomly re-paired, so that nothing can be learned from translation as such.",
    ]


def limits(study: Study, comparisons: Sequence[Comparison]) -> list[Text]:
    """What the study's sample can and cannot support, from what it ran."""
    num_seeds = max((len(c.seed_differences) for c in comparisons), default=0)
    found: list[Text] = []
    if num_seeds:
        chance = decimal(2 * 0.5**num_seeds, 2 if num_seeds < 5 else 3)
        found.append(
            f"{num_seeds} training seed{'s' if num_seeds > 1 else ''} per arm, all from one base model. "
            + (
                f"With no difference at all, {num_seeds} seeds still agree in sign with probability {chance}. "
                if num_seeds > 1
                else "Variation between training runs is unknown. "
            )
            + "Intervals resample test examples and the seeds that ran; they say nothing about other bases, corpora "
            "or model sizes."
        )
    if _is_from_scratch(study):
        found.append(
            "The base is a small model trained here from scratch for minutes, not a large pretrained one. Absolute "
            "scores are low; only contrasts between arms on one budget are meant to be read."
        )
    found.append(
        "The bitext, the denoising text and the task sentences come from one domain, which favours whatever is learned "
        "from that bitext; transfer from general-domain bitext may differ."
    )
    shares = [row["jaccard"] for row in study.near_duplicates if row["jaccard"] is not None]
    if shares:
        near = sum(value >= 0.6 for value in shares) / len(shares)
        found.append(
            f"{100 * near:.0f} % of held-out items have a near-duplicate in training (word Jaccard of the pivot side "
            "at least 0.6). They raise retrieval and translation scores; the retrieval section splits scores by it."
        )
    found.append(
        [
            "The result need not agree with Ji, Mickus, Segonne and Tiedemann (2024, ",
            Link("arXiv 2403.16777", "https://arxiv.org/abs/2403.16777"),
            "), who continued large pretrained models and asked the same question of established benchmarks.",
        ]
    )
    return found


def _is_from_scratch(study: Study) -> bool:
    base = study.lock.get("config", {}).get("base")
    return isinstance(base, dict) and "pretrained" not in base


def headline_rows(study: Study) -> Rows:
    """One row per reading and arm: mean over seeds, spread, difference with interval, seeds, floor."""
    rows: Rows = []
    for reading in primary_readings(study.transfer):
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
