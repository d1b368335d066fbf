"""Jackknife, bootstrap, permutation and FDR: against closed forms, scipy, enumeration, and by simulation."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from xbridge.similarity import (
    anc,
    benjamini_hochberg,
    cka,
    estimate,
    isoscore,
    mutual_knn,
    paired_difference,
    procrustes,
    procrustes_distance,
    rsa,
    two_nn,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(n: int, *, noise: float = 1.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    latent = normal(n, 3, seed=seed)
    x = latent @ normal(3, 4, seed=1001) + noise * normal(n, 4, seed=seed + 1)
    return x, latent @ normal(3, 4, seed=1002) + noise * normal(n, 4, seed=seed + 2)


def mean_of_x(x: torch.Tensor, _: torch.Tensor) -> float:
    return float(x.mean())


def test_jackknife_of_a_mean_is_the_textbook_standard_error():
    x = normal(30, 1)
    result = estimate(mean_of_x, x, x, num_blocks=30)
    assert result.stderr == pytest.approx(float(x.std()) / math.sqrt(30), rel=1e-12)
    assert result.degrees == 29
    low, high = result.interval()
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 29, float(x.mean()), result.stderr), rel=1e-4)


def test_blocks_of_unequal_size_still_give_the_error_of_a_mean():
    """Theory: the variance of the mean. 31 rows in 10 blocks are blocks of 3 and 4."""
    errors = []
    for seed in range(200):
        x = normal(31, 1, seed=seed)
        errors.append(estimate(mean_of_x, x, x, num_blocks=10, seed=seed).stderr ** 2)
    assert np.mean(errors) == pytest.approx(1 / 31, rel=0.1)


def test_delete_one_jackknife_is_the_exact_one_of_cka():
    x, y = related(25)
    value, error = cka(x, y, return_stderr=True)
    result = estimate(cka, x, y, num_blocks=25)
    assert result.value == pytest.approx(value, abs=1e-12)
    assert result.stderr == pytest.approx(error, rel=1e-6)
    assert result.stderr_method == "jackknife"


def test_groups_are_left_out_whole():
    """Every row three times: as 30 rows of 10 groups the error is that of the 10 rows, not sqrt(3) too small."""
    x = normal(10, 1)
    groups = torch.arange(10).repeat(3)
    tripled = x.repeat(3, 1)
    grouped = estimate(mean_of_x, tripled, tripled, groups=groups)
    assert grouped.stderr == pytest.approx(float(x.std()) / math.sqrt(10), rel=1e-12)
    assert grouped.degrees == 9
    assert estimate(mean_of_x, tripled, tripled, num_blocks=30).stderr < 0.7 * grouped.stderr


def test_bootstrap_and_jackknife_agree_for_a_plug_in_measure():
    x, y = related(300)
    jackknife = estimate(procrustes, x, y, num_blocks=300)
    bootstrap = estimate(procrustes, x, y, stderr="bootstrap", num_replicates=300)
    assert bootstrap.stderr == pytest.approx(jackknife.stderr, rel=0.2)
    assert (bootstrap.stderr_method, bootstrap.degrees) == ("bootstrap", 299)


def test_bootstrap_over_groups_draws_whole_groups():
    x = normal(40, 1)
    groups = np.arange(40).repeat(3)
    tripled = x.repeat_interleave(3, 0)
    grouped = estimate(mean_of_x, tripled, tripled, groups=groups, stderr="bootstrap", num_replicates=2000)
    assert grouped.stderr == pytest.approx(float(x.std()) / math.sqrt(40), rel=0.1)


@pytest.mark.parametrize("measure", [cka, rsa, mutual_knn])
def test_bootstrap_refuses_measures_that_duplicates_change(measure):
    x, y = related(30)
    with pytest.raises(ValueError, match=r"becomes .* when every row occurs twice; use stderr='jackknife'"):
        estimate(measure, x, y, stderr="bootstrap")


def test_one_set_has_an_error_but_no_permutation_test():
    x = normal(200, 4) * torch.tensor([3.0, 2, 1, 1])
    result = estimate(isoscore, x)
    assert result.value == isoscore(x)
    assert 0 < result.stderr < 0.2
    assert estimate(two_nn, x).stderr < 1
    with pytest.raises(ValueError, match="permutation test needs two sets"):
        estimate(isoscore, x, num_permutations=10)


def test_permutation_p_value_approaches_the_share_of_all_orders():
    x, y = normal(5, 2), normal(5, 2, seed=1)
    y = y + 0.7 * x
    value = procrustes(x, y)
    orders = [procrustes(x, y[list(order)]) for order in itertools.permutations(range(5))]
    share = np.mean(np.array(orders) >= value - 1e-12)
    result = estimate(procrustes, x, y, stderr=None, num_permutations=999)
    assert result.p_value == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 999) + 1 / 999)
    assert (result.stderr, result.degrees, result.num_permutations) == (None, None, 999)


def test_dependence_is_found_and_p_is_never_zero():
    x, y = related(40)
    assert estimate(rsa, x, y, stderr=None, num_permutations=99).p_value == 0.01
    assert estimate(procrustes_distance, x, y, stderr=None, num_permutations=99, alternative="less").p_value == 0.01
    assert estimate(procrustes_distance, x, y, stderr=None, num_permutations=99).p_value == 1


def test_permutations_move_whole_groups():
    """Groups share a value, and rows within a group are related: only permuting rows one by one would see that."""
    centre = normal(6, 2).repeat_interleave(20, 0)
    other = normal(6, 2, seed=1).repeat_interleave(20, 0)
    x, y = centre + 0.01 * normal(120, 2, seed=2), other + 0.01 * normal(120, 2, seed=3)
    groups = torch.arange(6).repeat_interleave(20)
    single = estimate(procrustes, x, y, stderr=None, num_permutations=199)
    grouped = estimate(procrustes, x, y, stderr=None, num_permutations=199, groups=groups)
    assert single.p_value == 1 / 200
    assert grouped.p_value > 0.05


def test_paired_difference_sees_the_closer_set_and_its_error_is_of_the_difference():
    x, y = related(200)
    z = y + 1.5 * normal(200, 4, seed=9)
    result = paired_difference(procrustes, x, y, z)
    assert result.value == pytest.approx(procrustes(x, y) - procrustes(x, z))
    assert result.p_value < 0.001
    assert paired_difference(procrustes, x, z, y).p_value == pytest.approx(1 - result.p_value)
    alone = [estimate(procrustes, x, other).stderr for other in (y, z)]
    assert result.stderr < math.hypot(*alone)


def test_the_same_seed_gives_the_same_result():
    x, y = related(30)
    first, second = (estimate(rsa, x, y, num_permutations=19, seed=3) for _ in range(2))
    assert first == second
    assert estimate(rsa, x, y, seed=4).stderr != first.stderr


@pytest.mark.parametrize(("dependence", "method"), [("positive", "bh"), ("any", "by")])
def test_false_discovery_control_is_that_of_scipy(dependence, method):
    p = np.random.default_rng(0).uniform(size=(5, 6)) ** 3
    expected = stats.false_discovery_control(p.ravel(), method=method).reshape(5, 6)
    assert np.allclose(benjamini_hochberg(p, dependence=dependence), expected)


def test_false_discovery_control_leaves_out_nan():
    adjusted = benjamini_hochberg(np.array([0.01, np.nan, 0.04]))
    assert adjusted[[0, 2]].tolist() == pytest.approx([0.02, 0.04])
    assert np.isnan(adjusted[1])
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        benjamini_hochberg(np.array([0.5, 1.5]))


def test_bad_input_is_named():
    x, y = related(10)
    with pytest.raises(ValueError, match="y has 9 rows, x has 10"):
        estimate(procrustes, x, y[:9])
    with pytest.raises(ValueError, match="groups: expected 10 whole numbers"):
        estimate(procrustes, x, y, groups=torch.ones(9, dtype=torch.int64))
    with pytest.raises(ValueError, match="1 independent units"):
        estimate(procrustes, x, y, groups=[0] * 10)
    with pytest.raises(ValueError, match="groups of 1 to 9"):
        estimate(procrustes, x, y, groups=[0] * 9 + [1], stderr=None, num_permutations=5)
    with pytest.raises(ValueError, match="no interval without a standard error"):
        estimate(procrustes, x, y, stderr=None).interval()
    with pytest.raises(ValueError, match="no error to test against"):
        paired_difference(procrustes, x, y, y)


@pytest.mark.slow
def test_permutation_test_at_the_nominal_five_per_cent_rejects_in_four_to_six_of_a_hundred():
    """39 permutations: p <= 0.05 in exactly 2 of 40 ranks. Binomial standard error over 3,000 simulations: 0.4 %."""
    rejected = 0
    for seed in range(3000):
        x, y = normal(15, 3, seed=seed), normal(15, 3, seed=seed + 1_000_000).exp()
        rejected += estimate(anc, x, y, stderr=None, num_permutations=39, seed=seed).p_value <= 0.05
    assert 0.04 <= rejected / 3000 <= 0.06


@pytest.mark.slow
def test_jackknife_intervals_cover_the_truth_in_92_to_97_of_a_hundred():
    """Unbiased CKA of normal data, whose population value is |S_xy|_F^2 / (|S_xx|_F |S_yy|_F)."""
    loadings = normal(3, 4, seed=1001), normal(3, 4, seed=1002)
    own = [a.T @ a + torch.eye(4) for a in loadings]
    truth = float((loadings[0].T @ loadings[1]).square().sum() / (own[0].norm() * own[1].norm()))
    covered = 0
    for seed in range(800):
        x, y = related(150, seed=10_000 + 3 * seed)
        low, high = estimate(cka, x, y, seed=seed).interval()
        covered += low <= truth <= high
    assert 0.92 <= covered / 800 <= 0.97


@pytest.mark.slow
def test_paired_test_of_equal_similarities_rejects_at_its_level():
    """y and z are two equally noisy views, so the one-sided test at 5 % should reject in about 5 of 100."""
    rejected = 0
    for seed in range(600):
        x, y = related(150, seed=50_000 + 3 * seed)
        latent_noise = normal(150, 4, seed=900_000 + seed), normal(150, 4, seed=2_000_000 + seed)
        first, second = (y + noise for noise in latent_noise)
        rejected += paired_difference(procrustes, x, first, second, seed=seed).p_value <= 0.05
    assert 0.03 <= rejected / 600 <= 0.07
