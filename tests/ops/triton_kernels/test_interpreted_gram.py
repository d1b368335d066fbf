"""Gram sums of the Triton kernels, interpreted, against float64.

Tolerances, relative to the largest sum: rows are held to 22 bits, tile entries to 22 and added in float32 by tiles, so
products and row sums are right to some 2^-22 of the sum of magnitudes; CKA of 60 rows, where most of that cancels, to
2e-7. A distance is the root of a difference: between neighbours at a hundredth of a row's length it has a hundred times
that error.
"""

import math

import pytest
import torch

from xbridge.ops.gram_sums import gram_sums as op
from xbridge.ops.hsic import hsic_from_sums
from xbridge.ops.triton import configs
from xbridge.ops.triton import gram_sums as module

SUM, CKA = {"linear": 4e-7, "rbf": 4e-7, "laplacian": 4e-6}, 2e-7
KERNELS = ("linear", "rbf", "laplacian")


def layers_of(n, dims, dtype=torch.float32, offset=0.0, seed=0):
    """Correlated layers with their means as shifts and powers of two as scales, as the callers prepare them."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(n, 20, generator=generator, dtype=torch.float64)
    layers = []
    for d in dims:
        mixed = common @ torch.randn(20, d, generator=generator, dtype=torch.float64) / 20**0.5
        layers.append((mixed + 0.5 * torch.randn(n, d, generator=generator) + offset).to(dtype))
    shifts = [x.double().mean(0) for x in layers]
    scales = [2.0 ** -round(math.log2(max(d, 2)) / 2) for d in dims]
    return layers, shifts, scales


def kernel_matrices(layers, shifts, scales, kernel, gammas):
    """(S, n, n) float64 with zero diagonals, distances from differences."""
    rows = [(x.double() - shift) * scale for x, shift, scale in zip(layers, shifts, scales, strict=True)]
    if kernel == "linear":
        matrices = torch.stack([x @ x.T for x in rows])
    else:
        distances = [torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") for x in rows]
        power = 2 if kernel == "rbf" else 1
        matrices = torch.stack([torch.exp(-gamma * d**power) for gamma, d in zip(gammas, distances, strict=True)])
    matrices.diagonal(dim1=1, dim2=2).zero_()
    return matrices


def assert_sums(found, matrices, tolerance):
    flat, sizes = matrices.flatten(1), matrices.abs().flatten(1)
    assert bool(((found.products - flat @ flat.T).abs() <= tolerance * (sizes @ sizes.T)).all())
    assert bool(((found.row_sums - matrices.sum(2)).abs() <= tolerance * matrices.abs().sum(2).amax(1)[:, None]).all())


def error_of_cka(given, kernel, gammas):
    """Largest error of any pair's CKA against the definition in float64."""
    found, expected = (cka_of(f(*given, kernel, gammas)) for f in (module.gram_sums, op.reference))
    return float((found - expected).abs().max())


def cka_of(totals):
    n = torch.tensor(float(totals.row_sums.shape[1]), dtype=torch.float64)
    row_products, total = totals.row_sums @ totals.row_sums.T, totals.row_sums.sum(1)
    hsic = hsic_from_sums(totals.products, row_products, total[:, None], total[None, :], n, "unbiased")
    return hsic / torch.outer(hsic.diagonal().sqrt(), hsic.diagonal().sqrt())


@pytest.mark.parametrize(
    ("n", "dims", "kernel"),
    [
        (1, (3, 4), "linear"),
        (2, (1, 1, 1), "rbf"),
        (5, (7,), "laplacian"),
        (31, (16, 63), "linear"),
        (32, (8, 65, 3), "linear"),
        (33, (65, 1), "laplacian"),
        (33, (20, 30), "rbf"),
        (70, (7, 130, 20), "rbf"),
        (70, (7, 20, 30), "laplacian"),
    ],
)
def test_sums_agree_with_float64_at_any_size(small_blocks, n, dims, kernel):
    given, gammas = layers_of(n, dims), [0.3, 0.5, 0.2][: len(dims)]
    found = module.gram_sums(*given, kernel, gammas)
    assert_sums(found, kernel_matrices(*given, kernel, gammas), SUM[kernel])


def test_sums_agree_with_float64_in_blocks_of_full_size():
    given = layers_of(129, (65, 130))
    found = module.gram_sums(*given, "rbf", [0.3, 0.5])
    assert_sums(found, kernel_matrices(*given, "rbf", [0.3, 0.5]), SUM["rbf"])


@pytest.mark.slow
def test_panels_agree_with_float64_in_blocks_of_full_size():
    given = layers_of(257, (65, 130, 7))
    found = module.gram_sums(*given, "rbf", [0.3, 0.5, 0.4])
    assert_sums(found, kernel_matrices(*given, "rbf", [0.3, 0.5, 0.4]), SUM["rbf"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("offset", "num_layers", "kernel"), [(0.0, 2, "linear"), (400.0, 2, "rbf"), (400.0, 3, "linear")]
)
def test_cka_of_any_float_type_survives_an_offset(small_blocks, dtype, offset, num_layers, kernel):
    given = layers_of(60, (33, 64, 20)[:num_layers], dtype, offset)
    assert error_of_cka(given, kernel, [0.25] * num_layers) < CKA


@pytest.mark.parametrize("num_layers", [2, 3])
def test_cka_keeps_its_digits_when_all_kernel_values_are_near_one(small_blocks, num_layers):
    given = layers_of(60, (33, 64, 20)[:num_layers])
    gammas = [0.25 / 400] * num_layers  # twenty times the usual bandwidth: k = 1 - O(1e-3)
    assert error_of_cka(given, "rbf", gammas) < 2e-6  # float32 leaves k 2^-24 of 1, 6e-5 of 1e-3


def test_features_a_hundred_times_the_others_leave_cka_exact(small_blocks):
    layers, _, scales = layers_of(60, (33, 64, 20))
    layers = [x * torch.where(torch.arange(x.shape[1]) < 2, 100.0, 1.0) for x in layers]
    shifts = [x.double().mean(0) for x in layers]
    assert error_of_cka((layers, shifts, scales), "linear", [1.0] * 3) < CKA


def test_equal_rows_are_at_distance_zero_exactly(small_blocks):
    x = torch.randn(64, 30, generator=torch.Generator().manual_seed(1))
    x[32:] = x[:32]  # at the same place of two tiles: a CPU's products, unlike tensor cores', may depend on it
    layers, shifts = [x, x], [x.double().mean(0)] * 2
    totals = module.gram_sums(layers, shifts, [1.0, 1.0], "laplacian", [1e6, 1e6])  # exp(-1e6 * rounding) would be 0
    torch.testing.assert_close(totals.row_sums, torch.ones(2, 64, dtype=torch.float64), rtol=1e-9, atol=0)
    torch.testing.assert_close(totals.products, torch.full((2, 2), 64.0, dtype=torch.float64), rtol=1e-9, atol=0)


@pytest.mark.parametrize("num_layers", [2, 3])
def test_two_runs_give_the_same_bits(small_blocks, num_layers):
    given = layers_of(50, (7, 63, 20)[:num_layers])
    first, second = (module.gram_sums(*given, "rbf", [0.3] * num_layers) for _ in range(2))
    assert torch.equal(first.products, second.products)
    assert torch.equal(first.row_sums, second.row_sums)


def test_row_sums_have_the_same_bits_whatever_the_panels(small_blocks, monkeypatch):
    given = layers_of(70, (7, 63, 20))
    first = module.gram_sums(*given, "rbf", [0.3] * 3)
    monkeypatch.setattr(configs, "PANEL_TILES", 5)
    second = module.gram_sums(*given, "rbf", [0.3] * 3)
    assert torch.equal(first.row_sums, second.row_sums)
    torch.testing.assert_close(second.products, first.products, rtol=1e-14, atol=0)


def test_large_sets_of_narrow_rows_take_one_plane(small_blocks, monkeypatch):
    monkeypatch.setattr(module, "ONE_PLANE_FROM", 50)
    monkeypatch.setattr(configs, "SPLIT_VALUES_BELOW", 50)
    given = layers_of(60, (33, 64, 20), torch.bfloat16, offset=3.0)
    assert (
        CKA < error_of_cka(given, "rbf", [0.25] * 3) < 1e-4
    )  # 11 bits: for 60 rows too few, which is why they get two planes


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_is_named(small_blocks, bad):
    layers, shifts, scales = layers_of(20, (7, 9))
    layers[1][13, 2] = bad
    with pytest.raises(ValueError, match="layer 1: row 13 holds NaN or infinity"):
        module.gram_sums(layers, shifts, scales, "rbf", [1.0, 1.0])


def test_transposed_and_strided_rows_are_read_in_place(small_blocks):
    layers, shifts, scales = layers_of(40, (20, 24))
    views = [layers[0].T.contiguous().T, torch.cat([layers[1], layers[1]], 1)[:, 24:]]
    expected = module.gram_sums(layers, shifts, scales, "rbf", [0.3, 0.3])
    found = module.gram_sums(views, shifts, scales, "rbf", [0.3, 0.3])
    assert torch.equal(found.products, expected.products)
