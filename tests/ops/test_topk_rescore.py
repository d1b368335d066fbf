"""The definition of rescoring, against torch.topk over all pairs."""

import pytest
import torch

from xbridge.ops import topk_rescore as module
from xbridge.ops.topk_rescore import topk_rescore


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def best_tiles(queries, keys, width, k):
    """The k tiles with the largest maxima, per query, in no particular order."""
    scores = torch.nn.functional.pad(queries.double() @ keys.double().T, (0, -len(keys) % width), value=-torch.inf)
    maxima = scores.unflatten(1, (-1, width)).amax(2)
    return maxima.topk(min(k, maxima.shape[1]), dim=1).indices


@pytest.mark.parametrize("block", [1, 5000, 1 << 22])
@pytest.mark.parametrize(("width", "k"), [(1, 3), (16, 4), (16, 20), (7, 7), (200, 5)])
def test_the_k_best_tiles_hold_the_k_best_keys(monkeypatch, block, width, k):
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", block)
    queries, keys = normal(11, 6), normal(150, 6, seed=1)
    scores, indices = topk_rescore(queries, keys, best_tiles(queries, keys, width, k), width, k)
    expected = (queries.double() @ keys.double().T).topk(k, dim=1)
    assert torch.equal(indices, expected.indices)
    assert torch.equal(scores, expected.values.float())


def test_keys_outside_the_chosen_tiles_are_not_seen():
    keys = torch.tensor([[9.0], [1.0], [2.0], [8.0], [3.0]])
    scores, indices = topk_rescore(torch.ones(2, 1), keys, torch.tensor([[1], [2]]), 2, 1)
    assert indices.tolist() == [[3], [4]]
    assert scores.tolist() == [[8.0], [3.0]]


def test_fewer_keys_than_k_leave_minus_infinity_and_minus_one():
    tiles = torch.tensor([[-1, 1], [0, 1], [-1, -1]])
    scores, indices = topk_rescore(torch.ones(3, 1), torch.tensor([[1.0], [2.0], [3.0]]), tiles, 2, 4)
    assert indices.tolist() == [[2, -1, -1, -1], [2, 1, 0, -1], [-1] * 4]
    assert scores[1].tolist() == [3.0, 2.0, 1.0, -torch.inf]
    assert scores[2].tolist() == [-torch.inf] * 4


def test_ties_go_to_the_lowest_index_whatever_the_order_of_tiles():
    keys = normal(6, 17).repeat(40, 1)
    tiles = torch.arange(24).flip(0).expand(50, -1)
    _, indices = topk_rescore(normal(50, 17, seed=1), keys, tiles, 10, 7)
    assert (indices[:, 0] < 6).all()
    assert torch.equal(indices, indices[:, :1] + 6 * torch.arange(7))


def test_scores_nearer_than_float32_can_sum_are_ranked_in_float64():
    keys = torch.tensor([[1.0, 2.0**-30], [1.0, 0.0], [2.0**24, 1.5], [2.0**24, 1.0]])
    _, indices = topk_rescore(torch.ones(1, 2), keys, torch.tensor([[0]]), 4, 4)
    assert indices.tolist() == [
        [2, 3, 0, 1]
    ]  # 2^24 + 1.5 rounds to 2^24 + 2; 1 + 2^-30 and 1 tie, the lower index first


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_float_type_is_scored_in_float64(dtype):
    queries, keys = normal(5, 9).to(dtype), normal(40, 9, seed=1).to(dtype)
    scores, indices = topk_rescore(queries, keys, torch.arange(5).expand(5, -1), 8, 3)
    expected = (queries.double() @ keys.double().T).topk(3, dim=1)
    assert torch.equal(indices, expected.indices)
    assert torch.equal(scores, expected.values.float())


def test_no_queries_no_tiles_and_no_keys_are_fine():
    assert topk_rescore(normal(0, 3), normal(4, 3), torch.empty(0, 1, dtype=torch.int64), 2, 2)[0].shape == (0, 2)
    assert topk_rescore(normal(2, 3), normal(4, 3), torch.empty(2, 0, dtype=torch.int64), 2, 1)[1].tolist() == [
        [-1],
        [-1],
    ]
    assert topk_rescore(normal(1, 3), normal(0, 3), torch.tensor([[-1]]), 2, 1)[0].tolist() == [[-torch.inf]]


@pytest.mark.parametrize("tiles", [[[0, 1], [1, 2]], [[0, 1], [1, 1]], [[0, 1], [-2, 0]]])
def test_a_tile_that_is_not_there_or_twice_is_refused_by_row(tiles):
    with pytest.raises(ValueError, match="tiles: row 1 must hold different numbers from -1 to 1"):
        topk_rescore(normal(2, 3), normal(4, 3), torch.tensor(tiles), 2, 1)


def test_bad_input_is_refused():
    tiles = torch.tensor([[0], [1]])
    with pytest.raises(ValueError, match="one type"):
        topk_rescore(normal(2, 3), normal(4, 3).half(), tiles, 2, 1)
    with pytest.raises(ValueError, match=r"tiles \(2, T\) int64"):
        topk_rescore(normal(2, 3), normal(4, 3), tiles.int(), 2, 1)
    with pytest.raises(ValueError, match="at least 1"):
        topk_rescore(normal(2, 3), normal(4, 3), tiles, 2, 0)
    broken = normal(4, 3)
    broken[2, 1] = torch.inf
    with pytest.raises(ValueError, match="keys: row 2 holds NaN or infinity"):
        topk_rescore(normal(2, 3), broken, tiles, 2, 1)
