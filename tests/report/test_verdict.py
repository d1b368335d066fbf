"""The words of the verdict follow from the numbers by rule."""

from dataclasses import replace

import pytest

from xbridge.report.document import plain
from xbridge.report.load import Study
from xbridge.report.readings import Reading
from xbridge.report.sections.verdict import limits
from xbridge.report.verdict import Comparison, control_sentence, floor_sentences, overall, sentence

INTENTS = Reading("intents", "finetune", "macro_accuracy", "")
HIGHER = Comparison(
    reading=INTENTS, arm="mt", reference="denoise", value=0.137, reference_value=0.079, difference=0.058,
    low=0.04, high=0.07, p_holm=0.001, seed_differences={0: 0.05, 1: 0.066},
)  # fmt: skip
LOWER = replace(HIGHER, difference=-0.058, low=-0.07, high=-0.04, seed_differences={0: -0.05, 1: -0.066})
FLAT = replace(HIGHER, difference=0.01, low=-0.01, high=0.03, p_holm=0.4, seed_differences={0: 0.03, 1: -0.01})
ONE_SEED = replace(HIGHER, seed_differences={0: 0.058})


@pytest.mark.parametrize(
    ("comparison", "word"),
    [
        (HIGHER, "higher"),
        (LOWER, "lower"),
        (FLAT, "not distinguishable"),
        (ONE_SEED, "higher on one seed"),
        (replace(LOWER, seed_differences={0: -0.058}), "lower on one seed"),
        (replace(HIGHER, seed_differences={0: 0.12, 1: -0.004}), "not distinguishable"),
        (replace(HIGHER, low=-0.001), "not distinguishable"),
        (replace(HIGHER, low=0.0), "not distinguishable"),
        (replace(HIGHER, low=None, high=None), "not distinguishable"),
        (replace(HIGHER, difference=None), "not distinguishable"),
    ],
)
def test_a_difference_needs_an_interval_without_0_and_two_agreeing_seeds(comparison: Comparison, word: str) -> None:
    assert comparison.word == word


def test_all_readings_higher_is_said_to_transfer_better() -> None:
    assert overall([HIGHER, HIGHER], "mt", "denoise") == (
        "Here mt transfers better than denoise: higher in all 2 zero-shot readings."
    )
    assert overall([LOWER], "mt", "denoise") == (
        "Here mt transfers worse than denoise: lower in the one zero-shot reading."
    )


def test_some_readings_higher_says_how_many_and_what_the_rest_is() -> None:
    assert overall([HIGHER, FLAT, FLAT], "mt", "denoise") == (
        "Here mt is higher than denoise in 1 of 3 zero-shot readings; "
        "in the other 2 a difference is not distinguishable."
    )


def test_disagreeing_readings_are_reported_as_such() -> None:
    assert overall([HIGHER, LOWER, FLAT], "mt", "denoise") == (
        "The readings disagree: mt is higher than denoise in 1 and lower in 1 of 3 zero-shot readings."
    )


def test_one_seed_is_never_counted_as_higher() -> None:
    assert overall([ONE_SEED, ONE_SEED], "mt", "denoise") == (
        "A difference in zero-shot transfer between mt and denoise is not established here. "
        "There is one training seed, so whether another would agree is unknown."
    )


def test_without_a_task_the_question_stays_unanswered() -> None:
    assert "does not answer the question" in overall([], "mt", "denoise")


def test_a_reading_that_fails_holms_correction_is_named() -> None:
    weak = replace(HIGHER, p_holm=0.08)
    assert overall([weak], "mt", "denoise").endswith("None of it survives Holm's correction for the number of arms.")
    assert overall([HIGHER, HIGHER, weak], "mt", "denoise").endswith("1 of these 3 does not survive Holm's correction.")


def test_a_sentence_gives_values_interval_seeds_and_p() -> None:
    assert plain(sentence(HIGHER)).replace("\u00a0", " ") == (
        "intents, fine-tuned (macro accuracy) — mt is higher than denoise: 0.137 against 0.079, difference +0.058 "
        "(95 % interval [+0.040, +0.070]; Holm p = 0.001). Both training seeds agree in sign (+0.050, +0.066)."
    )
    assert "are not distinguishable here" in plain(sentence(FLAT))
    assert "do not agree in sign (+0.030, −0.010)" in plain(sentence(FLAT))
    assert "mt is higher than denoise on one seed" in plain(sentence(ONE_SEED))


@pytest.mark.parametrize(
    ("treated", "changes", "said"),
    [
        (HIGHER, {"difference": 0.003, "low": -0.01, "high": 0.012}, "does not explain the difference"),
        (HIGHER, {"difference": -0.03, "low": -0.04, "high": -0.02}, "moves the other way"),
        (HIGHER, {"difference": 0.02, "low": 0.01, "high": 0.03}, "explains a part at most"),
        (HIGHER, {"difference": 0.05, "low": 0.03, "high": 0.06}, "may explain the difference"),
        (HIGHER, {"difference": 0.02, "low": -0.02, "high": 0.06}, "may explain the difference"),
        (LOWER, {"difference": -0.02, "low": -0.03, "high": -0.01}, "explains a part at most"),
        (FLAT, {"difference": 0.05, "low": 0.03, "high": 0.06}, "nothing for the control to explain"),
    ],
)
def test_what_the_control_explains(treated: Comparison, changes: dict[str, float], said: str) -> None:
    low, high = changes["low"], changes["high"]
    agree = {0: changes["difference"], 1: changes["difference"]}
    control = replace(treated, arm="mt_shuffled", difference=changes["difference"], low=low, high=high)
    assert said in control_sentence(treated, replace(control, seed_differences=agree))


def _study(scores: dict[str, list[float]], floor: float) -> Study:
    keys = {"task": "intents", "mode": "finetune", "metric": "macro_accuracy", "site": "", "target_lang": "zero-shot"}
    seeds = [
        {**keys, "arm": arm, "train_seed": seed, "finetune_seed": 0, "value": value}
        for arm, values in scores.items()
        for seed, value in enumerate(values)
    ]
    transfer = [{**keys, "arm": arm, "floor": floor} for arm in scores]
    lock = {"languages": ["eng_Latn", "deu_Latn"], "reference": "denoise"}
    return Study(lock=lock, folder=None, transfer=transfer, seeds=seeds)  # type: ignore[arg-type]


def test_an_arm_is_above_a_control_only_with_every_score() -> None:
    study = _study({"random": [0.05], "denoise": [0.06, 0.049], "mt": [0.13, 0.14]}, floor=0.024)
    constant, random = floor_sentences(study, [INTENTS])
    assert constant == "Above the constant predictor: every arm in the one reading."
    assert random == "Above random initialisation, by reading: intents, fine-tuned: mt, but not denoise."


def test_no_arm_above_the_floor_is_said_plainly() -> None:
    study = _study({"random": [0.02], "denoise": [0.01], "mt": [0.02]}, floor=0.024)
    constant, random = floor_sentences(study, [INTENTS])
    assert constant == "Above the constant predictor: no arm in the one reading."
    assert random == "Above random initialisation: no arm in the one reading."


def test_limits_state_the_chance_that_seeds_agree_by_luck() -> None:
    study = _study({"denoise": [0.06, 0.07], "mt": [0.13, 0.14]}, floor=0.024)
    assert "2 seeds still agree in sign with probability 0.50" in plain(limits(study, [HIGHER])[0])
    three = replace(HIGHER, seed_differences={0: 0.1, 1: 0.1, 2: 0.1})
    assert "3 seeds still agree in sign with probability 0.25" in plain(limits(study, [three])[0])
    assert "2403.16777" in plain(limits(study, [HIGHER])[-1])
