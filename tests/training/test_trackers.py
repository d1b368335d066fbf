"""TensorBoard's event files read back; trackers that are unknown, missing or broken."""

import json
import shutil

import pytest
from tiny_training import config

from xbridge.core import console
from xbridge.core.errors import ConfigError, Interrupted
from xbridge.training import train
from xbridge.training.metrics_log import read_metrics
from xbridge.training.trackers import Trackers, flat, points

LINE = {"step": 3, "loss": 2.5, "lr": 0.1, "batch_digest": "ab"}
SCORED = {
    "step": 4, "validation": {"eng_Latn": 1.5}, "translation": {"eng_Latn-deu_Latn": {"chrf++": 7.0}},
    "macro": {"chrf++": 7.0}, "signatures": {"chrf++": {"nrefs:1": ["eng_Latn-deu_Latn"]}},
}  # fmt: skip


class Said:
    """A sink that keeps the log lines."""

    def __init__(self):
        self.lines = []

    def progress(self, label, done, total, unit, facts):
        pass

    def log(self, label, facts):
        self.lines.append(console.format_line(label, facts))


@pytest.fixture
def said():
    sink = Said()
    console.set_sink(sink)
    yield sink.lines
    console.set_sink(None)


def events(folder):
    """Every point that TensorBoard shows: name -> [(step, value)]."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder / "tensorboard"), size_guidance={accumulator.SCALARS: 0})
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def logged(folder):
    """The same from metrics.jsonl."""
    found = {}
    for line in read_metrics(folder / "metrics.jsonl"):
        for name, value in points(line).items():
            found.setdefault(name, []).append((line["step"], pytest.approx(value, rel=1e-6)))  # events are float32
    return found


def test_points_are_named_by_what_they_are():
    assert points(LINE) == {"train/loss": 2.5, "train/lr": 0.1}
    assert points(SCORED) == {
        "validation/eng_Latn": 1.5,
        "translation/eng_Latn-deu_Latn/chrf++": 7.0,
        "translation/macro/chrf++": 7.0,
    }
    assert flat({"a": {"b": 1, "c": [1, 2]}, "d": None}) == {"a.b": 1, "a.c": "[1, 2]"}


def test_tensorboard_shows_what_metrics_jsonl_says(inputs, tmp_path):
    scores = {"directions": ["eng_Latn-deu_Latn"], "rows": 3, "max_new_tokens": 4}
    settings = config(trackers=["tensorboard"], translation_scores=scores)
    train.run(settings, inputs, tmp_path)
    shown = events(tmp_path)
    assert shown == logged(tmp_path)
    assert len(shown["train/loss"]) == 10
    assert len(shown["translation/macro/chrf++"]) == 2


def test_a_continued_run_goes_on_in_the_same_event_folder_without_points_twice(inputs, tmp_path):
    from xbridge.training.signals import StopSignals

    pytest.importorskip("tensorboard")
    settings = config(trackers=["tensorboard"], save_every=4)
    with pytest.MonkeyPatch.context() as patch:
        polls = iter(range(1000))
        patch.setattr(StopSignals, "is_set", property(lambda self: next(polls) > 14))
        with pytest.raises(Interrupted):
            train.run(settings, inputs, tmp_path)
    reached = read_metrics(tmp_path / "metrics.jsonl")[-1]["step"]
    newest = sorted((tmp_path / "checkpoints").glob("step-*"))[-1]
    assert reached > 4
    shutil.rmtree(newest)  # as after a kill: metrics and events are ahead of the newest checkpoint
    train.run(settings, inputs, tmp_path)
    assert len(list((tmp_path / "tensorboard").glob("events.*"))) == 2
    assert events(tmp_path) == logged(tmp_path)


def test_other_trackers_are_not_sent_again_what_they_have_had(tmp_path, monkeypatch):
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

    had = []

    class Keeps(GeneralTracker):
        name, requires_logging_directory, tracker = "keeps", False, None

        def __init__(self, run_name):
            super().__init__()

        def log(self, values, step=None, **kwargs):
            had.append((step, *values))

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "keeps", Keeps)
    trackers = Trackers(["keeps"], tmp_path)
    first, second = {"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.5}
    trackers.start([first], dropped=[second])
    for line in (second, {"step": 2, "validation": {"dev": 1.0}}, {"step": 3, "loss": 2.0}):
        trackers.write(line)
    assert had == [(2, "validation/dev"), (3, "train/loss")]


def test_an_unknown_tracker_is_a_mistake_in_the_config(inputs, tmp_path):
    with pytest.raises(ConfigError, match=r"^trackers\.0: 'tensorbored' is not one of .*tensorboard"):
        train.run(config(trackers=["tensorbored"]), inputs, tmp_path)


def test_a_tracker_that_is_missing_or_fails_costs_one_warning(tmp_path, said, monkeypatch):
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, TensorBoardTracker

    class Fails(TensorBoardTracker):
        def log(self, values, step=None, **kwargs):
            raise OSError("https://user:secret@example.org is down")

    pytest.importorskip("tensorboard")
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "tensorboard", Fails)
    trackers = Trackers(["tensorboard", "aim"], tmp_path)
    trackers.start([])
    trackers.write(LINE)
    trackers.write(SCORED)
    trackers.close()
    assert len(said) == 2
    assert "tracker aim is not installed" in said[0]
    assert "tracker tensorboard OSError; metrics.jsonl has everything" in said[1]
    assert "secret" not in json.dumps(said)


def test_offline_only_trackers_that_need_no_network_are_started(tmp_path, said, monkeypatch):
    monkeypatch.setenv("XBRIDGE_OFFLINE", "1")
    Trackers(["comet_ml"], tmp_path).start([])
    assert "tracker comet_ml needs the network, which XBRIDGE_OFFLINE=1 refuses" in said[0]
