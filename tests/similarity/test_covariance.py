"""Measures from second moments equal those on rows; canonical correlations against QR, and population values."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from scipy.spatial import procrustes as scipy_procrustes

from xbridge import similarity
from xbridge.similarity import (
    SecondMoments,
    canonical_correlations,
    cca,
    cka,
    linear_r2,
    normalised_bures,
    participation_ratio,
    principal_angles,
    procrustes,
    procrustes_angle,
    procrustes_distance,
    pwcca,
    spectrum,
    svcca,
)
from xbridge.similarity import covariance as from_moments
from xbridge.similarity.covariance import Covariance

BOTH = {
    "cka": (lambda x, y: cka(x, y, estimator="biased"), from_moments.cka),
    "cca": (cca, from_moments.cca),
    "svcca": (svcca, from_moments.svcca),
    "svcca 0.7": (lambda x, y: svcca(x, y, variance=0.7), lambda c: from_moments.svcca(c, variance=0.7)),
    "pwcca": (pwcca, from_moments.pwcca),
    "pwcca y": (lambda x, y: pwcca(x, y, weights="y"), lambda c: from_moments.pwcca(c, weights="y")),
    "procrustes": (procrustes, from_moments.procrustes),
    "r2": (linear_r2, from_moments.linear_r2),
    "ridge r2": (lambda x, y: linear_r2(x, y, ridge=0.2), lambda c: from_moments.linear_r2(c, ridge=0.2)),
}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(n: int, d1: int, d2: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    latent = normal(n, 3, seed=seed)
    return (
        latent @ normal(3, d1, seed=seed + 1) + normal(n, d1, seed=seed + 3) + 2,
        latent @ normal(3, d2, seed=seed + 2) + normal(n, d2, seed=seed + 4) - 1,
    )


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(("n", "d1", "d2"), [(60, 5, 8), (60, 8, 5), (300, 40, 30), (20, 1, 6)])
def test_moments_give_what_rows_give(name, n, d1, d2):
    on_rows, on_moments = BOTH[name]
    x, y = related(n, d1, d2)
    assert on_moments(Covariance.of(x, y)) == pytest.approx(on_rows(x, y), abs=1e-9)
    c = torch.cov(torch.cat([x, y], 1).T) * 123  # any common factor
    assert on_moments(Covariance(c[:d1, :d1], c[d1:, d1:], c[:d1, d1:])) == pytest.approx(on_rows(x, y), abs=1e-9)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("kind", ["rank", "wide", "power law"])
def test_rank_deficient_and_ill_conditioned_inputs_agree_to_a_millionth(name, kind):
    on_rows, on_moments = BOTH[name]
    x, y = related(40, 6, 5)
    if kind == "rank":
        x = x @ normal(6, 3, seed=7) @ normal(3, 9, seed=8)
    elif kind == "wide":
        x, y = x @ normal(6, 60, seed=7), y @ normal(5, 50, seed=8)
    else:
        x = x * 10 ** torch.linspace(0, -4, 6, dtype=torch.float64)
    assert on_moments(Covariance.of(x, y)) == pytest.approx(on_rows(x, y), abs=1e-6)


MATRICES = {
    "cca": {},
    "svcca": {"variance": 0.8},
    "pwcca": {"weights": "y"},
    "procrustes": {},
    "linear_r2": {"ridge": 0.1},
}


@pytest.mark.parametrize("name", MATRICES)
def test_streamed_moments_give_the_measure_between_all_layers(name):
    options = MATRICES[name]
    layers = [*related(60, 5, 7), normal(60, 3, seed=5)]
    moments = SecondMoments([5, 7, 3])
    for start in range(0, 60, 25):
        moments.update([x[start : start + 25] for x in layers])
    on_rows = getattr(similarity, name)
    expected = [[on_rows(x, y, **options) for y in layers] for x in layers]
    matrix = getattr(from_moments, f"{name}_matrix")
    assert np.allclose(matrix(moments, **options), expected, rtol=0, atol=1e-9)
    assert np.allclose(matrix(moments, [0], [1, 2], **options), [expected[0][1:]], rtol=0, atol=1e-9)
    pair = getattr(from_moments, name)(Covariance.between(moments, 2, 0), **options)
    assert pair == pytest.approx(expected[2][0], abs=1e-9)


def test_a_layer_of_the_moments_that_does_not_vary_is_named():
    moments = SecondMoments([2, 3])
    moments.update([normal(10, 2), torch.ones(10, 3, dtype=torch.float64)])
    with pytest.raises(ValueError, match="layer 1: no variance"):
        from_moments.cca_matrix(moments)


def test_spectrum_and_participation_ratio_of_a_covariance_are_those_of_the_rows():
    x = related(50, 6, 2)[0]
    c = torch.cov(x.T, correction=0)
    assert np.allclose(from_moments.spectrum(c), spectrum(x), rtol=1e-10)
    assert from_moments.participation_ratio(c) == pytest.approx(participation_ratio(x), rel=1e-12)


def test_canonical_correlations_come_from_qr_and_principal_angles_are_scipys():
    x, y = related(50, 4, 6)
    q_x, q_y = (np.linalg.qr((z - z.mean(0)).numpy())[0] for z in (x, y))
    expected = np.linalg.svd(q_x.T @ q_y, compute_uv=False)
    assert np.allclose(canonical_correlations(x, y), expected, atol=1e-12)
    assert np.allclose(from_moments.canonical_correlations(Covariance.of(x, y)), expected, atol=1e-10)
    assert np.allclose(principal_angles(x, y), np.sort(subspace_angles(q_x, q_y)), atol=1e-12)


def test_principal_angles_of_equal_spaces_are_zero_to_rounding():
    x = related(50, 4, 6)[0]
    assert float(principal_angles(x, x @ normal(4, 4, seed=9)).max()) < 1e-13
    assert float(principal_angles(x, torch.cat([x, normal(50, 3, seed=9)], 1)).max()) < 1e-13


def test_gaussian_canonical_correlations_are_recovered():
    rho = torch.tensor([0.9, 0.5, 0.1])
    z, noise = normal(50_000, 3), normal(50_000, 3, seed=1)
    x, y = z @ normal(3, 3, seed=2), (rho * z + (1 - rho**2).sqrt() * noise) @ normal(3, 3, seed=3)
    assert np.allclose(canonical_correlations(x, y), rho, atol=0.015)


def test_pwcca_weights_may_come_from_either_side():
    x, y = related(50, 4, 6)
    assert pwcca(x, y, weights="y") == pytest.approx(pwcca(y, x), abs=1e-12)
    assert abs(pwcca(x, y, weights="y") - pwcca(x, y)) > 1e-3
    with pytest.raises(ValueError, match="weights must be"):
        pwcca(x, y, weights="both")


def test_procrustes_distance_angle_similarity_and_scipys_disparity_are_one_thing():
    x, y = related(30, 5, 5)
    similarity = procrustes(x, y)
    assert procrustes_distance(x, y) == pytest.approx(math.sqrt(2 - 2 * similarity), abs=1e-12)
    assert procrustes_angle(x, y) == pytest.approx(math.acos(similarity), abs=1e-12)
    assert scipy_procrustes(x.numpy(), y.numpy())[2] == pytest.approx(1 - similarity**2, abs=1e-12)


@pytest.mark.parametrize(("d1", "d2"), [(3, 7), (7, 3), (80, 90)])
def test_procrustes_pads_the_narrower_side(d1, d2):
    x, y = related(30, d1, d2)
    width = max(d1, d2)
    padded = [torch.nn.functional.pad(z - z.mean(0), (0, width - z.shape[1])) for z in (x, y)]
    assert procrustes(x, y) == pytest.approx(procrustes(*padded), abs=1e-12)
    assert procrustes_distance(x, y) == pytest.approx(math.sqrt(2 - 2 * procrustes(x, y)), abs=1e-9)


def test_procrustes_distance_to_a_rotation_is_zero_to_rounding():
    x = related(30, 5, 5)[0]
    rotated = 3 * x @ torch.linalg.qr(normal(5, 5, seed=9)).Q + 100
    assert procrustes_distance(x, rotated) < 1e-12
    assert procrustes_angle(x, rotated) < 1e-12


def test_normalised_bures_is_that_of_the_gram_matrices():
    x, y = related(12, 4, 5)
    grams = [(z - z.mean(0)) @ (z - z.mean(0)).T for z in (x, y)]
    values, vectors = torch.linalg.eigh(grams[0])
    root = vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T
    fidelity = torch.linalg.eigvalsh(root @ grams[1] @ root).clamp_min(0).sqrt().sum()
    expected = float(fidelity / (grams[0].trace() * grams[1].trace()).sqrt())
    assert normalised_bures(x, y) == pytest.approx(expected, abs=1e-6)


def test_matrices_that_do_not_fit_or_do_not_vary_are_refused():
    with pytest.raises(ValueError, match="expected"):
        Covariance(torch.eye(3), torch.eye(2), torch.ones(2, 3))
    with pytest.raises(ValueError, match="y: no variance"):
        Covariance(torch.eye(3), torch.zeros(2, 2), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="ridge must not be negative"):
        from_moments.linear_r2(Covariance(torch.eye(2), torch.eye(2), torch.eye(2)), ridge=-0.1)
