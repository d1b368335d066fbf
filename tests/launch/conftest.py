"""A training config over the toy corpus."""

import pytest

from xbridge.core.config import dump_yaml

TINY = {"layers": 1, "d_model": 16, "ffn": 32, "heads": 2, "init_std": 0.2, "max_positions": 16}


@pytest.fixture
def train_file(toy_corpus, toy_tokenizer_folder, tmp_path):
    """A function that writes a YAML for `xbridge train`: ten updates of denoising, no validation, changed as told."""

    def write(**changes):
        settings = {
            "inputs": {"corpus": str(toy_corpus), "tokenizer": str(toy_tokenizer_folder)},
            "objective": "denoising",
            "scratch": TINY,
            "budget": {"unit": "steps", "amount": 10},
            "batch_tokens": 200,
            "max_tokens": 8,
            "optim": {"lr": 1e-2, "warmup_steps": 3},
            "validation_rows": 0,
            **changes,
        }
        path = tmp_path / "train.yaml"
        path.write_text(dump_yaml(settings), encoding="utf-8")
        return path

    return write
