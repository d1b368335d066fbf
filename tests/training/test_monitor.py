"""Best and last validations, worked out by hand."""

import json
import math

import pytest

from xbridge.core.config import parse
from xbridge.core.errors import ConfigError
from xbridge.training.monitor import EarlyStopping, Monitor, mode_of

LOSSES = [3.0, 2.0, 2.0, 1.95, 1.5, 1.6, 1.7, 1.4]


def watched(monitor, values, first=0):
    return [monitor.update(first + step, {monitor.metric: value}) for step, value in enumerate(values)]


def test_patience_counts_validations_since_the_last_better_one():
    monitor = Monitor("loss", "min", patience=2)
    verdicts = watched(monitor, LOSSES[:7])
    assert [v.is_best for v in verdicts] == [True, True, False, True, True, False, False]
    assert [v.should_stop for v in verdicts] == [False] * 6 + [True]
    assert (monitor.best, monitor.best_step) == (1.5, 4)
    assert monitor.reason() == "loss was best at step 4 (1.5); validations since then, none better: 2"


def test_an_improvement_must_exceed_min_delta():
    verdicts = watched(Monitor("loss", "min", patience=2, min_delta=0.1), LOSSES[:4])
    assert [v.is_best for v in verdicts] == [True, True, False, False]
    assert verdicts[-1].should_stop


def test_scores_rise_and_losses_fall():
    assert mode_of("loss") == mode_of("eng_Latn-deu_Latn/loss") == "min"
    assert mode_of("macro_chrf++") == mode_of("eng_Latn-deu_Latn/chrf++") == "max"
    assert [v.is_best for v in watched(Monitor("macro_bleu", "max"), [10.0, 9.0, 11.0])] == [True, False, True]


def test_without_patience_the_best_is_known_and_nothing_stops():
    monitor = Monitor("loss", "min")
    assert not any(v.should_stop for v in watched(monitor, [1.0] * 50))
    assert monitor.best_step == 0
    assert monitor.reason() is None


def test_a_validation_without_the_metric_or_with_a_number_that_is_not_finite_is_never_the_best():
    monitor = Monitor("macro_chrf++", "max", patience=1)
    assert monitor.update(0, {"loss": 3.0}) == (False, False)
    assert monitor.update(1, {"macro_chrf++": math.nan}) == (False, True)
    assert monitor.best is None
    assert monitor.reason() == "macro_chrf++ was never finite; validations since then, none better: 1"


@pytest.mark.parametrize("cut", range(len(LOSSES)))
def test_a_resumed_monitor_decides_as_an_uninterrupted_one(cut):
    whole = Monitor("loss", "min", patience=2)
    before, after = Monitor("loss", "min", patience=2), Monitor("loss", "min", patience=2)
    expected = watched(whole, LOSSES)
    first = watched(before, LOSSES[:cut])
    after.load(json.loads(json.dumps(before.state())))
    assert after.should_stop == before.should_stop
    assert first + watched(after, LOSSES[cut:], first=cut) == expected
    assert after.state() == whole.state()


def test_the_state_of_another_metric_is_left():
    before, after = Monitor("loss", "min"), Monitor("macro_bleu", "max")
    before.update(3, {"loss": 1.0})
    after.load(before.state())
    assert after.best is None


def test_settings_that_mean_nothing_are_refused():
    assert Monitor.of(EarlyStopping(metric="macro_bleu", patience=3)).state()["metric"] == "macro_bleu"
    for settings in ({"patience": -1}, {"min_delta": -0.5}, {"metric": ""}):
        with pytest.raises(ConfigError, match=f"^{next(iter(settings))}: "):
            parse(EarlyStopping, settings)
