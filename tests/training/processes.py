"""Start trainings as processes of their own, on one rank or several."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from safetensors.torch import load_file
from tiny_training import DEFAULTS, updates

SCRIPT = Path(__file__).with_name("run_training.py")


def write_settings(out, **changes):
    """Put what a training in `out` shall be where run_training.py reads it."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "settings.json").write_text(json.dumps({**DEFAULTS, **changes}))
    return out


def launch(inputs, folders, *, ranks=1, environment=(), script=SCRIPT):
    """Start the trainings of `folders`, one after the other, in a process group of their own."""
    command = [sys.executable]
    if ranks > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command += ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}", f"--master_port={port}"]
    command += [str(script), str(inputs.corpus), str(inputs.tokenizer), *map(str, folders)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2]), **dict(environment)}
    return subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True, start_new_session=True)


def start(inputs, out, *, ranks=1, environment=(), **changes):
    """Start one training with the tiny settings, changed."""
    return launch(inputs, [write_settings(out, **changes)], ranks=ranks, environment=environment)


def finished(process, code=0):
    """Wait for the end and check the exit code; return what was said on stderr."""
    _, errors = process.communicate(timeout=600)
    said = [
        line for line in errors.splitlines() if line.startswith(("[rank", "Traceback", "xbridge")) or "rror" in line
    ]
    assert process.returncode == code, "\n".join(said)[:4000]
    return errors


def run(inputs, out, **changes):
    """Train to the end."""
    finished(start(inputs, out, **changes))
    return out


def run_all(inputs, ranks, trainings, *, copies=None, step=0):
    """Train {folder: settings} to the end, one after the other on the same `ranks` processes. {folder: source} of
    `copies` start as `source` was when it had saved `step`."""
    copies = copies or {}
    for out, changes in trainings.items():
        write_settings(out, **changes)
    words = [f"{copies[out]}:{step}:{out}" if out in copies else out for out in trainings]
    finished(launch(inputs, words, ranks=ranks))


def wait_for_step(out, step):
    """Return when `out` has logged the update `step`."""
    for _ in range(2400):
        if (out / "metrics.jsonl").exists() and len(updates(out)) >= step:
            return
        time.sleep(0.05)
    raise AssertionError(f"step {step} was not reached")


def ranks_of(process):
    """Process ids of the ranks below a torchrun."""
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def weights(out):
    """The trained weights by name."""
    return load_file(out / "model" / "model.safetensors")
