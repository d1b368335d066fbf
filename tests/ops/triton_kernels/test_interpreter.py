"""Runs the tests of this folder that need Triton's interpreter."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from xbridge.ops.triton import gram_sums, ingest, margin_both_ways, nearest_both_ways

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
x = torch.zeros(5, 3)
shift = torch.zeros(3, dtype=torch.float64)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.skipif(INTERPRETING, reason="these tests are being interpreted already")
def test_kernels_agree_with_float64_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", str(Path(__file__).parent)]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@pytest.mark.skipif(INTERPRETING, reason="the interpreter takes CPU tensors")
@pytest.mark.parametrize(
    "reason",
    [
        lambda: gram_sums.why_not([x, x], [shift, shift], [1.0, 1.0], "linear", [1.0, 1.0]),
        lambda: nearest_both_ways.why_not(x, x, 2),
        lambda: margin_both_ways.why_not(x, x, x[:, 0], x[:, 0]),
        lambda: ingest.why_not(x, shift, 1.0, torch.empty(5, 3), torch.empty(5, dtype=torch.float64)),
    ],
)
def test_tensors_on_the_cpu_are_refused_with_the_reason(reason):
    assert reason() in ("triton is not installed", "no CUDA device", "the rows are not on a CUDA device")


def test_float64_rows_are_left_to_the_reference():
    layers = [x.double(), x.double()]
    assert "float64" in gram_sums.why_not(layers, [shift, shift], [1.0, 1.0], "rbf", [1.0, 1.0])


def test_rows_without_columns_are_refused():
    assert "column" in nearest_both_ways.why_not(torch.zeros(4, 0), torch.zeros(4, 0), 1)
