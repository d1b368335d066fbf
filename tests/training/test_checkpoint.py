"""Checkpoints are whole or absent."""

import errno
import os
import shutil

import pytest
import torch
from torch import nn

from xbridge.core.errors import UserError
from xbridge.training import checkpoint
from xbridge.training.checkpoint import Checkpoints


def trained(seed=0, width=3):
    """A model with tied weights and an optimiser that has moments."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(width, width), nn.Linear(width, width))
    model[1].weight = model[0].weight
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, width)).sum().backward()
    optimizer.step()
    return model, optimizer


def folder_of(tmp_path, seed=0, keep=2, width=3):
    model, optimizer = trained(seed, width)
    return Checkpoints(tmp_path / "checkpoints", model, optimizer, keep), model, optimizer


def test_a_checkpoint_restores_weights_moments_and_state(tmp_path):
    saved, model, optimizer = folder_of(tmp_path, seed=0)
    saved.save(7, {"steps": 7})
    fresh, other, other_optimizer = folder_of(tmp_path, seed=1)
    assert fresh.load_newest() == {"steps": 7}
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
        for key, value in optimizer.state[one].items():
            assert torch.equal(value, other_optimizer.state[two][key])


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
    assert saved.load_newest() == {"steps": 4}
    saved.save(12, {"steps": 12})
    assert not half.exists()


def test_a_full_disk_leaves_the_older_checkpoint_intact(tmp_path, monkeypatch):
    saved, model, _ = folder_of(tmp_path)
    saved.save(4, {"steps": 4})
    before = [parameter.clone() for parameter in model.parameters()]

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "write_json", full)
    with pytest.raises(UserError, match=r"No space left on device.*step-000004 is intact"):
        saved.save(8, {"steps": 8})
    assert [path.name for path in saved.root.iterdir()] == ["step-000004"]
    assert saved.load_newest() == {"steps": 4}
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_another_shape_is_refused_with_both_sizes(tmp_path):
    folder_of(tmp_path, width=3)[0].save(1, {})
    with pytest.raises(UserError, match=r"0\.weight is \[3, 3\], the model's is \[5, 5\]"):
        folder_of(tmp_path, width=5)[0].load_newest()


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors"])
def test_a_damaged_checkpoint_is_named(tmp_path, file):
    saved, _, _ = folder_of(tmp_path)
    saved.save(1, {})
    path = saved.path(1) / file
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match=f"step-000001/{file}: missing or damaged"):
        saved.load_newest()
