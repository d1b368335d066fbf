"""Linear discriminants, fitted on some examples and judged on others.

With pooled within-class covariance S (shrunk: (1 - g) S + g tr(S)/d I) and class means m_c, the discriminants are the
leading directions of S^-1/2 (m_c - m): Fisher's (1936), for several classes (Rao, 1948). In their space z, on examples
that were not fitted:

    Fisher ratio   tr(B) / tr(W),  B = sum_c n_c/n (z_c - z)(z_c - z)', W = sum_c n_c/n Cov_c(z)
    probe accuracy mean over classes of the share of examples whose nearest class mean (of the fit) is their own

For classes that do not differ, and n independent held-out examples, the ratio is about (C - 1) / (n - C) and the
accuracy 1 / C.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Discriminant:
    """A fitted discriminant. `means`: (C, q) class means in its space."""

    direction: Array  # (d, q), q <= C - 1
    origin: Array  # (d,)
    means: Array

    def project(self, x: Array) -> Array:
        """(n, d) -> (n, q)"""
        z: Array = (x - self.origin) @ self.direction
        return z

    def predict(self, x: Array) -> Array:
        """Number of the nearest class mean, (n,) int; the lowest number among equals."""
        z = self.project(x)
        distance = (self.means**2).sum(1)[None, :] - 2 * z @ self.means.T
        nearest: Array = distance.argmin(1)
        return nearest


def fit(x: Array, y: Array, num_classes: int, *, shrinkage: float) -> Discriminant:
    """x: (n, d) float64; y: (n,) class numbers, each 0 .. num_classes - 1 present; 0 < shrinkage <= 1.

    ValueError where the classes have no spread at all.
    """
    n, d = x.shape
    origin = x.mean(0)
    means = np.stack([x[y == c].mean(0) for c in range(num_classes)])
    residual = x - means[y]
    covariance = residual.T @ residual / max(1, n - num_classes)
    size = np.trace(covariance) / d
    if not size > 0:
        raise ValueError("all examples of each class are equal; separability is undefined")
    whiten = np.linalg.inv(np.linalg.cholesky((1 - shrinkage) * covariance + shrinkage * size * np.eye(d)))
    _, singular, axes = np.linalg.svd((means - origin) @ whiten.T, full_matrices=False)
    rank = max(1, int((singular > singular[0] * 1e-10).sum()))
    direction = whiten.T @ axes[: min(rank, num_classes - 1)].T
    return Discriminant(direction, origin, (means - origin) @ direction)


@dataclass(frozen=True)
class Held:
    """Sums over held-out examples that determine both measures on any resampling of them."""

    sums: Array  # (n, C, q + 3): per example and class: z, |z|^2, 1, right
    unit: Array  # (n,) which examples are drawn together, 0 .. num_units - 1

    def measures(self, weights: Array) -> tuple[Array, Array]:
        """Fisher ratio and probe accuracy, (B,) each. weights: (B, num_units), how often each unit is drawn."""
        n, num_classes, width = self.sums.shape
        by_unit = np.zeros((weights.shape[1], num_classes * width))
        np.add.at(by_unit, self.unit, self.sums.reshape(n, -1))
        total = (weights @ by_unit).reshape(len(weights), num_classes, width)
        z, square, count, right = total[..., :-3], total[..., -3], total[..., -2], total[..., -1]
        seen = np.maximum(count, 1)
        within = square.sum(1) - ((z**2).sum(2) / seen).sum(1)
        grand = z.sum(1)
        between = ((z**2).sum(2) / seen).sum(1) - (grand**2).sum(1) / count.sum(1)
        accuracy = (right / seen).sum(1) / (count > 0).sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return between / within, accuracy


def judge(found: Discriminant, x: Array, y: Array, unit: Array) -> Held:
    """Sums of held-out x: (n, d) with classes y: (n,); `unit`: (n,) as in `Held`."""
    z = found.project(x)
    facts = np.column_stack([z, (z**2).sum(1), np.ones(len(x)), found.predict(x) == y])
    sums = np.zeros((len(x), len(found.means), facts.shape[1]))
    sums[np.arange(len(x)), y] = facts
    return Held(sums, unit)


@dataclass(frozen=True)
class Measured:
    """Value and standard error (bootstrap over units, for the given fits) of both measures."""

    fisher_ratio: tuple[float, float]
    probe_accuracy: tuple[float, float]


def summarise(parts: Sequence[Held], num_units: int, num_resamples: int, rng: np.random.Generator) -> Measured:
    """Mean over the parts (the folds of a cross-fit), all resampled together by unit."""
    weights = rng.multinomial(num_units, np.full(num_units, 1 / num_units), size=num_resamples).astype(float)
    weights = np.vstack([np.ones(num_units), weights])
    values = np.mean([part.measures(weights) for part in parts], axis=0)
    spread = [float(v[1:][np.isfinite(v[1:])].std(ddof=1)) for v in values]
    return Measured((float(values[0, 0]), spread[0]), (float(values[1, 0]), spread[1]))
