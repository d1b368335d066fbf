"""Neighbours and margins of the Triton kernels, interpreted: indices and float32 scores equal those of float64."""

import pytest
import torch

from xbridge.ops.triton import neighbours
from xbridge.ops.triton.margin_both_ways import margin_both_ways
from xbridge.ops.triton.nearest_both_ways import nearest_both_ways


def rows_of(n, d, seed, dtype=torch.float32):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).to(dtype)


def unit_rows(n, d, seed):
    return torch.nn.functional.normalize(rows_of(n, d, seed) + 0.5, dim=1)


def best_of(scores, k):
    """Scores rounded to float32, best first, ties by lowest index: a stable sort of the whole row."""
    ordered = scores.float().sort(dim=1, descending=True, stable=True)
    return ordered.values[:, :k], ordered.indices[:, :k]


def both_ways(x, y, k):
    scores = x.double() @ y.double().T
    return (*best_of(scores, k), *best_of(scores.T, k))


@pytest.fixture
def asked_again(monkeypatch):
    """How many rows were scored against all keys."""
    rows, against_all = [], neighbours._against_all

    def counted(queries, keys, unsettled, k, score):
        rows.append(len(unsettled))
        return against_all(queries, keys, unsettled, k, score)

    monkeypatch.setattr(neighbours, "_against_all", counted)
    return rows


@pytest.mark.parametrize(
    ("n", "m", "d", "k", "dtype"),
    [
        (1, 1, 1, 3, torch.float32),
        (15, 33, 7, 1, torch.float16),
        (17, 31, 65, 4, torch.bfloat16),
        (17, 31, 65, 4, torch.float64),
        (50, 130, 63, 10, torch.float32),
        (33, 20, 16, 40, torch.float16),
    ],
)
def test_neighbours_both_ways_equal_float64(small_blocks, n, m, d, k, dtype):
    x, y = rows_of(n, d, 0, dtype), rows_of(m, d, 1, dtype)
    for found, expected in zip(nearest_both_ways(x, y, k), both_ways(x, y, k), strict=True):
        assert torch.equal(found, expected)


def test_neighbours_equal_float64_in_blocks_of_full_size():
    x, y = rows_of(129, 65, 0), rows_of(513, 65, 1)
    for found, expected in zip(nearest_both_ways(x, y, 3), both_ways(x, y, 3), strict=True):
        assert torch.equal(found, expected)


def test_sets_of_two_types_are_compared_at_the_wider_precision(small_blocks):
    x, y = rows_of(20, 9, 0, torch.bfloat16), rows_of(40, 9, 1)
    for found, expected in zip(nearest_both_ways(x, y, 3), both_ways(x, y, 3), strict=True):
        assert torch.equal(found, expected)


def test_ties_go_to_the_lowest_index_even_where_there_are_more_than_candidates(small_blocks, asked_again):
    x, y = rows_of(20, 9, 0), rows_of(150, 9, 1)
    y[40:140] = y[7]
    x[3] = x[11] = 50 * y[7]
    for found, expected in zip(nearest_both_ways(x, y, 4), both_ways(x, y, 4), strict=True):
        assert torch.equal(found, expected)
    assert sum(asked_again) >= 2  # a hundred equal best scores: no candidate list can settle them


def test_well_separated_scores_are_settled_by_the_candidates(small_blocks, asked_again):
    nearest_both_ways(rows_of(50, 64, 0), rows_of(130, 64, 1), 4)
    assert sum(asked_again) == 0


def test_panels_of_rows_do_not_change_the_answer(small_blocks, monkeypatch):
    x, y = rows_of(70, 9, 0), rows_of(50, 9, 1)
    monkeypatch.setattr(neighbours, "MAXIMA_BYTES", 1)  # one row of tiles at a time
    monkeypatch.setattr(neighbours, "CHUNK_BYTES", 1 << 14)
    for found, expected in zip(nearest_both_ways(x, y, 20), both_ways(x, y, 20), strict=True):
        assert torch.equal(found, expected)


def test_rows_of_very_different_lengths_keep_their_order(small_blocks):
    x, y = rows_of(30, 20, 0), rows_of(60, 20, 1)
    x, y = x * 10.0 ** torch.linspace(-12, 3, 30)[:, None], y * 10.0 ** torch.linspace(-3, 6, 60)[:, None]
    for found, expected in zip(nearest_both_ways(x, y, 5), both_ways(x, y, 5), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("margin", ["ratio", "distance", "absolute"])
def test_best_margins_over_all_pairs_equal_float64(small_blocks, margin):
    x, y = unit_rows(50, 20, 0), unit_rows(90, 20, 1)
    cosine = x.double() @ y.double().T
    near_x, near_y = cosine.topk(4).values.mean(1), cosine.T.topk(4).values.mean(1)
    base = (near_x[:, None] + near_y[None, :]) / 2
    scores = {"ratio": cosine / base, "distance": cosine - base, "absolute": cosine}[margin]
    expected = (*best_of(scores, 1), *best_of(scores.T, 1))
    for found, value in zip(margin_both_ways(x, y, near_x, near_y, margin), expected, strict=True):
        assert torch.equal(found, value[:, 0])


def test_a_ratio_to_a_base_near_zero_is_scored_in_float64(small_blocks, asked_again):
    x, y = unit_rows(20, 9, 0), unit_rows(70, 9, 1)
    near_x, near_y = torch.linspace(-0.5, 0.5, 20), torch.linspace(-0.4, 0.6, 70)
    base = (near_x.double()[:, None] + near_y.double()[None, :]) / 2
    scores = x.double() @ y.double().T / base
    expected = (*best_of(scores, 1), *best_of(scores.T, 1))
    for found, value in zip(margin_both_ways(x, y, near_x, near_y, "ratio"), expected, strict=True):
        assert torch.equal(found, value[:, 0])
    assert sum(asked_again) > 0


@pytest.mark.parametrize("score", ["dot", "ratio", "distance"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tile_maximum_is_further_from_float64_than_epsilon(small_blocks, score, dtype):
    near_x, near_y = torch.linspace(0.3, 0.5, 40).double(), torch.linspace(0.4, 0.6, 70).double()
    x, y = neighbours.sides(unit_rows(40, 100, 0).to(dtype), unit_rows(70, 100, 1).to(dtype), near_x, near_y)
    row_max, _ = neighbours._tile_maxima(x, y, score, neighbours.configs.TILE_MAX[0])
    base = (near_x[:, None] + near_y[None, :]) / 2
    dots = x.rows.double() @ y.rows.double().T
    exact = {"dot": dots, "ratio": dots / base, "distance": dots - base}[score]
    tiles = torch.stack([tile.amax(1) for tile in exact.split(32, dim=1)])
    assert bool(((row_max.double() - tiles).abs() <= neighbours._epsilon(x, y, score)).all())


@pytest.mark.parametrize(("side", "row"), [("x", 4), ("y", 17)])
def test_a_row_that_is_not_finite_is_named(small_blocks, side, row):
    sets = {"x": rows_of(20, 9, 0), "y": rows_of(30, 9, 1)}
    sets[side][row, 2] = torch.nan
    with pytest.raises(ValueError, match=f"{side}: row {row} holds NaN or infinity"):
        nearest_both_ways(sets["x"], sets["y"], 2)


def test_packed_pairs_sort_by_score_and_then_by_lowest_index():
    scores = torch.tensor([0.0, -0.0, -1.5, torch.inf, 2.0, 2.0, -torch.inf])
    packed = neighbours.pack(scores, torch.arange(7))
    values, indices = neighbours.unpack(packed.sort(descending=True).values)
    assert indices.tolist() == [3, 4, 5, 0, 1, 2, 6]
    assert torch.equal(values, scores[indices])
