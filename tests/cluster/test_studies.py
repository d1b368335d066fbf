"""A whole study as Slurm jobs: submitted once, every stage once, down to its report."""

import json
import sys
from pathlib import Path

import pytest
from toy_study import write_toy_files, write_toy_study

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
SMALL = [
    "arms.mt_shuffled=null", "seeds=[0]", "random_control=false", "tasks.commands=null", "tasks.translation=null",
    "data.commands=null", "analysis={extract: null, compare: null, spectra: null, separability: null}",
    "resources.train={nodes: 2}",
]  # fmt: skip


@pytest.fixture
def study(tmp_path):
    write_toy_files(tmp_path)
    return write_toy_study(tmp_path, tmp_path)


def command(study, action, *options):
    runs = study.parent / "runs"
    return [sys.executable, "-m", "xbridge", "study", action, study, "--runs", runs, *options, *SMALL]


def test_a_study_runs_as_jobs_to_its_report_and_no_stage_is_submitted_twice(cluster, study, tmp_path):
    def xbridge(action, *options, succeed=True):
        done = cluster.run("ctl", *command(study, action, *options))
        assert (done.returncode == 0) == succeed, done.stderr
        return done.stdout if succeed else done.stderr

    via = ("--via", ROOT / "launch" / "slurm.sh")
    cluster.output("ctl", "scontrol", "update", "partition=main", "state=down")  # to look at what is queued
    submitted = xbridge("run", *via)
    assert "jobs of this study are queued or running" in xbridge("run", succeed=False)
    assert "nothing to start" in xbridge("run", *via)
    states = {line.split()[0]: line.split(maxsplit=1)[1] for line in xbridge("status").splitlines()[1:-1]}
    assert {state.split(" (")[0] for state in states.values()} == {"queued"}
    cluster.output("ctl", "scontrol", "update", "partition=main", "state=up")

    jobs = submitted.splitlines()[0].partition(": ")[2].split()
    tasks = json.loads((tmp_path / "runs" / "toy" / "jobs.json").read_text())
    denoise, mt = (tasks[f"evaluate/retrieval-{model}"]["job"] for model in ("denoise-s0", "mt-s0"))
    assert (denoise.partition("_")[2], mt) == ("0", denoise.replace("_0", "_1"))
    logs = tmp_path / "runs" / "toy" / "logs"
    assert cluster.wait_for_job(jobs[-1], 400) == "COMPLETED", "".join(p.read_text() for p in logs.glob("*.out"))
    assert (tmp_path / "runs" / "toy" / "report" / "index.html").stat().st_size > 10_000
    assert "0 run now" in xbridge("run", *via)


def test_what_failed_is_shown_with_its_job_and_submitted_again(cluster, study, tmp_path):
    via = ("--via", ROOT / "launch" / "slurm.sh")
    cluster.output("ctl", "scontrol", "update", "partition=main", "state=down")
    jobs = cluster.output("ctl", *command(study, "run", *via)).splitlines()[0].partition(": ")[2].split()
    (tmp_path / "bitext.tsv").rename(tmp_path / "gone.tsv")
    cluster.output("ctl", "scontrol", "update", "partition=main", "state=up")
    assert cluster.wait_for_job(jobs[0]) == "FAILED"
    assert cluster.wait_for_job(jobs[-1]) == "CANCELLED"  # Slurm cancels what waits for it
    (tmp_path / "gone.tsv").rename(tmp_path / "bitext.tsv")
    assert f"failed (job {jobs[0]})" in cluster.output("ctl", *command(study, "status"))
    again = cluster.output("ctl", *command(study, "run", *via, "--dry-run"))
    assert sum(line.startswith("# job") and ": " in line for line in again.splitlines()) == len(jobs)
