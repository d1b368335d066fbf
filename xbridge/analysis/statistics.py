"""Uncertainty of scores and of their differences: bootstrap over examples and seeds, tests, corrections, correlations.

Only numpy. Every random draw comes from a `numpy.random.Generator` that the caller seeds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import Literal

import numpy as np

from xbridge.core.student_t import NORMAL_975, t_quantile_975, t_two_sided

Array = np.ndarray
EXACT_PERMUTATIONS = 5_040
PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Arm:
    """Scores of one arm's runs. A run is one model, scored once; runs of one training seed form a cluster."""

    score: Array  # (runs,) on the whole test set
    resampled: Array  # (runs, B) on B resamplings of the test set, the same ones for all runs of a comparison
    cluster: Sequence[int]  # (runs,) training seed of each run


@dataclass(frozen=True)
class Difference:
    """Arm minus reference. Interval and p-value are None where nothing varies that they could rest on."""

    value: float
    low: float | None
    high: float | None
    p_value: float | None


def difference(arm: Arm, reference: Arm, *, num_examples: int, rng: np.random.Generator) -> Difference:
    """Difference of two arms' means with a 95 % interval over new test examples and new training runs.

    Estimand: the expected difference over training seeds and test examples, for this base model and training text. A
    mean weighs training seeds equally, and fine-tuning runs equally within one.

    Bootstrap: each replicate uses one resampling of the examples for both arms, and draws M - 1 of an arm's M training
    seeds with replacement (Rao and Wu, 1988: drawing M would understate the variance by (M-1)/M, a half for M = 2).
    With one training seed its fine-tuning runs are drawn instead; a single run is kept, and the interval is then for
    these two models only. The percentiles' distances from the estimate are widened by t_df / z with Satterthwaite's
    degrees of freedom (1946), as in Hesterberg's expanded percentile interval (2015, section 5.2): with two seeds per
    arm and nothing else varying, by 2.2. The p-value is two-sided, of the difference over its bootstrap standard
    deviation in the same t distribution.
    """
    means = [_clusters(side) for side in (arm, reference)]
    value = float(means[0][0].mean() - means[1][0].mean())
    draws = [_draw_seeds(len(score), resampled.shape[1], rng) for score, resampled in means]
    replicates = [np.einsum("bm,mb->b", w, resampled) for w, (_, resampled) in zip(draws, means, strict=True)]
    differences = replicates[0] - replicates[1]
    by_examples = float((means[0][1].mean(0) - means[1][1].mean(0)).var(ddof=1))
    by_seeds = [(float(score.var(ddof=1)) / len(score), len(score) - 1) for score, _ in means if len(score) > 1]
    spread = float(differences.std(ddof=1))
    if spread == 0:
        return Difference(value, None, None, None)
    degrees = _satterthwaite([(by_examples, num_examples - 1), *by_seeds])
    widen = t_quantile_975(degrees) / NORMAL_975
    low, high = (value + widen * (q - value) for q in np.percentile(differences, PERCENTILES))
    return Difference(value, float(low), float(high), t_two_sided(abs(value) / spread, degrees))


def _clusters(arm: Arm) -> tuple[Array, Array]:
    """Means of the training seeds, (M,) and (M, B); with a single training seed, its runs."""
    cluster = np.asarray(arm.cluster)
    numbers = np.unique(cluster)
    if len(numbers) < 2:
        return arm.score, arm.resampled
    groups = [cluster == number for number in numbers]
    return np.array([arm.score[g].mean() for g in groups]), np.stack([arm.resampled[g].mean(0) for g in groups])


def _draw_seeds(count: int, num_replicates: int, rng: np.random.Generator) -> Array:
    """Weights (B, M) of each unit: M - 1 draws with replacement; 1 where there is one unit."""
    if count == 1:
        return np.ones((num_replicates, 1))
    return rng.multinomial(count - 1, np.full(count, 1 / count), size=num_replicates) / (count - 1)


def _satterthwaite(parts: Sequence[tuple[float, int]]) -> float:
    """Degrees of freedom of a sum of independent variance estimates, each given with its own."""
    total = sum(variance for variance, _ in parts)
    below = sum(variance**2 / max(1, degrees) for variance, degrees in parts)
    return total**2 / below if below > 0 else float("inf")


def resampling_weights(num_examples: int, num_replicates: int, rng: np.random.Generator) -> Array:
    """How often each example is drawn in each bootstrap resampling: (B, n) float64, rows sum to n."""
    return rng.multinomial(num_examples, np.full(num_examples, 1 / num_examples), size=num_replicates).astype(float)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values (1979): family-wise, any dependence. None is passed through and not counted."""
    known = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        adjusted[index] = highest
    return adjusted


@dataclass(frozen=True)
class Correlation:
    """A correlation over few points. The interval is over the points; None where fewer than 4 or nothing varies."""

    value: float
    low: float | None
    high: float | None
    p_value: float | None


def correlation(
    x: Array, y: Array, *, kind: Literal["pearson", "spearman"], num_replicates: int, rng: np.random.Generator
) -> Correlation | None:
    """Correlation of x: (n,) and y: (n,), a 95 % bootstrap interval over points, and a permutation p-value.

    Spearman's uses mean ranks for ties. The p-value is two-sided, over all n! orders up to n = 7 and random ones
    beyond. With 5 to 8 models this is weak evidence: the interval usually spans most of [-1, 1], and it does not know
    that models of one arm or base are not independent. None for fewer than 3 points or a side that does not vary.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    prepare = _ranks if kind == "spearman" else np.atleast_2d
    value = float(_pearson(prepare(x), prepare(y))[0])
    permuted = _pearson(prepare(x), prepare(y)[0][_orders(len(x), num_replicates, rng)])
    p_value = float((np.abs(permuted) >= abs(value) - 1e-12).mean())
    if len(x) < 4:
        return Correlation(value, None, None, p_value)
    draws = rng.integers(len(x), size=(num_replicates, len(x)))
    values = _pearson(prepare(x[draws]), prepare(y[draws]))
    values = values[np.isfinite(values)]  # a draw of a single point over and over has no correlation
    low, high = np.percentile(values, PERCENTILES)
    return Correlation(value, float(low), float(high), p_value)


def _orders(n: int, num_replicates: int, rng: np.random.Generator) -> Array:
    """All orders of n points, or random ones with the identity first: (P, n)."""
    if math.factorial(n) <= EXACT_PERMUTATIONS:
        return _all_orders(n)
    return np.vstack([np.arange(n), rng.permuted(np.tile(np.arange(n), (num_replicates, 1)), axis=1)])


@lru_cache
def _all_orders(n: int) -> Array:
    return np.array(list(permutations(range(n))))


def _ranks(x: Array) -> Array:
    """Mean ranks along the last axis, (B, n)."""
    x = np.atleast_2d(x)
    below = (x[:, None, :] < x[:, :, None]).sum(2)
    equal = (x[:, None, :] == x[:, :, None]).sum(2)
    ranks: Array = below + (equal + 1) / 2
    return ranks


def _pearson(x: Array, y: Array) -> Array:
    """Pearson's correlation of rows, (B,); NaN where a row does not vary."""
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    size = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(size > 1e-12, (x * y).sum(-1) / size, np.nan)
