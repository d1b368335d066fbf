"""Neighbours and margins against dense formulas, with ties and duplicates."""

import pytest
import torch

from xbridge.ops import neighbour_search
from xbridge.ops.margin_topk import margin_scores, nearest


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosines(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x, y = x.double(), y.double()
    return (x @ y.T) / (x.norm(dim=1)[:, None] * y.norm(dim=1)[None])


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("k", [1, 4, 100])
def test_nearest_equals_a_full_sort_for_every_block(monkeypatch, block, k):
    monkeypatch.setattr(neighbour_search, "DENSE_ELEMENTS", block)
    queries, keys = normal(9, 5), normal(33, 5, seed=1)
    scores, indices = nearest(queries, keys, k)
    expected = cosines(queries, keys).sort(dim=1, descending=True)
    assert torch.equal(indices, expected.indices[:, :k])
    assert torch.allclose(scores.double(), expected.values[:, :k], atol=1e-7)


def test_ties_go_to_the_lowest_index_among_duplicated_keys():
    keys = normal(6, 17).repeat(40, 1)
    _, indices = nearest(normal(50, 17, seed=1), keys, 7)
    best = indices[:, 0]
    assert (best < 6).all()
    assert torch.equal(indices, best[:, None] + 6 * torch.arange(7))


def test_zero_and_minus_zero_tie():
    keys = torch.tensor([[-0.0, -1.0], [0.0, 1.0], [-0.0, 1.0]])
    scores, indices = nearest(torch.tensor([[1.0, 0.0]]), keys, 3, metric="dot")
    assert indices.tolist() == [[0, 1, 2]]
    assert scores.tolist() == [[0.0, 0.0, 0.0]]


def test_euclidean_scores_are_distances_that_rise_and_are_zero_for_equal_rows():
    keys = normal(20, 8) + 1000
    scores, indices = nearest(keys, keys, 3, metric="euclidean")
    assert torch.equal(indices[:, 0], torch.arange(20))
    assert (scores[:, 0] == 0).all()
    assert (scores.diff(dim=1) >= 0).all()
    assert torch.allclose(scores[:, 1].double(), torch.cdist(keys.double(), keys.double()).sort(dim=1).values[:, 1])


def test_exclude_self_drops_the_row_itself_and_keeps_its_duplicate():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    _, indices = nearest(x, x, 1, exclude_self=True)
    assert indices[:, 0].tolist() == [1, 0, 3, 2]


@pytest.mark.parametrize("block", [1, 50, 1 << 20])
@pytest.mark.parametrize("margin", ["ratio", "distance", "absolute"])
def test_margin_scores_equal_the_dense_formula(monkeypatch, block, margin):
    monkeypatch.setattr(neighbour_search, "DENSE_ELEMENTS", block)
    source, target, k = normal(13, 6) + 0.7, normal(29, 6, seed=1) + 0.7, 4
    cosine = cosines(source, target)
    base = (cosine.topk(k, dim=1).values.mean(1)[:, None] + cosine.topk(k, dim=0).values.mean(0)[None]) / 2
    dense = {"ratio": cosine / base, "distance": cosine - base, "absolute": cosine}[margin]
    result = margin_scores(source, target, k, margin)
    assert torch.equal(result.forward_index, dense.argmax(1))
    assert torch.equal(result.backward_index, dense.argmax(0))
    assert torch.allclose(result.forward_score.double(), dense.amax(1), atol=1e-6)
    assert torch.allclose(result.backward_score.double(), dense.amax(0), atol=1e-6)


def test_margin_worked_by_hand_on_two_by_two():
    source = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    target = torch.tensor([[1.0, 0.0], [0.8, 0.6]])  # cosines: [[1, .8], [.6, .96]]
    result = margin_scores(source, target, 2, "ratio")  # means: source .9, .78; target .8, .88
    assert result.forward_index.tolist() == [0, 1]
    assert result.forward_score.tolist() == pytest.approx([1 / 0.85, 0.96 / 0.83])
    assert result.backward_score.tolist() == pytest.approx([1 / 0.85, 0.96 / 0.83])


def test_margin_demotes_a_hub_that_cosine_prefers():
    hub = torch.tensor([[1.0, 1.0, 1.0]])
    target = torch.cat([hub, torch.eye(3) + 0.2])
    source = torch.eye(3) * 0.55 + 0.45
    assert margin_scores(source, target, 1, "absolute").forward_index.tolist() == [1, 2, 3]
    source = torch.eye(3) * 0.3 + 0.7
    assert margin_scores(source, target, 3, "absolute").forward_index.tolist() == [0, 0, 0]
    assert margin_scores(source, target, 3, "ratio").forward_index.tolist() == [1, 2, 3]


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_cosine_does_not_depend_on_scale(scale):
    queries, keys = normal(10, 4), normal(12, 4, seed=1)
    assert torch.equal(nearest(queries * scale, keys, 3)[1], nearest(queries, keys, 3)[1])


def test_bad_input_names_the_row():
    x = normal(5, 3)
    broken = x.clone()
    broken[2, 1] = float("nan")
    with pytest.raises(ValueError, match="keys: row 2 holds NaN"):
        nearest(x, broken, 1)
    broken[2] = 0
    with pytest.raises(ValueError, match="source: row 2 is zero"):
        margin_scores(broken, x)
    with pytest.raises(ValueError, match=r"\(5, 3\) and \(5, 2\)"):
        nearest(x, x[:, :2], 1)
