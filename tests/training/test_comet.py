"""COMET in an environment of its own: what is missing is named; a package with its interface is run as it would be."""

import sys
import venv

import pytest

from xbridge.core.config import parse
from xbridge.core.errors import ConfigError, UserError
from xbridge.training.scorers.comet import Config, build

STAND_IN = '''
"""COMET's interface over a metric that can be worked out by hand: the share of words of the reference that are said."""
import os
from types import SimpleNamespace


class Model:
    def __init__(self, checkpoint):
        self.checkpoint = checkpoint

    def predict(self, samples, batch_size, gpus, progress_bar):
        assert "RANK" not in os.environ and os.environ["HF_HUB_OFFLINE"] == "1"
        print("Predicting")
        if not os.path.getsize(self.checkpoint):
            raise RuntimeError("the checkpoint is empty")
        shares = [
            len({*sample["ref"].split()} & {*sample["mt"].split()}) / len({*sample["ref"].split()})
            for sample in samples
        ]
        return SimpleNamespace(scores=shares, system_score=sum(shares) / len(shares))


def load_from_checkpoint(path, local_files_only):
    assert local_files_only
    return Model(path)
'''


@pytest.fixture
def checkpoint(tmp_path):
    """Files where a COMET checkpoint has them."""
    (tmp_path / "wmt22" / "checkpoints").mkdir(parents=True)
    (tmp_path / "wmt22" / "hparams.yaml").write_text("class_identifier: regression_metric\n")
    (tmp_path / "wmt22" / "checkpoints" / "model.ckpt").write_bytes(b"weights")
    return tmp_path / "wmt22"


@pytest.fixture
def python(tmp_path):
    """The interpreter of a fresh environment with the stand-in."""
    venv.create(tmp_path / "env", symlinks=True)
    major, minor = sys.version_info[:2]
    packages = tmp_path / "env" / "lib" / f"python{major}.{minor}" / "site-packages"
    (packages / "comet").mkdir()
    (packages / "comet" / "__init__.py").write_text(STAND_IN)
    (packages / "unbabel_comet-2.2.7.dist-info").mkdir()
    (packages / "unbabel_comet-2.2.7.dist-info" / "METADATA").write_text("Name: unbabel-comet\nVersion: 2.2.7\n")
    return str(tmp_path / "env" / "bin" / "python")


def test_a_corpus_is_scored_in_the_environment_that_has_comet(checkpoint, python, monkeypatch):
    monkeypatch.setenv("RANK", "3")  # Lightning would take the launcher's variables for its own
    scorer = build(parse(Config, {"model": str(checkpoint), "python": python}))
    assert scorer.signature == "model:wmt22|version:2.2.7"
    said = scorer.score(["rot", "blau"], ["red light", "green"], ["red light", "blue light"])
    assert said == pytest.approx((1 + 0) / 2)


def test_a_scoring_that_fails_says_why(checkpoint, python):
    scorer = build(parse(Config, {"model": str(checkpoint), "python": python}))
    (checkpoint / "checkpoints" / "model.ckpt").write_bytes(b"")
    with pytest.raises(UserError, match=r"wmt22 gave no score \(RuntimeError: the checkpoint is empty\)"):
        scorer.score(["rot"], ["red"], ["red"])


def test_what_is_missing_is_named(checkpoint, tmp_path):
    with pytest.raises(UserError, match=r"elsewhere: has no hparams\.yaml"):
        build(parse(Config, {"model": str(tmp_path / "elsewhere")}))
    venv.create(tmp_path / "bare", symlinks=True)
    bare = str(tmp_path / "bare" / "bin" / "python")
    with pytest.raises(UserError, match=r"has no unbabel-comet; make an environment for it \(python -m venv comet"):
        build(parse(Config, {"model": str(checkpoint), "python": bare}))
    with pytest.raises(UserError, match="cannot run /no/python"):
        build(parse(Config, {"model": str(checkpoint), "python": "/no/python"}))
    with pytest.raises(ConfigError, match=r"^batch_size: "):
        parse(Config, {"model": str(checkpoint), "batch_size": 0})
