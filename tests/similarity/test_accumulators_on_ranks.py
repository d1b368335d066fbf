"""Accumulators on 1, 2 and 4 gloo ranks."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow


def run(world: int, folder: Path) -> dict:
    path = folder / f"{world}.json"
    script = Path(__file__).with_name("run_accumulators.py")
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}", script, path],
        check=True, timeout=300,
    )  # fmt: skip
    return json.loads(path.read_text(encoding="utf-8"))


def test_one_two_and_four_ranks_give_one_answer(tmp_path):
    expected = run(1, tmp_path)
    for world in (2, 4):
        found = run(world, tmp_path)
        for name, one in expected.items():
            assert found[name]["n"] == one["n"], name
            assert np.allclose(found[name]["cka"], one["cka"], rtol=0, atol=1e-9), (world, name)
