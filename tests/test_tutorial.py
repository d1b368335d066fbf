"""The tutorial, as a reader would follow it: every file in it is written, every command in it is run."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from xbridge.core.config import parse, parse_yaml
from xbridge.core.files import read_rows
from xbridge.training.train import Config

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "tutorial" / "continue-mbart50.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"((?:^    .*\n|^\n(?=    |\n))+)", flags=re.MULTILINE)
COMMAND = re.compile(r"^(mkdir|\.venv/bin/|launch/)")


def blocks(text):
    """(the prose before it, the block) of every indented block."""
    pieces = BLOCK.split(text)
    return [
        (pieces[i - 1], textwrap.dedent(pieces[i]).strip("\n") + "\n")
        for i in range(1, len(pieces), 2)
        if pieces[i].strip()
    ]


def start(line, folder):
    """The command of a reader in the repository's root, in `folder` instead."""
    words = shlex.split(line)
    programs = {".venv/bin/python": [sys.executable], ".venv/bin/xbridge": [sys.executable, "-m", "xbridge"]}
    words = [*programs.get(words[0], words[:1]), *words[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "XBRIDGE_OFFLINE": "1"}
    return subprocess.Popen(
        words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(line, folder):
    process = start(line, folder)
    out, errors = process.communicate(timeout=900)
    assert process.returncode == 0, f"{line}\n{errors[-3000:]}"
    return out


def interrupted(line, folder):
    """Start the training, press Ctrl-C when it is under way, and see that it saved."""
    process = start(line, folder)
    metrics = folder / "tutorial" / "run" / "metrics.jsonl"
    while process.poll() is None and (not metrics.exists() or metrics.read_text(encoding="utf-8").count("\n") < 30):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGINT, errors[-3000:]
    assert list((folder / "tutorial" / "run" / "checkpoints").glob("step-*/state.json"))


@pytest.mark.slow
def test_the_tutorial_runs_as_it_is_written(tmp_path):
    said = {}
    for prose, block in blocks(PAGE.partition("\n## The real one")[0]):
        if not COMMAND.match(block):
            (tmp_path / re.findall(r"`(tutorial/[\w.]+)`", prose)[-1]).write_text(block, encoding="utf-8")
            continue
        for line in block.splitlines():
            if " train " in line:
                interrupted(line, tmp_path)
            said[line] = run(line, tmp_path)
    assert said[".venv/bin/python tutorial/translate.py"].strip() in PAGE
    summary = json.loads((tmp_path / "tutorial" / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["steps"] < 1000
    assert summary["stopped_early"].startswith("macro_chrf++ was best at step")
    assert summary["macro"]["chrf++"] > 90
    scored = said[".venv/bin/python tutorial/scores.py"].splitlines()
    assert scored[0].startswith("0 {'eng_Latn-deu_Latn'")
    assert len(scored) == summary["steps"] // 50 + 1
    scores = read_rows(tmp_path / "tutorial" / "test" / "scores.parquet")
    of = {(row["metric"], row["predictor"]): row["value"] for row in scores}
    assert of["chrf++_from_pivot", "model"] > 90 > of["chrf++_from_pivot", "copy"]


def test_the_settings_for_a_cluster_are_settings():
    every = [block for prose, block in blocks(PAGE) if "objective:" in block or "pretrained: {model: facebook" in block]
    small, large = (parse_yaml(block, "tutorial") for block in every)
    small.pop("inputs")
    config = parse(Config, {**small, **large})
    assert config.translation_scores.every == 500
    assert config.objective.type == "translation"
