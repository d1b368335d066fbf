"""Measures: the invariances they declare, and one closed form each."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from xbridge.similarity import (
    cca,
    cka,
    isoscore,
    mean_cosine,
    mutual_knn,
    mutual_knn_matrix,
    procrustes,
    pwcca,
    rsa,
    svcca,
)

SHIFT_SCALE_ROTATION = {
    "cca": cca,
    "svcca": svcca,
    "pwcca": pwcca,
    "procrustes": procrustes,
    "rsa": rsa,
    "knn": mutual_knn,
}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(n: int, d1: int, d2: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    latent = normal(n, 3, seed=seed)
    return (
        latent @ normal(3, d1, seed=seed + 1) + normal(n, d1, seed=seed + 3),
        latent @ normal(3, d2, seed=seed + 2) + normal(n, d2, seed=seed + 4),
    )


@pytest.mark.parametrize("name", SHIFT_SCALE_ROTATION)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), d=st.integers(1, 8), log_scale=st.floats(-3, 3), offset=st.floats(-100, 100))
def test_invariant_to_shift_scale_and_rotation_of_either_side(name, seed, d, log_scale, offset):
    assume(d > 1 or name != "knn")  # on a line all cosines are 1 or -1: what is nearest is decided by rounding
    measure = SHIFT_SCALE_ROTATION[name]
    x, y = related(40, d, 5, seed)
    moved = x @ torch.linalg.qr(normal(d, d, seed=seed)).Q * 10**log_scale + offset
    tolerance = 0.02 if name in ("knn", "svcca") else 1e-6  # a tie or a component at the cut may fall either way
    assert measure(y, moved) == pytest.approx(measure(y, x), abs=tolerance)
    if name != "pwcca":
        assert measure(moved, y) == pytest.approx(measure(x, y), abs=tolerance)
    assert measure(moved, x) == pytest.approx(1, abs=1e-6)


def test_pwcca_is_invariant_to_shift_of_x_and_linear_maps_of_y():
    x, y = related(50, 4, 6, 0)
    assert pwcca(x + 5, y @ normal(6, 6, seed=9) - 7) == pytest.approx(pwcca(x, y), abs=1e-9)


def test_cca_is_invariant_to_invertible_maps_and_procrustes_is_not():
    x, y = related(50, 4, 6, 0)
    mixed = x @ (normal(4, 4, seed=9) * torch.tensor([1, 10, 0.1, 1]))
    assert cca(mixed, y) == pytest.approx(cca(x, y), abs=1e-9)
    assert abs(procrustes(mixed, y) - procrustes(x, y)) > 0.01


def test_canonical_correlations_of_orthogonal_designs_are_their_cosines():
    q = torch.linalg.qr(normal(20, 5) - normal(20, 5).mean(0)).Q
    q = torch.linalg.qr(torch.cat([torch.ones(20, 1, dtype=torch.float64), q], 1)).Q[:, 1:]
    x = q[:, :2] * torch.tensor([3.0, 1.0])
    y = torch.stack([0.6 * q[:, 0] + 0.8 * q[:, 2], 0.28 * q[:, 1] + 0.96 * q[:, 3]], 1)
    assert cca(x, y) == pytest.approx((0.6 + 0.28) / 2)
    # x = h diag(3, 1): the weights are 3 and 1
    assert pwcca(x, y) == pytest.approx((3 * 0.6 + 0.28) / 4)
    # 9 of 10 parts of the variance are in the first component
    assert svcca(x, y, variance=0.9) == pytest.approx(0.6)
    # singular values of X'Y: 3 * .6 and .28; norms sqrt(10) and sqrt(2)
    assert procrustes(x, y) == pytest.approx((1.8 + 0.28) / 20**0.5)


def test_rank_deficient_and_wide_inputs_use_their_rank():
    x, y = related(30, 3, 4, 0)
    assert cca(torch.cat([x, x @ normal(3, 2)], 1), y) == pytest.approx(cca(x, y), abs=1e-9)
    assert cca(normal(10, 50), normal(10, 60, seed=1)) == pytest.approx(1)


def test_mutual_knn_counts_shared_neighbours_and_keeps_duplicates():
    line = torch.tensor([[0.0], [1.0], [2.1], [10.0], [11.0], [12.1]])
    other = line[[0, 1, 2, 3, 4, 5]].clone()
    other[2] = 9.0
    # nearest: line 1 0 1 4 3 4; other 1 0 3 2 3 4 (row 2 moved beside row 3)
    assert mutual_knn(line, other, k=1, metric="euclidean") == pytest.approx(4 / 6)
    x = normal(20, 4).repeat(2, 1)
    rotated = x @ torch.linalg.qr(normal(4, 4, seed=1)).Q
    assert mutual_knn(x, rotated, k=5) == 1


def test_mutual_knn_of_independent_inputs_is_chance():
    values = [mutual_knn(normal(101, 8, seed=s), normal(101, 8, seed=s + 500), k=10) for s in range(20)]
    assert np.mean(values) == pytest.approx(10 / 100, abs=3 * np.std(values) / 20**0.5 + 1e-3)


def test_mutual_knn_matrix_holds_the_pairwise_values():
    x, y = related(30, 4, 6, 0)
    matrix = mutual_knn_matrix([x, y])
    assert matrix[0, 1] == mutual_knn(x, y)
    assert matrix.diagonal().tolist() == [1, 1]


def test_rsa_is_the_pearson_correlation_of_the_distances():
    x, y = related(25, 4, 6, 0)
    i, j = np.triu_indices(25, 1)
    distances = [(((z[:, None] - z[None]) ** 2).sum(-1).numpy())[i, j] for z in (x, y)]
    assert rsa(x, y) == pytest.approx(np.corrcoef(*distances)[0, 1], abs=1e-12)


def test_mean_cosine_is_the_mean_over_pairs_and_ignores_scale_and_rotation():
    x = normal(15, 4) + 0.5
    unit = x / x.norm(dim=1, keepdim=True)
    cosine = unit @ unit.T
    expected = float(cosine[~torch.eye(15, dtype=torch.bool)].mean())
    assert mean_cosine(x) == pytest.approx(expected)
    assert mean_cosine(x @ torch.linalg.qr(normal(4, 4, seed=2)).Q * 1e-5) == pytest.approx(expected)


def test_isoscore_is_one_for_equal_variances_zero_for_a_line_and_known_for_half_the_space():
    eye = torch.cat([torch.eye(6), -torch.eye(6)])
    assert isoscore(eye * 7 + 100) == pytest.approx(1, abs=1e-9)
    assert isoscore(torch.arange(5.0)[:, None] * torch.tensor([[1.0, 2.0, 3.0]])) == pytest.approx(0, abs=1e-9)
    # k of d directions used equally: phi = k / d, so the score is (k - 1) / (d - 1) (Rudman et al., 2022, section 3)
    half = torch.cat([torch.eye(6)[:3], -torch.eye(6)[:3]])
    assert isoscore(half) == pytest.approx(2 / 5, abs=1e-9)


@pytest.mark.parametrize("measure", [*SHIFT_SCALE_ROTATION.values(), cka])
def test_bad_rows_are_refused(measure):
    x = normal(15, 3)
    broken = x.clone()
    broken[3, 0] = float("nan")
    with pytest.raises(ValueError, match="row 3 holds NaN"):
        measure(x, broken)
    with pytest.raises(ValueError, match="15 rows are equal"):
        measure(torch.ones(15, 2), x)
