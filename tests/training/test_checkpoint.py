"""Checkpoints are whole or absent, and hold the same whatever saved them."""

import errno
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from xbridge.core.errors import UserError
from xbridge.core.files import read_json
from xbridge.objectives.base import LossSum
from xbridge.training import checkpoint, tensor_files
from xbridge.training.checkpoint import Checkpoints
from xbridge.training.engine import PlainEngine
from xbridge.training.optim import OptimConfig
from xbridge.training.placement import Place
from xbridge.training.tensor_files import TensorFiles, split, write_tensors

ALONE = Place(0, 1, torch.device("cpu"), "fp32", None)


def trained(seed=0, width=3):
    """An engine whose model has tied weights and a buffer, after one update."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(width, width), nn.Linear(width, width))
    model[1].weight = model[0].weight
    model.register_buffer("steps", torch.tensor([seed]))
    engine = PlainEngine(model, lambda model, x: LossSum(model(x).sum(), len(x)), OptimConfig(), ALONE)
    engine.backward(engine.loss(torch.ones(1, width)).sum, last=True)
    engine.step(0.01)
    return engine, model


def folder_of(tmp_path, seed=0, keep=2, width=3):
    engine, model = trained(seed, width)
    return Checkpoints(tmp_path / "checkpoints", engine, ALONE, keep), engine, model


def whole(slots):
    return {slot.name: slot.read().detach().clone() for slot in slots}


def assert_equal(one, two):
    assert one.keys() == two.keys()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_a_checkpoint_restores_weights_buffers_moments_and_counts(tmp_path):
    saved, engine, model = folder_of(tmp_path, seed=0)
    saved.save(7, {"steps": 7})
    fresh, other, other_model = folder_of(tmp_path, seed=1)
    assert fresh.load_newest()["steps"] == 7
    assert_equal(whole(engine.weights()), whole(other.weights()))
    assert_equal(whole(engine.moments()), whole(other.moments()))
    for one in (engine, other):
        one.backward(one.loss(torch.ones(2, 3)).sum, last=True)
        one.step(0.01)
    assert_equal(dict(model.named_parameters()), dict(other_model.named_parameters()))
    assert other.counters() == {"updates": 2}


def test_other_libraries_read_the_files(tmp_path):
    saved, engine, _ = folder_of(tmp_path)
    saved.save(1, {})
    assert_equal(load_file(saved.path(1) / "model.safetensors"), whole(engine.weights()))
    moments = load_file(saved.path(1) / "optimizer.safetensors")
    assert sorted(moments) == [f"{n}/{m}" for n in ("0.bias", "0.weight", "1.bias") for m in ("exp_avg", "exp_avg_sq")]
    assert_equal(moments, whole(engine.moments()))


def test_tensors_beyond_the_limit_go_to_several_files_with_an_index(tmp_path):
    engine, _ = trained(width=8)
    slots = engine.weights()  # 8 x 8 x 4 bytes, two vectors of 32 bytes, 8 bytes
    assert [[slot.name for slot in file] for file in split(slots, 256)] == [
        ["steps"],
        ["0.weight"],
        ["0.bias", "1.bias"],
    ]
    assert write_tensors(tmp_path, "model", slots, limit_bytes=256) is None
    index = read_json(tmp_path / "model.safetensors.index.json")
    assert index["weight_map"]["0.weight"] == "model-00002-of-00003.safetensors"
    assert index["metadata"]["total_size"] == 8 + 256 + 64
    fresh, _ = trained(seed=1, width=8)
    TensorFiles(tmp_path, "model").load(fresh.weights())
    assert_equal(whole(fresh.weights()), whole(slots))


def test_the_newest_are_kept(tmp_path):
    saved, _, _ = folder_of(tmp_path, keep=2)
    for step in (4, 8, 12):
        saved.save(step, {"steps": step})
    assert sorted(path.name for path in saved.root.iterdir()) == ["step-000008", "step-000012"]


def test_nothing_is_pickled(tmp_path):
    saved, _, _ = folder_of(tmp_path)
    saved.save(1, {})
    assert {path.suffix for path in saved.root.rglob("*") if path.is_file()} == {".safetensors", ".json"}


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_save_cut_short_by_a_kill_is_not_seen_and_the_next_one_sweeps_it(tmp_path, kept):
    saved, _, _ = folder_of(tmp_path)
    saved.save(4, {"steps": 4})
    saved.save(8, {"steps": 8})
    half = saved.root / ".step-000008"  # what a kill leaves: the first `kept` files of a save
    shutil.move(saved.path(8), half)
    for file in sorted(half.iterdir(), key=lambda file: file.name != "model.safetensors")[kept:]:
        file.unlink()
    assert saved.load_newest()["steps"] == 4
    saved.save(12, {"steps": 12})
    assert not half.exists()


@pytest.mark.parametrize("where", ["a tensor file", "the state"])
def test_a_full_disk_leaves_the_older_checkpoint_intact(tmp_path, monkeypatch, where):
    saved, _, model = folder_of(tmp_path)
    saved.save(4, {"steps": 4})
    before = [parameter.clone() for parameter in model.parameters()]

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if where == "a tensor file":
            patch.setattr(tensor_files, "_write_file", full)
        else:
            patch.setattr(checkpoint, "write_json", full)
        with pytest.raises(UserError, match=r"No space left on device.*step-000004 is intact"):
            saved.save(8, {"steps": 8})
    assert [path.name for path in saved.root.iterdir()] == ["step-000004"]
    assert saved.load_newest()["steps"] == 4
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_another_shape_is_refused_with_both_sizes_before_anything_is_changed(tmp_path):
    folder_of(tmp_path, width=3)[0].save(1, {})
    saved, engine, _ = folder_of(tmp_path, width=5)
    before = whole(engine.weights())
    with pytest.raises(UserError, match=r"0\.weight is \[3, 3\], the model's is \[5, 5\]"):
        saved.load_newest()
    assert_equal(whole(engine.weights()), before)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_checkpoint_is_named_once_and_an_older_whole_one_is_taken(tmp_path, capsys, file, damage):
    saved, _, _ = folder_of(tmp_path)
    saved.save(4, {"steps": 4})
    saved.save(8, {"steps": 8})
    path = saved.path(8) / file
    data = path.read_bytes()
    path.write_bytes(data[:-8] if damage == "cut" else data[:-8] + b"\xff" + data[-7:])
    assert saved.load_newest()["steps"] == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert f"step-000008: {file}" in line
    assert "an older one is tried" in line


def test_with_damaged_checkpoints_alone_nothing_is_thrown_away(tmp_path):
    saved, _, _ = folder_of(tmp_path)
    saved.save(1, {})
    (saved.path(1) / "model.safetensors").unlink()
    with pytest.raises(
        UserError, match=r"step-000001: model.safetensors is missing; no checkpoint here is whole: delete"
    ):
        saved.load_newest()
    assert saved.path(1).exists()
