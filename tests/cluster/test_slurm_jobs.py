"""Jobs through launch/slurm.sh on a real Slurm of two nodes: the numbers of one process, whatever happens to them."""

import os
import signal
from pathlib import Path

import pytest
from tiny_training import assert_same_training, updates

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
PROFILES = sorted(path.stem for path in (LAUNCH / "profiles").glob("*.yaml"))
ZERO = {"zero": {"stage": 2}}


def submit(cluster, *arguments, folder, **environ):
    return cluster.output("ctl", LAUNCH / "slurm.sh", "--logs", folder / "logs", *arguments, **environ).strip()


def log_of(folder):
    return "".join(path.read_text(errors="replace") for path in sorted((folder / "logs").glob("*.out")))


@pytest.fixture(scope="module")
def alone(cluster, train_file, tmp_path_factory):
    """A function: the same training on one process, without Slurm and without ZeRO."""

    def train(steps):
        out = tmp_path_factory.mktemp("alone")
        cluster.output("node1", LAUNCH / "local.sh", "--", "train", train_file(steps), "--out", out)
        return out

    return train


@pytest.mark.parametrize("name", PROFILES)
def test_slurm_accepts_the_job_of_every_profile(cluster, name, tmp_path):
    from xbridge.study.profile import load_profile

    gpus = load_profile(name, LAUNCH / "profiles").gpus_per_node or 2
    arguments = ("--profile", name, "--test-only", "--nodes", 2, "--gpus", gpus, "--", "train", "x.yaml")
    assert "to start at" in submit(cluster, *arguments, folder=tmp_path, XBRIDGE_ACCOUNT="project_1")


def test_srun_and_both_multi_node_launchers_of_deepspeed_give_the_ten_losses_of_one_process(
    cluster, train_file, alone, tmp_path
):
    config, hosts = train_file(10, **ZERO), tmp_path / "hosts"
    hosts.write_text("node1 slots=1\nnode2 slots=1\n", encoding="utf-8")

    def command(name):
        return ("--", "train", config, "--out", tmp_path / name)

    job = submit(cluster, "--nodes", 2, *command("srun"), folder=tmp_path)
    assert cluster.wait_for_job(job) == "COMPLETED", log_of(tmp_path)
    deepspeed = (LAUNCH / "deepspeed.sh", "--hostfile", hosts)
    cluster.output("node1", *deepspeed, *command("pdsh"), PDSH_SSH_ARGS_APPEND=f"-F {cluster.folder}/ssh_config",
                   XBRIDGE_OFFLINE="1")  # fmt: skip
    allocation = ("salloc", "--nodes=2", "--ntasks-per-node=1")
    cluster.output("ctl", *allocation, *deepspeed, "--launcher", "slurm", *command("slurm"))
    assert_same_training(tmp_path / "srun", alone(10))
    assert updates(tmp_path / "srun") == updates(tmp_path / "pdsh") == updates(tmp_path / "slurm")


def test_a_preempted_job_saves_requeues_and_goes_on_with_the_nodes_that_are_left(cluster, train_file, alone, tmp_path):
    out = tmp_path / "out"
    arguments = ("--nodes", 2, "--", "train", train_file(150, **ZERO), "--out", out)
    job = submit(cluster, *arguments, folder=tmp_path)
    cluster.wait_for(lambda: len_updates(out) > 15, 120, "some updates")
    cluster.output("ctl", "scontrol", "update", "nodename=node2", "state=drain", "reason=gone")
    try:
        cluster.output("ctl", "scancel", "--batch", "--signal=USR1", job)
        cluster.wait_for(lambda: (facts := cluster.job(job))["Restarts"] == "1" and facts["JobState"] == "PENDING", 90,
                         "the requeue")  # fmt: skip
        cluster.output("ctl", "scontrol", "update", f"jobid={job}", "numnodes=1", "numtasks=1")
        assert cluster.wait_for_job(job) == "COMPLETED", log_of(tmp_path)
    finally:
        cluster.output("ctl", "scontrol", "update", "nodename=node2", "state=resume")
    facts = cluster.job(job)
    assert (facts["Restarts"], facts["NumNodes"]) == ("1", "1")
    assert "requeue 1: stopped before the limit" in log_of(tmp_path)
    assert_same_training(out, alone(150))


def test_under_agents_a_warning_and_a_killed_rank_each_cost_one_requeue(cluster, train_file, alone, tmp_path):
    out = tmp_path / "out"
    arguments = ("--nodes", 2, "--with", "torchrun", "--", "train", train_file(150, **ZERO), "--out", out)
    job = submit(cluster, *arguments, folder=tmp_path)
    cluster.wait_for(lambda: len_updates(out) > 15, 120, "some updates")
    cluster.output("ctl", "scancel", "--batch", "--signal=USR1", job)
    cluster.wait_for(lambda: cluster.job(job)["Restarts"] == "1", 90, "the requeue")
    stopped = len_updates(out)
    assert 15 < stopped < 150
    cluster.wait_for(lambda: len_updates(out) > stopped + 12, 120, "updates of the second run")
    os.kill(pid_of_rank("1", out), signal.SIGKILL)
    assert cluster.wait_for_job(job) == "COMPLETED", log_of(tmp_path)
    assert cluster.job(job)["Restarts"] == "2"
    assert "failure 1 of at most 1" in log_of(tmp_path)
    assert_same_training(out, alone(150))


def test_bad_input_fails_at_once_and_is_not_requeued(cluster, train_file, tmp_path):
    job = submit(cluster, "--nodes", 2, "--", "train", train_file(10, batch_tokens=0), folder=tmp_path)
    assert cluster.wait_for_job(job) == "FAILED"
    assert cluster.job(job)["Restarts"] == "0"
    assert "xbridge: batch_tokens: must be at least 1, got 0" in log_of(tmp_path)


def len_updates(out):
    return len(updates(out)) if (out / "metrics.jsonl").exists() else 0


def pid_of_rank(rank, out):
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and str(out).encode() in (folder / "cmdline").read_bytes():
            environ = (folder / "environ").read_bytes().split(b"\0")
            if f"RANK={rank}".encode() in environ and b"WORLD_SIZE=2" in environ:
                return int(folder.name)
    raise AssertionError(f"no rank {rank} is running")
