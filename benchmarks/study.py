"""What a whole study costs, and whether two runs of it give the same numbers.

    python benchmarks/study.py configs/studies/quickstart.yaml --repeat 2

Each run starts from nothing but the cached corpus wheel, in a folder of its own. Writes
benchmarks/results/study-<name>.json: wall and CPU seconds, peak memory of all processes together, seconds per kind of
stage, the zero-shot scores, the machine and the versions; and a hash of all score tables per run.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from xbridge.core.artifact import machine, versions
from xbridge.core.files import read_json, read_rows, write_json

RESULTS = Path(__file__).parent / "results"
SAMPLE_SECONDS = 0.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="keep the last run's folder here")
    options = parser.parse_args()
    runs, scores, name = [], [], options.study.stem
    for _ in range(options.repeat):
        folder = Path(tempfile.mkdtemp(prefix="study-"))
        try:
            runs.append(measure(options.study, folder))
            (study_folder,) = (path for path in folder.iterdir() if path.is_dir())
            runs[-1].update(facts_of(study_folder))
            scores = zero_shot(study_folder)
            if options.keep:
                shutil.copytree(folder, options.keep, dirs_exist_ok=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    result = {
        "study": name,
        "command": f"python benchmarks/study.py {options.study} --repeat {options.repeat}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": {**machine(), "memory_bytes": psutil.virtual_memory().total},
        "versions": versions(),
        "runs": runs,
        "score_tables_identical": len({run["score_tables_sha256"] for run in runs}) == 1 if len(runs) > 1 else None,
        "zero_shot": scores,
    }
    write_json(RESULTS / f"study-{name}.json", result)
    print(json.dumps({key: value for key, value in result.items() if key != "zero_shot"}, indent=1))


def measure(study: Path, folder: Path) -> dict[str, Any]:
    """Run the study as a process; wall seconds, CPU seconds of it and its workers, peak resident memory of all."""
    load_before = os.getloadavg()[0]
    before = os.times()
    started = time.monotonic()
    command = [sys.executable, "-m", "xbridge", "study", "run", str(study), "--runs", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = Peak(process.pid)
    code = process.wait()
    after = os.times()
    if code != 0:
        raise SystemExit(f"the study ended with exit code {code}")
    return {
        "wall_seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(
            after.children_user + after.children_system - before.children_user - before.children_system, 1
        ),
        "peak_bytes": peak.stop(),
        "load_average_before": round(load_before, 2),
    }


class Peak:
    """Largest sum of proportional (else resident) memory over a process and its descendants, sampled."""

    def __init__(self, pid: int):
        self._root = psutil.Process(pid)
        self._peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """End the sampling; bytes."""
        self._ended.set()
        self._thread.join()
        return self._peak

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            try:
                family = [self._root, *self._root.children(recursive=True)]
                self._peak = max(self._peak, sum(memory_of(member) for member in family))
            except psutil.Error:
                continue


def memory_of(process: psutil.Process) -> int:
    """Proportional set size where the system tells it: libraries that the workers share count once."""
    try:
        full = process.memory_full_info()
        return int(getattr(full, "pss", full.rss))
    except psutil.Error:
        return 0


def facts_of(folder: Path) -> dict[str, Any]:
    """Seconds per kind of stage, bytes on disk, and a hash of every score table."""
    by_stage: dict[str, dict[str, float]] = {}
    for path in sorted(folder.rglob("manifest.json")):
        manifest = read_json(path)
        row = by_stage.setdefault(manifest["stage"], {"count": 0, "wall_seconds": 0.0, "cpu_seconds": 0.0})
        row["count"] += 1
        row["wall_seconds"] = round(row["wall_seconds"] + manifest["seconds"], 2)
        row["cpu_seconds"] = round(row["cpu_seconds"] + manifest["cpu_seconds"], 2)
    tables = hashlib.sha256()
    for stage in ("evaluate", "compare", "spectra", "separability", "transfer"):
        for path in sorted((folder / stage).rglob("*.parquet")):
            tables.update(json.dumps([path.relative_to(folder).as_posix(), read_rows(path)], default=str).encode())
    return {
        "stages": by_stage,
        "disk_bytes": sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()),
        "score_tables_sha256": tables.hexdigest(),
    }


def zero_shot(folder: Path) -> list[dict[str, Any]]:
    """The zero-shot means of transfer.parquet."""
    paths = list((folder / "transfer").glob("*/transfer.parquet"))
    return [row for path in paths for row in read_rows(path) if row["target_lang"] == "zero-shot"]


if __name__ == "__main__":
    main()
