"""Heads: what they compute, and that they survive a save."""

import pytest
import torch

from xbridge.core.errors import UserError
from xbridge.models.heads import Head, load_head, read_record, save_head


def make(seed=0, **config):
    return Head(4, 3, **config, generator=torch.Generator().manual_seed(seed))


def test_a_linear_head_is_a_matrix_and_a_bias():
    head, x = make().eval(), torch.randn(5, 4)
    torch.testing.assert_close(head(x), x @ head.layers[0].weight.T + head.layers[0].bias)


def test_weights_depend_on_the_generator_alone():
    torch.manual_seed(1)
    first = make(seed=7, hidden_units=6)
    torch.manual_seed(2)
    second, other = make(seed=7, hidden_units=6), make(seed=8, hidden_units=6)
    for a, b, c in zip(first.layers, second.layers, other.layers, strict=True):
        assert torch.equal(a.weight, b.weight)
        assert not torch.equal(a.weight, c.weight)


@pytest.mark.parametrize("hidden_units", [0, 6])
def test_a_saved_head_scores_as_before(tmp_path, hidden_units):
    head, x = make(hidden_units=hidden_units).eval(), torch.randn(5, 4)
    save_head(head, tmp_path, {"labels": ["a", "b", "c"]})
    again, record = load_head(tmp_path)
    assert torch.equal(again(x), head(x))
    assert record["labels"] == ["a", "b", "c"]
    assert again.shape == head.shape


def test_dropout_acts_in_training_only():
    head, x = make(dropout=0.5), torch.ones(1, 4)
    assert len({tuple(head(x)[0].tolist()) for _ in range(20)}) > 1
    head.eval()
    assert len({tuple(head(x)[0].tolist()) for _ in range(20)}) == 1


def test_a_folder_without_a_head_is_named(tmp_path):
    with pytest.raises(UserError, match="not a fine-tuned model"):
        read_record(tmp_path)


def test_damaged_weights_are_named(tmp_path):
    save_head(make(), tmp_path, {})
    (tmp_path / "head.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"head\.safetensors: cannot be read"):
        load_head(tmp_path)
