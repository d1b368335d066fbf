"""One cluster for all tests of this folder."""

import os
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from testbed import Cluster, why_not

ROOT = Path(__file__).parents[2]


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
