"""The verdict in words: the question, what the control and the floors say, and what the sample can support."""

from collections.abc import Sequence

from xbridge.report.document import Block, Bullets, Code, Inline, Link, Paragraph, Section, Strong, Text
from xbridge.report.format import count, decimal
from xbridge.report.load import Study
from xbridge.report.verdict import (
    Comparison,
    compare,
    control_sentence,
    floor_sentences,
    overall,
    scored_readings,
    sentence,
)


def section(study: Study, *, arm: str, control: str) -> Section:
    """The verdict on `arm` against the study's reference, with `control` beside it."""
    readings = scored_readings(study)
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
        result.append(Paragraph([Strong("Does the control explain it?"), " ", *_control_intro(study, arm, control)]))
        result.append(Bullets([control_sentence(c, compare(study, c.reading, control)) for c in found]))
    if readings and study.transfer:
        result.append(Paragraph([Strong("Is anything above the floor?"), " ", _FLOOR_RULE]))
        result.append(Bullets(floor_sentences(study, readings)))
    result.append(Paragraph([Strong("What this can and cannot support.")]))
    result.append(Bullets(limits(study, found)))
    return Section("verdict", "Verdict", result)


_FLOOR_RULE = (
    "The constant predictor always gives the commonest training label (in retrieval: chance); random initialisation is "
    "the same architecture without any pretraining, fine-tuned like the others. An arm is above a control only where "
    "every single score of its seeds is."
)


def _control_intro(study: Study, arm: str, control: str) -> list[Inline]:
    objective = study.lock.get("arms", {}).get(control, {}).get("objective")
    if isinstance(objective, dict) and objective.get("shuffle_pairs"):
        how = "has the text and the objective of "
        rest = ", but its sentences are randomly re-paired, so that nothing can be learned from translation as such."
    else:
        how, rest = "is the study's control for ", "."
    return [Code(control), f" {how}", Code(arm), rest]


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
            + "Intervals are for new test examples and new training runs from this base on this text; they say nothing "
            "about other bases, corpora or model sizes. p-values are not adjusted for the number of readings."
        )
    scratch = _from_scratch(study)
    if scratch:
        found.append(scratch)
    found.append(_domain(study))
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


def _from_scratch(study: Study) -> str:
    """A sentence about the size of a base that was trained here; empty for a pretrained one."""
    base = study.lock.get("config", {}).get("base")
    if not isinstance(base, dict) or base.get("pretrained") is not None:
        return ""
    facts = next((t.summary for t in study.trainings if t.arm == "base"), {})
    size = f" of {count(facts['parameters'])} parameters" if "parameters" in facts else ""
    tokens = f" on {count(facts['tokens']['nonpad'])} non-padded tokens" if "tokens" in facts else ""
    return (
        f"The base is a model{size} trained here from scratch{tokens}, not a large pretrained one. Contrasts between "
        "arms on one budget are meant to be read, not absolute scores."
    )


def _domain(study: Study) -> str:
    corpus = {str(source.get("kind", "")) for source in study.corpus.get("sources", [])}
    tasks = [card.get("source") for card in study.taskdata.values()]
    kinds = {str(source.get("kind", "")) for source in tasks if isinstance(source, dict)}
    if corpus == {"homeassistant"} and kinds <= {"homeassistant_intents"}:
        return (
            "The bitext, the denoising text and the task sentences come from one domain, which favours whatever is "
            "learned from that bitext; transfer from general-domain bitext may differ."
        )
    return (
        "Where bitext and task sentences share a domain, that favours whatever is learned from the bitext; the data "
        "section says where both come from."
    )
