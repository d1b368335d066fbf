"""Whole studies, run for real as a person would: through the command, in processes of their own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy_study import write_toy_study

from xbridge.core.config import dump_yaml
from xbridge.core.files import read_rows

pytestmark = pytest.mark.study


def command(*arguments):
    return [sys.executable, "-m", "xbridge", *map(str, arguments)]


def run(*arguments, **options):
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=600, check=False, **options)


def results(folder: Path):
    """Every number that a study ends with, by stage and name, without times."""
    tables = {}
    for path in sorted(folder.rglob("*.parquet")):
        tables[path.relative_to(folder).as_posix()] = read_rows(path)
    return json.dumps(tables, sort_keys=True, default=str)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, toy_files):
    """A toy study run without interruption or network: (study file, runs folder, what the command printed)."""
    folder = tmp_path_factory.mktemp("finished")
    study = write_toy_study(folder, toy_files)
    outcome = run("study", "run", study, "--runs", folder / "runs", env={**os.environ, "XBRIDGE_OFFLINE": "1"})
    assert outcome.returncode == 0, outcome.stderr
    return study, folder / "runs", outcome


def test_one_command_leads_from_a_table_to_a_report(finished):
    _, runs, outcome = finished
    page = runs / "toy" / "report" / "index.html"
    assert str(page) in outcome.stdout
    assert "denoise" in outcome.stdout
    assert page.stat().st_size > 20_000
    assert (runs / "toy" / "report" / "report.md").exists()


def test_a_second_run_does_nothing(finished):
    study, runs, _ = finished
    before = {p: p.stat().st_mtime_ns for p in runs.rglob("manifest.json")}
    outcome = run("study", "run", study, "--runs", runs)
    assert outcome.returncode == 0
    assert "0 run now" in outcome.stdout
    assert {p: p.stat().st_mtime_ns for p in runs.rglob("manifest.json")} == before


def test_status_shows_each_stage_with_time_and_size(finished):
    study, runs, _ = finished
    outcome = run("study", "status", study, "--runs", runs)
    rows = [line.split() for line in outcome.stdout.splitlines()]
    assert rows[0] == ["stage", "state", "time", "size"]
    assert "train/mt-s1" in {row[0] for row in rows}
    assert {row[1] for row in rows[1:-1]} == {"done"}


def test_a_changed_arm_runs_again_with_what_depends_on_it_and_nothing_else(finished):
    study, runs, _ = finished
    outcome = run("study", "plan", study, "--runs", runs, "arms.mt.optim.lr=1e-3", "workers=1")
    state = {line.split()[0]: line.split(maxsplit=2)[2] for line in outcome.stdout.splitlines()[1:]}
    again = {name for name, s in state.items() if s == "to run"}
    assert {"train/mt-s0", "train/mt-s1", "compare/models", "report/report"} <= again
    assert all("mt-s" in name or name in {"compare/models", "transfer/transfer", "report/report"} for name in again)


def test_a_study_killed_twice_ends_with_the_same_numbers(finished, tmp_path, toy_files):
    _, runs, _ = finished
    study = write_toy_study(tmp_path, toy_files)
    for stage, signum in (("train", signal.SIGKILL), ("finetune", signal.SIGINT)):
        process = subprocess.Popen(
            command("study", "run", study, "--runs", tmp_path / "runs"),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for(lambda stage=stage: any((tmp_path / "runs" / "toy" / stage).glob("*/config.json")), process)
        time.sleep(0.5)
        os.kill(process.pid, signum)
        assert process.wait(timeout=90) == (130 if signum == signal.SIGINT else -signal.SIGKILL)
    outcome = run("study", "run", study, "--runs", tmp_path / "runs")
    assert outcome.returncode == 0, outcome.stderr
    assert results(tmp_path / "runs" / "toy") == results(runs / "toy")


def wait_for(condition, process):
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, "the study ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_two_runs_of_one_study_at_a_time_are_refused(finished):
    import fcntl

    study, runs, _ = finished
    with (runs / "toy" / ".lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        outcome = run("study", "run", study, "--runs", runs)
    assert outcome.returncode == 2
    assert "another run" in outcome.stderr


def test_a_failing_stage_is_named_and_finished_stages_stay(finished, tmp_path, toy_files):
    _, runs, _ = finished
    copy = tmp_path / "runs"
    shutil.copytree(runs, copy)
    study = write_toy_study(tmp_path, toy_files)
    before = {p.relative_to(copy) for p in copy.rglob("manifest.json")}
    outcome = run("study", "run", study, "--runs", copy, "arms.mt.optim.lr=1e12", "arms.mt.optim.clip_norm=0")
    assert outcome.returncode == 2
    message = outcome.stderr.strip().splitlines()[-1]
    assert message.startswith("xbridge: train/mt-s")
    assert "lower optim.lr" in message
    assert "Traceback" not in outcome.stderr
    kept = {p.relative_to(copy) for p in copy.rglob("manifest.json")}
    assert before - kept <= {Path("toy/report/manifest.json")}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("arms.mt.objectiv=translation", "arms.mt.objectiv: unknown key; did you mean 'objective'?"),
        ("train.optim.lrr=1", "train.optim.lrr: unknown key; did you mean 'lr'?"),
        ("continued.budget.unit=token", 'continued.budget.unit: "token" is not one of'),
        ("languages=[eng_Latn, no]", "did you mean nob_Latn"),
        ("languages=[eng_Latn, deu_Lat]", "deu_Latn"),
        ("arms.mt.objective=translaton", "no module xbridge.objectives.translaton; did you mean 'translation'?"),
        ("corpus.sources.0.path=/nowhere/x.tsv", "/nowhere/x.tsv: no such file"),
        ("tokenizer.vocab_size=lots", "tokenizer.vocab_size: expected a whole number"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, toy_files, override, message):
    study = write_toy_study(tmp_path, toy_files)
    outcome = run("study", "run", study, "--runs", tmp_path / "runs", override)
    assert outcome.returncode == 2
    assert message in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == 1
    assert "Traceback" not in outcome.stderr


def test_a_study_can_start_from_a_pretrained_folder(finished, tmp_path, toy_files):
    """The base is that model as it is, and the random control its architecture with other weights."""
    _, runs, _ = finished
    (trained,) = (runs / "toy" / "train").glob("base-*/model")
    overrides = [
        "base.scratch=null", f"base.pretrained={{model: {trained}}}", "base.budget.amount=0", "seeds=[0]",
        f"tokenizer={{pretrained: {trained}, language_codes: keep}}",
        "tasks.commands=null", "tasks.translation=null", "analysis.label_data=null",
    ]  # fmt: skip
    outcome = run("study", "run", write_toy_study(tmp_path, toy_files), "--runs", tmp_path / "runs", *overrides)
    assert outcome.returncode == 0, outcome.stderr
    weights = {
        name: load_file(next((tmp_path / "runs" / "toy" / "train").glob(f"{name}-*/model/model.safetensors")))
        for name in ("base", "random", "mt-s0")
    }
    original = load_file(trained / "model.safetensors")
    matrix = "model.encoder.layers.0.fc1.weight"
    assert torch.equal(weights["base"][matrix], original[matrix])
    assert weights["random"][matrix].shape == original[matrix].shape
    assert not torch.equal(weights["random"][matrix], original[matrix])
    assert not torch.equal(weights["mt-s0"][matrix], original[matrix])


def test_a_stage_command_on_two_ranks_writes_one_finished_stage_with_the_same_losses(finished, tmp_path):
    _, runs, _ = finished
    (original,) = (runs / "toy" / "train").glob("mt-s0-*")
    recorded = json.loads((original / "config.json").read_text(encoding="utf-8"))
    file = tmp_path / "train.yaml"
    file.write_text(dump_yaml({"stage": "train", "inputs": recorded["inputs"], **recorded["config"]}), encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "xbridge"]
    outcome = subprocess.run(
        [*launcher, "train", str(file), "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.splitlines() == [str(tmp_path / "out")]
    assert (tmp_path / "out" / "manifest.json").exists()
    one, two = (losses(folder) for folder in (original, tmp_path / "out"))
    assert two == pytest.approx(one, rel=1e-5)


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row["loss"] for row in map(json.loads, lines) if "loss" in row]


def test_every_stage_runs_alone_from_its_recorded_config(finished, tmp_path):
    """A stage's own command, given what the study resolved, writes the same tables."""
    _, runs, _ = finished
    for stage in ("extract", "spectra", "evaluate", "compare"):
        original = sorted((runs / "toy" / stage).iterdir())[0]
        recorded = json.loads((original / "config.json").read_text(encoding="utf-8"))
        inputs = {name: value for name, value in recorded["inputs"].items() if value is not None}
        file = tmp_path / f"{stage}.yaml"
        file.write_text(dump_yaml({"stage": stage, "inputs": inputs, **recorded["config"]}), encoding="utf-8")
        dry = run(stage, file, "--dry-run")
        assert dry.returncode == 0, dry.stderr
        assert "# digest" in dry.stdout
        outcome = run(stage, file, "--out", tmp_path / stage)
        assert outcome.returncode == 0, outcome.stderr
        assert results(tmp_path / stage) == results(original)
