"""What is saved loads again, and what is damaged says so in one line."""

import pytest
import torch

from xbridge.core.errors import UserError
from xbridge.models.loading import check_vocabulary, load_backbone, load_tokenizer, new_mbart, save_model

SHAPE = {"layers": 1, "d_model": 16, "ffn": 16, "heads": 2, "init_std": 0.2, "max_positions": 16, "dropout": 0.0}


@pytest.fixture
def folder(toy_tokenizer, tmp_path):
    """A train stage's folder."""
    save_model(new_mbart(toy_tokenizer, seed=1, **SHAPE), toy_tokenizer, tmp_path / "model")
    return tmp_path


def test_a_model_and_its_tokenizer_survive_saving(folder, toy_tokenizer):
    model = load_backbone(folder)
    expected = dict(new_mbart(toy_tokenizer, seed=1, **SHAPE).named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, expected[name]), name
    assert model.lm_head.weight is model.get_input_embeddings().weight
    tokenizer = load_tokenizer(folder / "model")
    assert tokenizer.get_vocab() == toy_tokenizer.get_vocab()
    assert tokenizer("one drei")["input_ids"] == toy_tokenizer("one drei")["input_ids"]


def test_initial_weights_depend_on_the_seed_and_leave_the_global_generator_alone(toy_tokenizer):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, two = (new_mbart(toy_tokenizer, seed=seed, **SHAPE).lm_head.weight for seed in (1, 2))
    assert not torch.equal(one, two)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("damage", ["truncated", "missing", "config"])
def test_a_damaged_model_is_one_line_with_its_path(folder, damage):
    weights = folder / "model" / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "missing":
        weights.unlink()
    else:
        (folder / "model" / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"model: cannot load a model \(") as caught:
        load_backbone(folder)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_lacks_a_tensor_is_refused(folder):
    from safetensors.torch import load_file, save_file

    weights = folder / "model" / "model.safetensors"
    tensors = load_file(weights)
    tensors.pop("model.encoder.layers.0.fc1.weight")
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"the checkpoint has no model\.encoder\.layers\.0\.fc1\.weight"):
        load_backbone(folder)


def test_a_path_that_does_not_exist_is_not_taken_for_a_hub_id(tmp_path):
    for load in (load_backbone, load_tokenizer):
        with pytest.raises(UserError, match="no such folder"):
            load(tmp_path / "nothing")


def test_a_tokenizer_of_another_size_is_refused_with_both_sizes(toy_tokenizer):
    model = new_mbart(_Longer(), seed=0, **SHAPE)
    with pytest.raises(UserError, match="base: the model has 500 embeddings, the tokenizer 32 tokens"):
        check_vocabulary(model, toy_tokenizer, "base")


class _Longer:
    """A tokenizer with 500 words."""

    bos_token_id, pad_token_id, eos_token_id = 0, 1, 2

    def __len__(self):
        return 500
