"""Where this process stands: rank, world, device; and seeds that do not depend on it.

Launchers speak three dialects. torchrun, accelerate and DeepSpeed set RANK, LOCAL_RANK and WORLD_SIZE; a bare `srun`
sets SLURM_PROCID, SLURM_LOCALID and SLURM_NTASKS; a plain `python` sets nothing. `settle_environment` turns all
three into the first, before anything that reads it is imported.
"""

import ctypes
import hashlib
import os
import random
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """This process among all: `rank` of `world_size`, and `local_rank` on its node."""

    rank: int
    local_rank: int
    world_size: int


def settle_environment(environ: MutableMapping[str, str] | None = None) -> Place:
    """Set RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT from SLURM_* where only those are there."""
    environ = os.environ if environ is None else environ
    if "RANK" not in environ and int(environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in environ:
        environ["RANK"] = environ["SLURM_PROCID"]
        environ["LOCAL_RANK"] = environ["SLURM_LOCALID"]
        environ["WORLD_SIZE"] = environ["SLURM_NTASKS"]
        environ.setdefault("MASTER_ADDR", first_host(environ["SLURM_NODELIST"]))
        job = int(environ["SLURM_JOB_ID"]) + int(environ.get("SLURM_RESTART_COUNT", "0"))
        environ.setdefault("MASTER_PORT", str(20000 + job % 10000))
    return Place(
        rank=int(environ.get("RANK", "0")),
        local_rank=int(environ.get("LOCAL_RANK", "0")),
        world_size=int(environ.get("WORLD_SIZE", "1")),
    )


def keep_freed_memory() -> None:
    """Let the large blocks that one update frees serve the next one; nothing where the C library is not glibc.

    By default they go back to the kernel, which hands them out again as pages to be cleared and faulted in one by one.
    """
    mmap_threshold, trim_threshold = -3, -1  # malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(mmap_threshold, 32 << 20)  # the most that glibc takes
        mallopt(trim_threshold, 512 << 20)


def first_host(nodelist: str) -> str:
    """First host of a Slurm node list: `node[03-05,9],x1` -> `node03`."""
    head, bracket, rest = nodelist.partition("[")
    if not bracket or "," in head:
        return nodelist.split(",")[0]
    return head + rest.split("]")[0].split(",")[0].split("-")[0]


def derive_seed(*parts: str | int) -> int:
    """A 63-bit seed from a tuple of names and numbers: the same on every rank, platform and PYTHONHASHSEED."""
    text = "\0".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big") >> 1


def rng(*parts: str | int) -> random.Random:
    """A `random.Random` of its own for this purpose; global random state is never used."""
    return random.Random(derive_seed(*parts))
