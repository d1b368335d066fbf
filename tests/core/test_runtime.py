"""Ranks from any launcher, and seeds that depend on nothing else."""

import hashlib
import subprocess
import sys

import pytest

from xbridge.core.runtime import Place, derive_seed, first_host, rng, settle_environment


def test_a_plain_process_is_rank_0_of_1():
    assert settle_environment({}) == Place(rank=0, local_rank=0, world_size=1)


def test_torchrun_variables_are_taken_as_set():
    environ = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "SLURM_PROCID": "0", "SLURM_NTASKS": "2"}
    assert settle_environment(environ) == Place(rank=3, local_rank=1, world_size=4)


def test_a_bare_srun_is_translated_with_a_port_of_its_own_per_restart():
    environ = {
        "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1",
        "SLURM_NTASKS": "8",
        "SLURM_NODELIST": "gpu[03-04]",
        "SLURM_JOB_ID": "12345",
        "SLURM_RESTART_COUNT": "2",
    }
    assert settle_environment(environ) == Place(rank=5, local_rank=1, world_size=8)
    assert environ["MASTER_ADDR"] == "gpu03"
    assert environ["MASTER_PORT"] == "22347"


def test_a_single_slurm_task_needs_no_process_group():
    environ = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}
    assert settle_environment(environ) == Place(rank=0, local_rank=0, world_size=1)
    assert "RANK" not in environ


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [("node1", "node1"), ("node1,node2", "node1"), ("n[1-3]", "n1"), ("n[003,7]", "n003"), ("a,b[1-2]", "a")],
)
def test_first_host_of_a_slurm_node_list(nodelist, host):
    assert first_host(nodelist) == host


def test_seeds_are_fixed_by_their_names():
    assert derive_seed("mt", 0) == int(hashlib.sha256(b"mt\x000").hexdigest()[:16], 16) >> 1
    assert derive_seed("mt", 0) != derive_seed("mt", 1)
    assert derive_seed("a", "b") != derive_seed("ab")
    assert rng("x", 1).random() == rng("x", 1).random()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is glibc's")
def test_memory_that_is_kept_is_not_faulted_in_again():
    code = """
import resource, sys
from xbridge.core.runtime import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for update in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [bytearray(8 << 20) for _ in range(12)]
    del blocks
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""
    faults = [int(subprocess.check_output([sys.executable, "-c", code, word])) for word in ("keep", "leave")]
    assert faults[0] < 10
    assert faults[1] > 1000
