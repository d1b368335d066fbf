"""Launchers keep one contract: launch/NAME.sh [--nodes N] [--gpus G] [--after JOB] -- ARGS..."""

import os
import subprocess
from pathlib import Path

import pytest

LAUNCHERS = sorted((Path(__file__).parent.parent / "launch").glob("*.sh"))


def launch(path, *arguments):
    """What the launcher would start: `echo` stands in for the interpreter."""
    environ = {**os.environ, "PYTHON": "echo"}
    return subprocess.run([str(path), *arguments], env=environ, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda p: p.name)
def test_a_launcher_is_executable_and_valid_bash(path):
    assert os.access(path, os.X_OK)
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0


def test_the_local_launcher_passes_every_argument_as_it_is():
    outcome = launch(
        LAUNCHERS[0].with_name("local.sh"), "--nodes", "1", "--after", "7", "--", "study", "run", "a b.yaml"
    )
    assert outcome.returncode == 0
    assert outcome.stdout == "-m xbridge study run a b.yaml\n"


@pytest.mark.parametrize(
    "arguments", [("--nodes", "2", "--", "doctor"), ("--fast", "--", "doctor"), ("doctor",), ("--",)]
)
def test_the_local_launcher_refuses_what_it_cannot_do(arguments):
    outcome = launch(LAUNCHERS[0].with_name("local.sh"), *arguments)
    assert outcome.returncode == 2
    assert outcome.stderr
