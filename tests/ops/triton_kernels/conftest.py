"""Kernel tests run in Triton's interpreter, in a process of their own: it must be on before triton is imported."""

import os

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_interpreted_*.py"]


@pytest.fixture
def small_blocks(monkeypatch):
    """Small tiles: many of them, several panels and slots, from few rows."""
    from xbridge.ops.triton import configs
    from xbridge.ops.triton.configs import Blocks

    for name in ("GRAM_PAIR", "GRAM_PANEL", "GRAM_DIAGONAL"):
        monkeypatch.setattr(configs, name, (Blocks(32, 32, 64, 4, 2),))
    for name in ("PANEL_SYRK", "PANEL_SYRK_SPLIT"):
        monkeypatch.setattr(configs, name, (Blocks(16, 16, 128, 4, 2),))
    monkeypatch.setattr(configs, "TILE_MAX", (Blocks(16, 32, 64, 4, 2),))
    monkeypatch.setattr(configs, "RESCORE", {32: (Blocks(16, 32, 64, 4, 2),), 16: (Blocks(32, 16, 64, 4, 2),)})
    monkeypatch.setattr(configs, "PANEL_TILES", 2)
    monkeypatch.setattr(configs, "TILE_MAX_GROUP", 2)
    monkeypatch.setattr(configs, "SYRK_ENTRIES", 512)


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    """What torch.empty returns holds NaN, or the largest integer: an element that a kernel leaves out shows."""
    import torch

    empty = torch.empty

    def poisoned(*args, **kwargs):
        made = empty(*args, **kwargs)
        worst = float("nan") if made.is_floating_point() else torch.iinfo(made.dtype).max
        return made.fill_(worst) if made.dtype != torch.bool else made

    monkeypatch.setattr(torch, "empty", poisoned)
