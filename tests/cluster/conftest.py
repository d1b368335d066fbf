"""One cluster for all tests of this folder, and a training to run on it."""

import os
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from testbed import Cluster, why_not

from xbridge.core.config import dump_yaml

ROOT = Path(__file__).parents[2]
TINY = {"layers": 1, "d_model": 16, "ffn": 32, "heads": 2, "init_std": 0.2, "max_positions": 16}


@pytest.fixture(scope="session")
def cluster():
    """A running cluster. XBRIDGE_NEED_CLUSTER=1 turns the skip where there can be none into a failure."""
    reason = why_not()
    if reason and os.environ.get("XBRIDGE_NEED_CLUSTER") == "1":
        pytest.fail(f"the test cluster {reason}")
    if reason:
        pytest.skip(f"the test cluster {reason}")
    profiles = [yaml.safe_load(path.read_text()) for path in (ROOT / "launch" / "profiles").glob("*.yaml")]
    started = Cluster(
        Path(tempfile.mkdtemp(prefix="xbridge-cluster-")),  # short: sockets have paths of at most 107 bytes
        partitions={p["partition"] for p in profiles if "partition" in p},
        features={p["constraint"] for p in profiles if "constraint" in p},
    )
    started.environ |= {
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "XBRIDGE_PROFILE": str(Path(__file__).with_name("profile.yaml")),
    }
    try:
        started.start()
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="session")
def train_file(toy_corpus, toy_tokenizer_folder, tmp_path_factory):
    """A function that writes a YAML for `xbridge train`: denoising without validation, changed as told."""

    def write(steps, **changes):
        settings = {
            "inputs": {"corpus": str(toy_corpus), "tokenizer": str(toy_tokenizer_folder)},
            "objective": "denoising",
            "scratch": TINY,
            "budget": {"unit": "steps", "amount": steps},
            "batch_tokens": 200,
            "max_tokens": 8,
            "optim": {"lr": 1e-2, "warmup_steps": 3},
            "validation_rows": 0,
            "save_every": 10,
            **changes,
        }
        path = tmp_path_factory.mktemp("config") / "train.yaml"
        path.write_text(dump_yaml(settings), encoding="utf-8")
        return path

    return write
