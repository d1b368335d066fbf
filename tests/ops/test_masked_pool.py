"""Masked pooling against plain loops and by hand."""

import pytest
import torch

from xbridge.ops.masked_pool import masked_pool, take_positions


@pytest.fixture
def states():
    return torch.randn(4, 7, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def mask():
    return torch.tensor(
        [
            [0, 1, 1, 1, 0, 0, 0],
            [1, 0, 1, 0, 1, 0, 0],
            [0, 0, 0, 0, 0, 0, 1],
            [1, 1, 1, 1, 1, 1, 1],
        ]
    ).bool()


def test_mean_is_that_of_a_plain_loop(states, mask):
    expected = torch.stack([states[i][mask[i]].mean(dim=0) for i in range(4)])
    torch.testing.assert_close(masked_pool(states, mask), expected)


def test_first_and_last_skip_positions_outside_the_mask(states, mask):
    assert torch.equal(masked_pool(states, mask, "first"), states[range(4), [1, 0, 6, 0]])
    assert torch.equal(masked_pool(states, mask, "last"), states[range(4), [3, 4, 6, 6]])


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_nan_and_infinity_in_the_padding_do_not_matter(states, mask, pooling):
    dirty = states.masked_fill(~mask[:, :, None], float("nan"))
    dirty[0, 0] = float("inf")
    assert torch.equal(masked_pool(dirty, mask, pooling), masked_pool(states, mask, pooling))


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_gradient_is_that_of_finite_differences(states, mask, pooling):
    exact = states.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: masked_pool(x, mask, pooling), exact)


def test_half_precision_is_accumulated_in_float32():
    ones = torch.ones(1, 4096, 1, dtype=torch.bfloat16)
    ones[0, 0] = 257.0  # a bfloat16 sum would stop growing at 256
    pooled = masked_pool(ones, torch.ones(1, 4096, dtype=torch.bool))
    assert pooled.dtype == torch.float32
    assert pooled.item() == pytest.approx((256 + 4095) / 4096)


def test_a_sequence_without_positions_is_named(states, mask):
    mask[2] = False
    with pytest.raises(ValueError, match="sequence 2 has no position"):
        masked_pool(states, mask)


def test_shapes_and_types_that_do_not_fit_are_refused(states, mask):
    with pytest.raises(ValueError, match="bool mask"):
        masked_pool(states, mask.long())
    with pytest.raises(ValueError, match="bool mask"):
        masked_pool(states, mask[:, :3])
    with pytest.raises(ValueError, match="not 'median'"):
        masked_pool(states, mask, "median")


def test_positions_are_taken_in_the_order_given(states):
    taken = take_positions(states, torch.tensor([3, 0, 0]), torch.tensor([1, 6, 2]))
    assert torch.equal(taken, torch.stack([states[3, 1], states[0, 6], states[0, 2]]))
