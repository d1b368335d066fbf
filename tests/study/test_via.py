"""Stages as jobs: which wait for which, which are arrays, and what is refused. Real queues are in tests/cluster."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from toy_study import write_toy_files, write_toy_study

from xbridge.core.errors import ConfigError, UserError
from xbridge.study.config import load_study
from xbridge.study.jobs import Jobs
from xbridge.study.plan import Plan
from xbridge.study.via import batches, run_stage, run_via

LAUNCH = Path(__file__).parents[2] / "launch"


@pytest.fixture
def plan(tmp_path):
    write_toy_files(tmp_path)
    return plan_of(tmp_path)


def plan_of(folder, *overrides):
    study, data = load_study(write_toy_study(folder, folder), overrides)
    return Plan(study, data, folder / "runs" / study.study)


def complete(plan, *ids):
    for i in ids:
        artifact = plan.nodes[i].artifact
        artifact.path.mkdir(parents=True, exist_ok=True)
        (artifact.path / "manifest.json").write_text(json.dumps({"digest": artifact.digest}))


def test_every_unfinished_stage_is_in_one_batch_after_its_parents(plan):
    complete(plan, "corpus/corpus", "tokenizer/tokenizer")
    found = [node.id for batch in batches(plan, {"train/base"}) for node in batch.nodes]
    assert sorted(found) == sorted(set(plan.nodes) - {"corpus/corpus", "tokenizer/tokenizer", "train/base"})
    for position, i in enumerate(found):
        assert not set(plan.nodes[i].parents) & set(found[position:])


def test_trainings_and_what_needs_more_ranks_are_jobs_of_their_own_the_rest_are_arrays(plan, tmp_path):
    sizes = [(batch.stage, len(batch.nodes)) for batch in batches(plan, set())]
    assert {size for stage, size in sizes if stage == "train"} == {1}
    # two modes and two seeds of base and random, and a depth further on of three arms with two seeds
    assert [size for stage, size in sizes if stage == "finetune"] == [2 * 4, 6 * 4]
    wide = plan_of(tmp_path, "resources.finetune={nodes: 2}")
    assert {len(batch.nodes) for batch in batches(wide, set()) if batch.stage == "finetune"} == {1}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("resources.trains={}", "resources.trains: no such stage; stages: corpus"),
        ("resources.train={nodes: 0}", "resources.train.nodes: must be at least 1, got 0"),
        ("resources.train={gpus: 0}", "resources.train.gpus: must be at least 1"),
    ],
)
def test_wrong_resources_are_named(plan, tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        plan_of(tmp_path, override)


def test_resources_do_not_name_results(plan, tmp_path):
    other = plan_of(tmp_path, "resources.train={nodes: 4, gpus: 8, time: '1:00'}")
    assert [n.artifact.digest for n in other.nodes.values()] == [n.artifact.digest for n in plan.nodes.values()]


def test_a_dry_run_prints_every_job_with_what_it_waits_for(plan, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XBRIDGE_PROFILE", "cpu")
    complete(plan, *(i for i in plan.nodes if i.partition("/")[0] not in ("transfer", "report")))
    assert run_via(plan, "study: toy\n", LAUNCH / "slurm.sh", tmp_path / "runs", dry_run=True) == []
    first, second = capsys.readouterr().out.split("# job2: report/report\n")
    assert first.startswith("# job1: transfer/transfer\n#!/bin/bash\n#SBATCH --job-name=toy-transfer\n")
    assert "--dependency" not in first
    assert "#SBATCH --dependency=afterok:job1\n" in second
    assert not (plan.folder / "jobs.json").exists()


def test_a_stage_waits_for_its_parents_and_is_known_by_name(plan):
    with pytest.raises(UserError, match="train/base: needs corpus/corpus, which is not done yet"):
        run_stage(plan, "train/base")
    with pytest.raises(UserError, match="train/bass: no such stage in toy"):
        run_stage(plan, "train/bass")


def test_a_missing_launcher_is_named(plan, tmp_path):
    with pytest.raises(UserError, match=r"nothing\.sh: no such launcher"):
        run_via(plan, "", tmp_path / "nothing.sh", tmp_path)


def test_a_job_s_record_counts_for_its_digest_and_until_its_stage_is_done(plan, tmp_path, monkeypatch):
    """Without a queue to ask, nobody can say whether a job is still at work."""
    monkeypatch.setenv("PATH", str(tmp_path))
    Jobs(plan.folder).add("7", [plan.nodes["train/base"], plan.nodes["train/random"]])
    submitted = {"train/base": "submitted (job 7_0)", "train/random": "submitted (job 7_1)"}
    assert Jobs(plan.folder).states(plan) == submitted
    with pytest.raises(UserError, match=r"job 7_\d may be at work on it"):
        Jobs(plan.folder).queued(plan)
    complete(plan, "train/base")
    assert list(Jobs(plan.folder).states(plan)) == ["train/random"]
    assert Jobs(plan.folder).states(plan_of(tmp_path, "train.optim.lr=1e-4")) == {}


@pytest.mark.slow
def test_a_blocking_launcher_runs_one_stage_after_another_and_a_second_run_does_nothing(tmp_path):
    write_toy_files(tmp_path)
    study = write_toy_study(tmp_path, tmp_path)
    small = [
        "arms.mt_shuffled=null", "arms.mt=null", "seeds=[0]", "random_control=false", "tasks={}", "data={}",
        "analysis={extract: null, compare: null, spectra: null, separability: null}",
    ]  # fmt: skip
    command = [sys.executable, "-m", "xbridge", "study", "run", study, "--runs", tmp_path / "runs", *small]

    def run(*options):
        return subprocess.run([*command, *options], capture_output=True, text=True, check=False, cwd=LAUNCH.parent)

    done = run("--via", LAUNCH / "local.sh")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "toy" / "report" / "index.html").exists()
    assert not (tmp_path / "runs" / "toy" / "jobs.json").exists()
    assert "0 run now" in run("--via", LAUNCH / "local.sh").stdout
    assert "0 run now" in run().stdout
