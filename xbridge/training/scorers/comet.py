"""COMET (Rei et al., 2020): a trained metric, read from a checkpoint folder on disk, never from the network.

unbabel-comet (2.2) wants older transformers and numpy than xbridge does, so that it lives in an environment of its own
and scores in a process of that environment's Python:

    python -m venv comet && comet/bin/pip install unbabel-comet 'setuptools<81'

Its torchmetrics imports pkg_resources, which newer setuptools lack. The folder is the one of the hub: hparams.yaml and
checkpoints/model.ckpt. The tokenizer and config of the encoder that hparams.yaml names (xlm-roberta-large, mostly)
must lie in the hub's cache of this machine. Each scoring loads the model anew, and its memory is free again while the
training goes on.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xbridge.core.config import InputPath, undigested
from xbridge.core.errors import ConfigError, UserError

VERSION_PROGRAM = "import importlib.metadata as m; print(m.version('unbabel-comet'))"
SCORE_PROGRAM = """
import json, sys
from comet import load_from_checkpoint
order = json.load(sys.stdin)
model = load_from_checkpoint(order["checkpoint"], local_files_only=True)
found = model.predict(order["samples"], batch_size=order["batch_size"], gpus=order["gpus"], progress_bar=False)
print(json.dumps(float(found.system_score)))
"""
KEPT = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "HF_HOME", "HF_HUB_CACHE", "CUDA_VISIBLE_DEVICES")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A COMET checkpoint and who runs it."""

    model: InputPath
    """Folder with hparams.yaml and checkpoints/model.ckpt."""
    python: str = undigested("")
    """Python of the environment that has unbabel-comet; empty = the one that trains."""
    batch_size: int = undigested(16)
    """Sentences per forward pass."""
    gpus: int = undigested(0)
    """GPUs to score on; 0 = the CPU, because the training has the GPU."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError("batch_size", f"must be at least 1, got {self.batch_size}")
        if self.gpus < 0:
            raise ConfigError("gpus", f"must be 0 or more, got {self.gpus}")


def build(config: Config) -> "Comet":
    """The scorer; `UserError` where the checkpoint or unbabel-comet is not there."""
    folder, python = Path(config.model), config.python or sys.executable
    for name in ("hparams.yaml", "checkpoints/model.ckpt"):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: has no {name}; give the folder of a COMET checkpoint as the hub has it")
    return Comet(config, python, _version(python))


class Comet:
    """The mean of the segments' scores."""

    name = "comet"

    def __init__(self, config: Config, python: str, version: str):
        self.signature = f"model:{Path(config.model).name}|version:{version}"
        self._config, self._python = config, python

    def score(self, sources: Sequence[str], hypotheses: Sequence[str], references: Sequence[str]) -> float:
        """Score a corpus in a process of its own."""
        samples = [
            {"src": source, "mt": hypothesis, "ref": reference}
            for source, hypothesis, reference in zip(sources, hypotheses, references, strict=True)
        ]
        order = {
            "checkpoint": str(Path(self._config.model).resolve() / "checkpoints" / "model.ckpt"),
            "samples": samples,
            "batch_size": self._config.batch_size,
            "gpus": self._config.gpus,
        }
        done = _run(self._python, SCORE_PROGRAM, json.dumps(order))
        score = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else math.nan
        if not math.isfinite(score):
            last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
            raise UserError(f"comet: {self._config.model} gave no score ({' '.join(last) or 'no message'})")
        return float(score)


def _version(python: str) -> str:
    try:
        done = _run(python, VERSION_PROGRAM)
    except OSError as error:
        raise UserError(f"comet: cannot run {python} ({error.strerror}); `python` names an interpreter") from None
    if done.returncode != 0:
        raise UserError(
            f"comet: {python} has no unbabel-comet; make an environment for it (python -m venv comet && "
            "comet/bin/pip install unbabel-comet 'setuptools<81') and give its interpreter as `python`"
        )
    return done.stdout.strip()


def _run(python: str, program: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program without the launcher's variables, which Lightning would take for its own, and without a network."""
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    return subprocess.run(
        [python, "-I", "-c", program], input=text, env=environment, capture_output=True, text=True, check=False
    )
