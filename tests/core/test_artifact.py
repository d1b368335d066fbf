"""A stage folder is complete exactly when its manifest is there and is of the same digest."""

import json

import pytest

from xbridge.core.artifact import Artifact, folder_name, machine, read_manifest, versions
from xbridge.core.errors import UserError


def artifact(path, digest="d" * 64):
    return Artifact(stage="train", name="mt-s0", digest=digest, path=path, labels={"arm": "mt", "train_seed": 0})


def test_complete_only_after_finish_and_only_for_its_own_digest(tmp_path):
    stage = artifact(tmp_path / "stage")
    assert not stage.is_complete()
    stage.begin({"steps": 3}, {"corpus": "there"})
    assert not stage.is_complete()
    (stage.path / "metrics.jsonl").write_text("{}\n")
    stage.finish(seconds=1.5, cpu_seconds=1.0, parents={"corpus": "c" * 64})
    assert stage.is_complete()
    assert not artifact(stage.path, digest="e" * 64).is_complete()


def test_beginning_again_unfinishes_the_folder_and_keeps_its_files(tmp_path):
    stage = artifact(tmp_path)
    stage.begin({}, {})
    (tmp_path / "checkpoint").write_text("kept")
    stage.finish(seconds=0, cpu_seconds=0, parents={})
    stage.begin({}, {})
    assert not stage.is_complete()
    assert (tmp_path / "checkpoint").read_text() == "kept"


def test_manifest_records_labels_parents_versions_and_bytes(tmp_path):
    stage = artifact(tmp_path)
    stage.begin({"steps": 3}, {})
    (tmp_path / "data").write_bytes(b"12345")
    stage.finish(seconds=1.5, cpu_seconds=1.0, parents={"corpus": "c"})
    manifest = read_manifest(tmp_path)
    assert manifest["labels"] == {"arm": "mt", "train_seed": 0}
    assert manifest["parents"] == {"corpus": "c"}
    assert manifest["versions"] == versions()
    assert manifest["bytes"] == 5 + (tmp_path / "config.json").stat().st_size
    assert json.loads((tmp_path / "config.json").read_text())["config"] == {"steps": 3}


def test_reading_an_unfinished_stage_says_so(tmp_path):
    with pytest.raises(UserError, match="not a finished stage"):
        read_manifest(tmp_path)


def test_folder_names_carry_twelve_digits_of_the_digest():
    assert folder_name("mt-s0", "0123456789abcdef" * 4) == "mt-s0-0123456789ab"


def test_machine_names_no_host():
    assert set(machine()) == {"system", "processor", "cores"}
