"""Intervals, tests and corrections against tables, brute force and simulation."""

from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from xbridge.analysis.statistics import (
    Arm,
    correlation,
    difference,
    holm,
    resampling_weights,
    t_quantile_975,
    t_two_sided,
)


@pytest.mark.parametrize("degrees", [1, 1.5, 2, 3.7, 30, 5000, 99_999, 1e12])
def test_student_t_equals_scipy(degrees):
    for t in (0, 1e-12, 0.3, 1.0, 2.5, 8.0):
        assert t_two_sided(t, degrees) == pytest.approx(2 * stats.t.sf(t, degrees), rel=1e-9, abs=1e-9)
    assert t_quantile_975(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-5)


def test_holm_worked_by_hand():
    """Sorted .01 .02 .03 .04 by 4 3 2 1: .04 .06 .06 .06."""
    assert holm([0.04, 0.01, None, 0.03, 0.02]) == pytest.approx([0.06, 0.04, None, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("kind", ["pearson", "spearman"])
def test_correlation_equals_scipy_with_ties_and_exact_permutations(kind):
    x, y = np.array([1.0, 2, 2, 5, 7, 9]), np.array([2.0, 1, 4, 4, 9, 6])
    result = correlation(x, y, kind=kind, num_replicates=500, rng=np.random.default_rng(0))
    expected = stats.pearsonr(x, y) if kind == "pearson" else stats.spearmanr(x, y)
    assert result.value == pytest.approx(expected.statistic)
    assert -1 <= result.low < result.value < result.high <= 1 + 1e-12
    first, second = (x, y) if kind == "pearson" else (stats.rankdata(x), stats.rankdata(y))
    permuted = [np.corrcoef(first, order)[0, 1] for order in permutations(second)]
    assert result.p_value == pytest.approx(np.mean(np.abs(permuted) >= expected.statistic - 1e-9))


def test_correlation_of_a_constant_or_of_two_points_is_none():
    for x in (np.ones(5), np.arange(2.0)):
        assert correlation(x, np.arange(float(len(x))), kind="pearson", num_replicates=10, rng=None) is None


def simulate(rng, *, seeds, runs, examples, seed_sd, example_sd, effect=0.0):
    """Scores = arm + training seed + run noise + mean of example effects that the arms share in part."""
    weights = resampling_weights(examples, 200, rng)
    shared = rng.normal(0, example_sd, examples)
    arms = []
    for shift in (effect, 0.0):
        clusters = np.repeat(np.arange(seeds), runs)
        level = shift + rng.normal(0, seed_sd, seeds)[clusters] + rng.normal(0, seed_sd / 4, seeds * runs)
        # each arm has its own response to an example: what the difference varies with
        by_example = level[:, None] + shared + rng.normal(0, example_sd, examples)
        arms.append(Arm(by_example.mean(1), by_example @ weights.T / examples, clusters.tolist()))
    return arms


@pytest.mark.parametrize(
    ("seeds", "seed_sd", "example_sd"), [(2, 1.0, 0.0001), (2, 0.05, 1.0), (2, 0.2, 1.0), (5, 1.0, 1.0)]
)
def test_intervals_cover_the_true_difference_with_few_seeds(seeds, seed_sd, example_sd):
    rng = np.random.default_rng(seeds)
    covered, rejected = [], []
    for _ in range(300):
        arms = simulate(rng, seeds=seeds, runs=2, examples=60, seed_sd=seed_sd, example_sd=example_sd)
        result = difference(*arms, num_examples=60, rng=rng)
        covered.append(result.low <= 0 <= result.high)
        rejected.append(result.p_value < 0.05)
    assert np.mean(covered) > 0.9
    assert np.mean(rejected) < 0.1


def test_a_clear_difference_is_found_and_an_interval_surrounds_the_estimate():
    rng = np.random.default_rng(0)
    arms = simulate(rng, seeds=2, runs=3, examples=200, seed_sd=0.02, example_sd=0.5, effect=1.0)
    result = difference(*arms, num_examples=200, rng=rng)
    assert result.low < result.value < result.high
    assert result.low > 0
    assert result.p_value < 0.01


def test_two_seeds_worked_by_hand():
    """Means 3 and 0, seed variances 2 and 0.5: t on the sum of s^2 / 2, and no example noise."""
    ones = np.ones((1, 4000))
    arm = Arm(np.array([2.0, 4.0]), np.array([[2.0], [4.0]]) * ones, [0, 1])
    reference = Arm(np.array([-0.5, 0.5]), np.array([[-0.5], [0.5]]) * ones, [0, 1])
    result = difference(arm, reference, num_examples=100, rng=np.random.default_rng(0))
    variance, degrees = 1 + 0.25, 1.25**2 / (1 + 0.25**2)
    assert result.value == 3
    assert result.p_value == pytest.approx(2 * stats.t.sf(3 / variance**0.5, degrees), rel=0.02)
    assert result.high == pytest.approx(3 + 1.5 * stats.t.ppf(0.975, degrees) / stats.norm.ppf(0.975), rel=1e-3)


def test_single_runs_give_the_plain_paired_bootstrap():
    rng = np.random.default_rng(3)
    scores = (rng.random((2, 80)) < np.array([[0.7], [0.5]])).astype(float)
    weights = resampling_weights(80, 4000, rng)
    arms = [Arm(s.mean(keepdims=True), (weights @ s / 80)[None], [0]) for s in scores]
    result = difference(*arms, num_examples=80, rng=rng)
    paired = scores[0] - scores[1]
    error = paired.std(ddof=1) / 80**0.5
    assert result.low == pytest.approx(paired.mean() - 1.99 * error, abs=0.015)
    assert result.p_value == pytest.approx(stats.ttest_1samp(paired, 0).pvalue, rel=0.15)


def test_one_run_each_and_no_examples_gives_no_interval():
    arm, reference = (Arm(np.array([v]), np.full((1, 50), v), [0]) for v in (2.0, 1.0))
    result = difference(arm, reference, num_examples=1, rng=np.random.default_rng(0))
    assert (result.value, result.low, result.p_value) == (1.0, None, None)


def test_the_same_generator_gives_the_same_interval():
    results = []
    for _ in range(2):
        rng = np.random.default_rng(7)
        arms = simulate(rng, seeds=2, runs=2, examples=50, seed_sd=0.3, example_sd=1.0)
        results.append(difference(*arms, num_examples=50, rng=rng))
    assert results[0] == results[1]
