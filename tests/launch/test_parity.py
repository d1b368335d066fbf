"""One config, four ways to start it, the same ten losses; and a rank that dies ends each of them. All for real.

The fifth way, srun, and the ways over several machines are in tests/cluster.
"""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_training import assert_same_training, updates

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ENVIRON = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_PORT": "0"}
LAUNCHERS = [
    "torchrun",
    "accelerate",
    pytest.param(
        "deepspeed",
        marks=pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"),
    ),
]


def command(name, ranks, config, out):
    return [str(ROOT / "launch" / f"{name}.sh"), "--gpus", str(ranks), "--", "train", str(config), "--out", str(out)]


@pytest.fixture(scope="module")
def free_port():
    import socket

    def find():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return str(probe.getsockname()[1])

    return find


def run(name, ranks, config, out, port):
    environ = {**ENVIRON, "MASTER_PORT": port}
    done = subprocess.run(
        command(name, ranks, config, out), env=environ, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (out / "manifest.json").exists()
    return out


def test_the_same_config_gives_the_same_ten_losses_under_every_launcher(train_file, tmp_path, free_port):
    config = train_file()
    alone = run("local", 1, config, tmp_path / "local", free_port())
    names = [
        name
        for name in ("torchrun", "accelerate", "deepspeed")
        if name != "deepspeed" or importlib.util.find_spec(name)
    ]
    pairs = [run(name, 2, config, tmp_path / name, free_port()) for name in names]
    assert len(updates(alone)) == 10
    assert_same_training(alone, pairs[0])
    for other in pairs[1:]:
        assert updates(other) == updates(pairs[0])


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_killed_rank_ends_the_run_in_finite_time_and_is_named(train_file, tmp_path, name, free_port):
    config = train_file(budget={"unit": "steps", "amount": 100_000})
    process = subprocess.Popen(
        command(name, 2, config, tmp_path / "out"), env={**ENVIRON, "MASTER_PORT": free_port()}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        wait_for(lambda: (tmp_path / "out" / "metrics.jsonl").exists() and len(updates(tmp_path / "out")) > 3, process)
        os.kill(rank_below(process.pid, 1), signal.SIGKILL)
        output, _ = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            for pid in [*descendants(process.pid), process.pid]:
                os.kill(pid, signal.SIGKILL)
    assert process.returncode != 0
    assert "-9" in output or "SIGKILL" in output


def wait_for(condition, process):
    deadline = time.monotonic() + 180
    while not condition():
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def descendants(pid):
    """Processes below `pid`, nearest first; agents put their ranks into sessions of their own."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [further for child in children for further in descendants(child)]


def rank_below(pid, rank):
    """The xbridge process of `rank` below a launcher."""
    for process in reversed(descendants(pid)):
        environ = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        if f"RANK={rank}".encode() in environ:
            return process
    raise AssertionError(f"no rank {rank} is running")
