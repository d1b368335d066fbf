"""Slurm's job files: pinned for every cluster profile, valid bash, and nothing of a config is run as shell text."""

import os
import subprocess
from pathlib import Path

import pytest

from xbridge.core.errors import UserError
from xbridge.study.profile import Profile, load_profile
from xbridge.study.slurm import Request, job_file, main

LAUNCH = Path(__file__).parents[2] / "launch"
PROFILES = sorted(path.stem for path in (LAUNCH / "profiles").glob("*.yaml"))
GOLDEN = Path(__file__).parent / "jobs"
BODY = (LAUNCH / "job.bash").read_text(encoding="utf-8")
PLAIN = Profile(description="test", gpus_per_node=8, cpus_per_gpu=4, time="1:00")


def header(request, profile=PLAIN, **environ):
    """The part of a job file that differs from job to job."""
    text = job_file(request, profile, LAUNCH, environ)
    assert text.endswith("\n\n" + BODY)
    return text.removesuffix(BODY)


@pytest.mark.parametrize("name", PROFILES)
def test_a_two_node_training_on_every_cluster_is_the_job_that_was_reviewed(name):
    """After a change that is meant: XBRIDGE_WRITE_GOLDEN=1 python -m pytest tests/launch/test_slurm.py"""
    profile = load_profile(name, LAUNCH / "profiles")
    gpus = profile.gpus_per_node or 2
    request = Request(arguments=("train", "my arm.yaml", "--out", "runs/mine"), nodes=2, gpus=gpus)
    environ = {
        "PYTHON": "python3",
        "XBRIDGE_ACCOUNT": "project_1",
        "XBRIDGE_CONTAINER": "/images/torch.sif" if profile.container else "",
    }
    text = header(request, profile, **environ)
    path = GOLDEN / f"{name}.sbatch"
    if os.environ.get("XBRIDGE_WRITE_GOLDEN") == "1":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
    check = subprocess.run(["bash", "-n"], input=text + BODY, capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stderr


def test_ranks_are_told_how_long_before_the_end_they_are_warned():
    text = header(
        Request(arguments=("train",)),
        Profile(description="x", gpus_per_node=1, cpus_per_gpu=1, time="1:00", lead_seconds=45),
    )
    exports = [line for line in BODY.splitlines() if line.startswith("export XBRIDGE_SIGNAL_SECONDS")]
    assignment = next(line for line in text.splitlines() if "lead_seconds=" in line)
    script = "\n".join([assignment, *exports, 'bash -c "echo \\$XBRIDGE_SIGNAL_SECONDS"'])
    assert subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout == "45\n"


def test_no_word_of_a_request_or_a_profile_is_run_as_shell_text():
    evil = "$(touch pwned)`touch pwned`'\"; touch pwned #"
    profile = Profile(
        description="x", gpus_per_node=1, cpus_per_gpu=1, time="1:00", environment={"A": evil + "{job}"},
        container=(evil, "{image}"),
    )  # fmt: skip
    request = Request(arguments=("train", evil), items=(evil,))
    text = header(request, profile, XBRIDGE_CONTAINER=evil, PYTHON=evil).partition("logs=")[0]
    script = text + 'SLURM_JOB_ID=7\nprintf "%s\\n" "$A" "${python[@]}" "${arguments[@]}" "${items[@]}"; ls pwned\n'
    done = subprocess.run(["bash"], input=script.replace("export A", "SLURM_JOB_ID=7; export A"), capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.stdout.splitlines() == [evil + "7", evil, evil, evil, "train", evil, evil]
    assert "ls: cannot access" in done.stderr


@pytest.mark.parametrize("key", ["partition", "constraint", "qos", "gres", "hint", "time"])
def test_a_profile_s_header_words_cannot_hold_more_options(key):
    with pytest.raises(UserError, match="is not one plain word"):
        Profile(description="x", gpus_per_node=1, cpus_per_gpu=1, **{"time": "1:00", key: "a\n#SBATCH --uid=0"})


def test_a_request_s_header_words_cannot_hold_more_options():
    with pytest.raises(UserError, match="must not hold spaces"):
        header(Request(arguments=("train",), time="1:00\n#SBATCH --uid=0"))


def test_an_array_runs_one_item_per_task_and_waits_for_what_it_needs():
    lines = header(Request(arguments=("study", "stage"), items=("a", "b c"), after=("7", "8"))).splitlines()
    assert "#SBATCH --array=0-1%50" in lines
    assert "#SBATCH --dependency=afterok:7:8" in lines
    assert "#SBATCH --output=logs/%x-%A_%a.out" in lines
    assert "items=(a 'b c')" in lines


def test_an_agent_per_node_has_the_cores_of_all_its_ranks():
    lines = header(Request(arguments=("train",), gpus=4, launcher="torchrun")).splitlines()
    assert "#SBATCH --ntasks-per-node=1" in lines
    assert "#SBATCH --cpus-per-task=16" in lines
    assert f"launcher=({LAUNCH / 'torchrun.sh'})" in lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--profile", "nowhere"), "nowhere: no such cluster profile; give a .yaml file or one of: cpu, generic"),
        (("--profile", "lumi"), "LUMI-G (ROCm), whole nodes bills every job: set XBRIDGE_ACCOUNT"),
        (("--gpus", "9"), "--gpus 9: a node of Any Slurm cluster with GPUs"),
    ],
)
def test_a_job_that_cannot_run_is_refused_before_it_waits_in_a_queue(arguments, message, capsys, monkeypatch):
    monkeypatch.delenv("XBRIDGE_ACCOUNT", raising=False)
    assert main([str(LAUNCH), *arguments, "--dry-run", "--", "train"]) == 2
    assert message in capsys.readouterr().err


def test_without_slurm_the_job_can_be_printed_and_not_submitted(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main([str(LAUNCH), "--dry-run", "--", "train"]) == 0
    assert main([str(LAUNCH), "--", "train"]) == 2
    assert "no sbatch here" in capsys.readouterr().err
