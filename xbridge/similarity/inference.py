"""Sampling error and significance of any measure, over the examples, for the given models.

    estimate(procrustes, x, y, num_permutations=999)       # value, standard error, p-value of independence
    paired_difference(cka, x, y, z)                        # is y more similar to x than z is?

**Standard error by the jackknife** (the default): the examples are dealt at random into blocks, the measure is computed
without each block in turn, and the spread of these values gives the error (delete-a-block jackknife; Quenouille, 1956;
Efron, 1982, section 3; for blocks of unequal size Busing et al., 1999). It never repeats an example, so it is good for
every measure here, those on neighbours too, as long as the measure moves smoothly with the data: a cut that jumps
(`svcca`) makes it rough. For `cka` the exact delete-one jackknife costs less: `cka(..., return_stderr=True)`.

**Standard error by the bootstrap** draws examples with replacement, so examples occur twice. Measures on pairs or
neighbours take a copy for a perfect neighbour and are then far off (unbiased CKA, RSA, k-NN). A measure is accepted
only if it does not see that every row occurs twice: it is then a function of the empirical distribution.

**p-value**: rows of y are permuted, which makes the sides independent, whatever their distributions; exact at any n.

Examples that belong together (translations of one sentence, words of one sentence) are left out, drawn and permuted
together: pass `groups`. Errors cover new examples only, not new training runs.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from xbridge.core.student_t import t_quantile_975, t_two_sided
from xbridge.similarity.rows import Rows, as_rows, require_same_rows

Measure: TypeAlias = Callable[..., float]  # of x: (n, d1) and y: (n, d2), or of x alone
ROUNDING = 1e-12
DUPLICATES_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Estimate:
    """A measure's value with what was asked for about its uncertainty; None for what was not."""

    value: float
    stderr: float | None
    stderr_method: Literal["jackknife", "bootstrap"] | None
    degrees: int | None
    """Degrees of freedom of `stderr`: blocks less one (jackknife), independent units less one (bootstrap)."""
    p_value: float | None
    num_permutations: int
    num_examples: int

    def interval(self) -> tuple[float, float]:
        """95 % interval: value plus or minus Student's quantile times the standard error. It is not cut to the
        measure's range, and does not correct the bias of a measure that grows with d / n."""
        if self.stderr is None or self.degrees is None:
            raise ValueError("there is no interval without a standard error: ask for one (stderr='jackknife')")
        margin = t_quantile_975(self.degrees) * self.stderr
        return self.value - margin, self.value + margin


@dataclass(frozen=True)
class Difference:
    """measure(x, y) - measure(x, z)."""

    value: float
    stderr: float
    degrees: int
    p_value: float
    """One-sided: of a difference at least as large if the two were equal (Student's t)."""
    num_examples: int


def estimate(
    measure: Measure,
    x: Rows,
    y: Rows | None = None,
    *,
    stderr: Literal["jackknife", "bootstrap"] | None = "jackknife",
    num_permutations: int = 0,
    alternative: Literal["greater", "less"] = "greater",
    groups: Tensor | np.ndarray | Sequence[int] | None = None,
    num_blocks: int = 20,
    num_replicates: int = 200,
    seed: int = 0,
) -> Estimate:
    """measure(x, y), or measure(x), with its standard error and the p-value of independence.

    measure: any function of x: (n, d1) and y: (n, d2), row i the same example in both, or of x alone.
    stderr: "jackknife" with `num_blocks` blocks (all units one by one where there are fewer), "bootstrap" with
        `num_replicates` resamplings, or None. The cost is as many evaluations of the measure.
    num_permutations: 0 for no p-value. p = (1 + b) / (1 + num_permutations), b the permutations whose value is at least
        as high (`alternative` "less", for distances: at least as low), so it is never 0. With `groups`, whole groups
        are permuted, which takes groups of equal size.
    groups: (n,) whole numbers; equal ones are one unit. The same `seed` gives the same result.

    ValueError for unequal n, values that are not finite, fewer than 2 units, and for a bootstrap of a measure that
    duplicates change.
    """
    sets = _checked({"x": x} if y is None else {"x": x, "y": y})
    units = _units(groups, len(sets[0]))
    value = measure(*sets)
    error: float | None = None
    degrees: int | None = None
    if stderr == "jackknife":
        error, degrees = _jackknife(measure, sets, units, value, num_blocks, seed)
    elif stderr == "bootstrap":
        error, degrees = _bootstrap(measure, sets, units, value, num_replicates, seed), len(units) - 1
    elif stderr is not None:
        raise ValueError(f"stderr must be 'jackknife', 'bootstrap' or None, not {stderr!r}")
    p_value = None
    if num_permutations:
        if len(sets) < 2:
            raise ValueError("a permutation test needs two sets of paired rows, x and y")
        p_value = _permutation_p(measure, sets, units, value, num_permutations, alternative, seed)
    return Estimate(value, error, stderr, degrees, p_value, num_permutations, len(sets[0]))


def paired_difference(
    measure: Measure,
    x: Rows,
    y: Rows,
    z: Rows,
    *,
    groups: Tensor | np.ndarray | Sequence[int] | None = None,
    num_blocks: int = 20,
    seed: int = 0,
) -> Difference:
    """measure(x, y) - measure(x, z) over the same examples, with a one-sided test that it is above 0.

    x, y, z: (n, d1), (n, d2), (n, d3). Delete-a-block jackknife of the difference itself, so that what the two values
    share cancels; Student's t with blocks less one degrees of freedom. Options and errors as in `estimate`.
    """
    sets = _checked({"x": x, "y": y, "z": z})

    def gap(x: Tensor, y: Tensor, z: Tensor) -> float:
        return measure(x, y) - measure(x, z)

    value = gap(*sets)
    stderr, degrees = _jackknife(gap, sets, _units(groups, len(sets[0])), value, num_blocks, seed)
    if stderr == 0:
        raise ValueError("the difference is the same without any block of examples: there is no error to test against")
    tail = t_two_sided(abs(value) / stderr, degrees) / 2
    return Difference(value, stderr, degrees, tail if value > 0 else 1 - tail, len(sets[0]))


def benjamini_hochberg(p_values: np.ndarray, *, dependence: Literal["positive", "any"] = "positive") -> np.ndarray:
    """p-values adjusted to control the false discovery rate, in the shape given; NaN stays NaN and is not counted.

    Rejecting where the result is at most q keeps the expected share of false rejections at most q, for independent or
    positively dependent tests (Benjamini and Hochberg, 1995), such as those of neighbouring layers, or with `any`
    dependence at a cost of sum_i 1 / i (Benjamini and Yekutieli, 2001). Give a symmetric matrix's upper half only.
    """
    p = np.asarray(p_values, dtype=float)
    known = np.flatnonzero(~np.isnan(p))
    values = p.ravel()[known]
    if ((values < 0) | (values > 1)).any():
        raise ValueError("p-values must be in [0, 1]")
    ranks = np.arange(1, len(values) + 1)
    factor = float((1 / ranks).sum()) if dependence == "any" else 1.0
    order = np.argsort(values)
    scaled = values[order] * (len(values) * factor / ranks)
    adjusted = np.full(p.size, np.nan)
    adjusted[known[order]] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1)
    return adjusted.reshape(p.shape)


def _checked(sets: dict[str, Rows]) -> list[Tensor]:
    rows = {name: as_rows(z, name) for name, z in sets.items()}
    require_same_rows(rows)
    return list(rows.values())


def _units(groups: Tensor | np.ndarray | Sequence[int] | None, n: int) -> list[Tensor]:
    """The row numbers of each unit of examples that stay together."""
    if groups is None:
        units = list(torch.arange(n)[:, None])
    else:
        labels = torch.as_tensor(groups).cpu()
        if labels.shape != (n,) or labels.is_floating_point():
            raise ValueError(f"groups: expected {n} whole numbers, got {tuple(labels.shape)} {labels.dtype}")
        _, inverse, counts = torch.unique(labels, return_inverse=True, return_counts=True)
        units = list(torch.split(torch.argsort(inverse, stable=True), counts.tolist()))
    if len(units) < 2:
        raise ValueError(f"{len(units)} independent units of examples; their spread needs at least 2")
    return units


def _jackknife(
    measure: Measure, sets: list[Tensor], units: list[Tensor], value: float, num_blocks: int, seed: int
) -> tuple[float, int]:
    """Standard error and degrees of freedom. Busing et al. (1999), equations 3 and 4, h_j = n / rows of block j."""
    if num_blocks < 2:
        raise ValueError(f"num_blocks must be at least 2, got {num_blocks}")
    n = len(sets[0])
    shares, values = [], []
    for block in _blocks(units, min(num_blocks, len(units)), seed):
        keep = torch.ones(n, dtype=torch.bool)
        keep[block] = False
        shares.append(len(block) / n)
        values.append(measure(*(z[keep] for z in sets)))
    share, without = np.array(shares), np.array(values)
    pseudo = value / share - (1 / share - 1) * without
    centre = len(share) * value - ((1 - share) * without).sum()
    variance = ((pseudo - centre) ** 2 * share / (1 - share)).mean()
    return math.sqrt(variance), len(share) - 1


def _blocks(units: list[Tensor], num_blocks: int, seed: int) -> Iterator[Tensor]:
    """Rows of each block: units dealt at random, as evenly as they go."""
    order = torch.randperm(len(units), generator=torch.Generator().manual_seed(seed)).tolist()
    return (torch.cat([units[i] for i in order[start::num_blocks]]) for start in range(num_blocks))


def _bootstrap(
    measure: Measure, sets: list[Tensor], units: list[Tensor], value: float, num_replicates: int, seed: int
) -> float:
    twice = measure(*(z.repeat(2, 1) for z in sets))
    if not abs(twice - value) <= DUPLICATES_TOLERANCE * max(1.0, abs(value)):
        raise ValueError(
            f"a bootstrap repeats rows, and this measure sees it: {value:.6g} becomes {twice:.6g} when every row "
            "occurs twice; use stderr='jackknife'"
        )
    if num_replicates < 2:
        raise ValueError(f"num_replicates must be at least 2, got {num_replicates}")
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(num_replicates):
        drawn = torch.randint(len(units), (len(units),), generator=generator).tolist()
        rows = torch.cat([units[i] for i in drawn])
        values.append(measure(*(z[rows] for z in sets)))
    return float(np.std(values, ddof=1))


def _permutation_p(
    measure: Measure,
    sets: list[Tensor],
    units: list[Tensor],
    value: float,
    num_permutations: int,
    alternative: Literal["greater", "less"],
    seed: int,
) -> float:
    if alternative not in ("greater", "less"):
        raise ValueError(f"alternative must be greater or less, not {alternative!r}")
    sizes = {len(unit) for unit in units}
    if len(sizes) > 1:
        raise ValueError(f"only groups of equal size can be permuted; there are groups of {min(sizes)} to {max(sizes)}")
    x, y = sets
    unit_US = torch.stack(units)
    sign = 1 if alternative == "greater" else -1
    threshold = sign * value - ROUNDING * abs(value)
    generator = torch.Generator().manual_seed(seed)
    extreme = 0
    for _ in range(num_permutations):
        rows = torch.empty(len(x), dtype=torch.int64)
        rows[unit_US] = unit_US[torch.randperm(len(units), generator=generator)]
        extreme += sign * measure(x, y[rows]) >= threshold
    return (1 + extreme) / (1 + num_permutations)
