"""Launchers keep one contract (launch/contract.bash). `echo` stands in for the interpreter: what would be started?"""

import os
import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.bash")])
BLOCKING = ("local", "torchrun", "accelerate", "deepspeed")


def launch(name, *arguments, **environ):
    """What the launcher would start."""
    command = [str(LAUNCH / f"{name}.sh"), *map(str, arguments)]
    environ = {**os.environ, "PYTHON": "echo", **environ}
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_a_launcher_is_executable_and_valid_bash(path):
    assert os.access(path, os.X_OK) == (path.suffix == ".sh")
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0


@pytest.mark.parametrize("name", BLOCKING)
def test_a_launcher_passes_every_argument_as_it_is(name):
    outcome = launch(
        name, "--after", "7", "--name", "x", "--time", "1:00", "--", "study", "run", "a b.yaml", "k=[1, 2]"
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.endswith(" study run a b.yaml k=[1, 2]\n")


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("local", (), "-m xbridge doctor"),
        ("torchrun", ("--gpus", 4), "--nproc_per_node 4 --max_restarts 0 --standalone -m xbridge doctor"),
        ("accelerate", ("--gpus", 4), "--num_machines 1 --num_processes 4 --mixed_precision no --dynamo_backend no "
         "--multi_gpu --machine_rank 0"),
        ("deepspeed", ("--gpus", 4), "--no_ssh_check --no_local_rank --master_addr 127.0.0.1"),
    ],
)  # fmt: skip
def test_ranks_of_one_machine(name, arguments, words):
    assert words in launch(name, *arguments, "--", "doctor").stdout


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("torchrun", "--nnodes 2 --rdzv_backend c10d --rdzv_id 7-1 --rdzv_endpoint n1:2000 --rdzv_conf is_host=0"),
        ("accelerate", "--num_machines 2 --num_processes 8 --mixed_precision no --dynamo_backend no --multi_gpu "
         "--machine_rank 1 --main_process_ip n1 --main_process_port 2000"),
    ],
)  # fmt: skip
def test_in_a_slurm_step_each_node_starts_its_share(name, words):
    environ = {"SLURM_NODEID": "1", "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"}
    outcome = launch(name, "--nodes", 2, "--gpus", 4, "--", "doctor", MASTER_ADDR="n1", MASTER_PORT="2000", **environ)
    assert words in outcome.stdout


def test_several_machines_need_to_know_where_to_meet():
    outcome = launch("torchrun", "--nodes", 2, "--", "doctor", MASTER_ADDR="")
    assert outcome.returncode == 2
    assert "MASTER_ADDR" in outcome.stderr


def test_deepspeed_takes_its_hosts_from_a_file_and_hands_over_no_secret(tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("# two\nn1 slots=4\nn2 slots=4\n", encoding="utf-8")
    show = tmp_path / "show"
    show.write_text('#!/bin/bash\necho "$@"; cat "$DS_ENV_FILE"\n', encoding="utf-8")
    show.chmod(0o755)
    outcome = launch("deepspeed", "--hostfile", hosts, "--", "doctor", PYTHON=str(show), TOKEN="secret", HF_HOME="/h",
                     PASS="LIKED", LIKED="yes")  # fmt: skip
    words, *variables = outcome.stdout.splitlines()
    assert "--master_addr n1" in words
    assert "--launcher pdsh" in words
    assert {"HF_HOME=/h", "LIKED=yes"} <= set(variables)
    assert "secret" not in outcome.stdout


def test_deepspeed_in_an_allocation_starts_a_script_because_its_slurm_launcher_knows_no_modules(tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("n1 slots=4\nn2 slots=4\n", encoding="utf-8")
    words = launch("deepspeed", "--hostfile", hosts, "--launcher", "slurm", "--", "doctor").stdout
    assert "--launcher slurm --launcher_args --kill-on-bad-exit=1 --ntasks-per-node=4" in words
    assert words.endswith("launch/ranks.py doctor\n")


@pytest.mark.parametrize("name", BLOCKING)
def test_a_list_runs_once_per_line_and_stops_at_the_first_failure(name, tmp_path):
    listing = tmp_path / "list"
    listing.write_text("evaluate/a b\nevaluate/c", encoding="utf-8")
    arguments = ("--array", listing, "--", "study", "stage", "s.yaml")
    lines = launch(name, *arguments).stdout.splitlines()
    assert [line.partition("s.yaml ")[2] for line in lines] == ["evaluate/a b", "evaluate/c"]
    fails = launch(name, *arguments, PYTHON="false")
    assert (fails.returncode, fails.stdout) == (1, "")


@pytest.mark.parametrize("name", BLOCKING)
def test_a_dry_run_prints_the_command_and_starts_nothing(name):
    outcome = launch(name, "--dry-run", "--", "study", "run", "a b.yaml", PYTHON="false")
    assert outcome.returncode == 0
    assert outcome.stdout.strip().endswith(r"study run a\ b.yaml")


@pytest.mark.parametrize("name", BLOCKING)
@pytest.mark.parametrize("arguments", ["--fast -- doctor", "doctor", "--", "--gpus 0 -- doctor", "--nodes"])
def test_a_launcher_refuses_what_it_does_not_know_with_code_2(name, arguments):
    outcome = launch(name, *arguments.split())
    assert outcome.returncode == 2
    assert outcome.stderr


def test_the_local_launcher_has_one_process():
    assert launch("local", "--gpus", 2, "--", "doctor").returncode == 2
    assert "use another launcher" in launch("local", "--nodes", 2, "--", "doctor").stderr
