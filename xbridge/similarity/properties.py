"""What each measure is: one table of declared facts.

Ranges, values of identical inputs, symmetry, the triangle inequality, and what changes a value and what does not are
property tests, the things that are not so by a counterexample each.

`describe()` prints the table as Markdown, for the documentation and for a choice between measures:

    python -c "from xbridge.similarity.properties import describe; print(describe())"
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from xbridge.similarity.alignment import anc, anc_absolute, linear_r2, max_correlation
from xbridge.similarity.cka import cka
from xbridge.similarity.dimension import effective_rank, participation_ratio, two_nn
from xbridge.similarity.dissimilarity import rsa, rsa_spearman
from xbridge.similarity.distances import distance_correlation, frechet_distance, squared_mmd
from xbridge.similarity.hubness import hubness_skewness, robin_hood_index
from xbridge.similarity.isotropy import isoscore, mean_cosine, partition_isotropy
from xbridge.similarity.neighbours import cknna, cycle_knn, knn_jaccard, mutual_knn
from xbridge.similarity.subspaces import (
    cca,
    normalised_bures,
    procrustes,
    procrustes_angle,
    procrustes_distance,
    pwcca,
    svcca,
)

Change: TypeAlias = Literal["shift", "scale", "rotation", "feature scale", "linear map"]
"""shift: the same vector added to all rows; scale: all values times a positive number; rotation: any orthogonal map of
the features, reflections too; feature scale: each feature times a positive number of its own; linear map: any
invertible map of the features."""

CHANGES: tuple[Change, ...] = ("shift", "scale", "rotation", "feature scale", "linear map")
MOTIONS: frozenset[Change] = frozenset({"shift", "scale", "rotation"})
LINEAR: frozenset[Change] = frozenset(CHANGES)
PER_FEATURE: frozenset[Change] = frozenset({"shift", "scale", "feature scale"})
DIRECTIONS: frozenset[Change] = frozenset({"scale", "rotation"})
INFINITY = math.inf


@dataclass(frozen=True)
class Facts:
    """Declared facts of one measure. No measure depends on the order of the rows (of both sides at once, where they are
    paired)."""

    name: str
    """Its name in `xbridge.similarity`, with the options it takes here."""
    function: Callable[..., float]
    source: str
    """Author, year."""
    chance: str
    """What to expect of independent inputs (of one set: of an isotropic normal one)."""
    compares: Literal["paired rows", "two sets", "one set"] = "paired rows"
    options: Mapping[str, Any] = field(default_factory=dict)
    low: float = 0.0
    high: float = 1.0
    more_is: Literal["more similar", "less similar", "isotropy", "anisotropy", "dimension", "hubness"] = "more similar"
    identical: float | None = 1.0
    """Value of x against x; None where it depends on x."""
    symmetric: bool = True
    is_metric: bool = False
    """Zero for x against x, symmetric, and the triangle inequality holds."""
    unchanged_x: frozenset[Change] = MOTIONS
    """Changes of x alone that leave the value as it is; of both sides by the same map for "two sets"."""
    unchanged_y: frozenset[Change] | None = None
    """Changes of y alone; None: the same as of x."""
    plug_in: bool = True
    """A function of the empirical distribution: unchanged when every row occurs twice. A bootstrap needs that."""
    cost: str = "n d^2"
    """Leading cost; memory is O(n d + d^2), or O(n d) where the cost has n^2 d."""

    def __call__(self, *sets: Any) -> float:
        """The measure with its options, of x and y or of x alone."""
        return self.function(*sets, **self.options)


MEASURES: tuple[Facts, ...] = (
    Facts(
        "cka", cka, "Kornblith et al., 2019; Song et al., 2012", "0, sometimes negative",
        low=-1.0, plug_in=False,
    ),
    Facts(
        "cka(estimator='biased')", cka, "Kornblith et al., 2019", "grows with d / n", options={"estimator": "biased"},
    ),
    Facts(
        "cka(kernel='rbf')", cka, "Kornblith et al., 2019", "0, sometimes negative",
        options={"kernel": "rbf"}, low=-1.0, plug_in=False, cost="n^2 d",
    ),
    Facts(
        "cka(kernel='cosine')", cka, "Kornblith et al., 2019", "0, sometimes negative",
        options={"kernel": "cosine"}, low=-1.0, plug_in=False, unchanged_x=DIRECTIONS,
    ),
    Facts("cca", cca, "Hotelling, 1936; Raghu et al., 2017", "grows with d / n, 1 at d >= n - 1", unchanged_x=LINEAR),
    Facts("svcca", svcca, "Raghu et al., 2017", "grows with kept components / n"),
    Facts(
        "pwcca", pwcca, "Morcos et al., 2018", "grows with d / n, 1 at d >= n - 1",
        symmetric=False, unchanged_x=frozenset({"shift", "scale"}), unchanged_y=LINEAR,
    ),
    Facts(
        "pwcca(weights='y')", pwcca, "Morcos et al., 2018", "grows with d / n, 1 at d >= n - 1",
        options={"weights": "y"}, symmetric=False, unchanged_x=LINEAR, unchanged_y=frozenset({"shift", "scale"}),
    ),
    Facts("procrustes", procrustes, "Ding et al., 2021", "grows with d / n"),
    Facts("normalised_bures", normalised_bures, "Tang et al., 2020", "grows with d / n"),
    Facts(
        "procrustes_distance", procrustes_distance, "Williams et al., 2021", "below sqrt 2, falls with d / n",
        high=math.sqrt(2), more_is="less similar", identical=0.0, is_metric=True,
    ),
    Facts(
        "procrustes_angle", procrustes_angle, "Williams et al., 2021", "below pi / 2, falls with d / n",
        high=math.pi / 2, more_is="less similar", identical=0.0, is_metric=True,
    ),
    Facts(
        "linear_r2", linear_r2, "Kornblith et al., 2019", "d1 / (n - 1)",
        symmetric=False, unchanged_x=LINEAR, unchanged_y=MOTIONS,
    ),
    Facts(
        "linear_r2(ridge=0.1)", linear_r2, "Hoerl and Kennard, 1970", "grows with d1 / n",
        options={"ridge": 0.1}, identical=None, symmetric=False,
    ),
    Facts(
        "linear_r2(leave_one_out=True)", linear_r2, "Allen, 1974", "below 0",
        options={"leave_one_out": True}, low=-INFINITY, symmetric=False, plug_in=False,
        unchanged_x=LINEAR, unchanged_y=MOTIONS,
    ),
    Facts("anc", anc, "Del and Fishel, 2022", "0", low=-1.0, unchanged_x=PER_FEATURE, cost="n d"),
    Facts(
        "anc_absolute", anc_absolute, "Del and Fishel, 2022", "sqrt(2 / (pi (n - 2)))",
        unchanged_x=PER_FEATURE, cost="n d",
    ),
    Facts(
        "max_correlation", max_correlation, "Li et al., 2016", "sqrt(2 ln(d2) / n)",
        symmetric=False, unchanged_x=PER_FEATURE,
    ),
    Facts("rsa", rsa, "Kriegeskorte et al., 2008", "0", low=-1.0, plug_in=False),
    Facts(
        "rsa(distance='cosine')", rsa, "Kriegeskorte et al., 2008", "0",
        options={"distance": "cosine"}, low=-1.0, plug_in=False, unchanged_x=DIRECTIONS,
    ),
    Facts("rsa_spearman", rsa_spearman, "Kriegeskorte et al., 2008", "0", low=-1.0, plug_in=False, cost="n^2 d"),
    Facts(
        "distance_correlation", distance_correlation, "Székely and Rizzo, 2014", "0, sometimes negative",
        low=-1.0, plug_in=False, cost="n^2 d",
    ),
    Facts(
        "distance_correlation(estimator='biased')", distance_correlation, "Székely et al., 2007", "grows with d / n",
        options={"estimator": "biased"}, cost="n^2 d",
    ),
    Facts("mutual_knn", mutual_knn, "Huh et al., 2024", "k / (n - 1)", plug_in=False, cost="n^2 d"),
    Facts("knn_jaccard", knn_jaccard, "Wang et al., 2022", "about k / (2 n)", plug_in=False, cost="n^2 d"),
    Facts("cknna", cknna, "Huh et al., 2024", "about k / n", low=-1.0, plug_in=False, cost="n^2 d"),
    Facts(
        "cycle_knn(k=2)", cycle_knn, "Huh et al., 2024", "about k^2 / n", options={"k": 2},
        identical=None, symmetric=False, plug_in=False, cost="n^2 d",
    ),
    Facts(
        "squared_mmd", squared_mmd, "Gretton et al., 2012", "0 for equal distributions, sometimes negative",
        compares="two sets", low=-INFINITY, high=INFINITY, more_is="less similar", identical=None, plug_in=False,
        cost="n^2 d",
    ),
    Facts(
        "squared_mmd(kernel='linear')", squared_mmd, "Gretton et al., 2012", "0 for equal means, sometimes negative",
        options={"kernel": "linear"}, compares="two sets", low=-INFINITY, high=INFINITY, more_is="less similar",
        identical=None, unchanged_x=frozenset({"shift", "rotation"}), plug_in=False, cost="n d",
    ),
    Facts(
        "frechet_distance", frechet_distance, "Dowson and Landau, 1982", "falls to 0 with n for equal distributions",
        compares="two sets", high=INFINITY, more_is="less similar", identical=0.0, is_metric=True,
        unchanged_x=frozenset({"shift", "rotation"}), cost="n d^2 + d^3",
    ),
    Facts(
        "mean_cosine", mean_cosine, "Ethayarajh, 2019", "0",
        compares="one set", low=-1.0, more_is="anisotropy", unchanged_x=DIRECTIONS, plug_in=False, cost="n d",
    ),
    Facts("isoscore", isoscore, "Rudman et al., 2022", "1 for n >> d", compares="one set", more_is="isotropy"),
    Facts(
        "partition_isotropy", partition_isotropy, "Mu and Viswanath, 2018", "1 for n >> d",
        compares="one set", more_is="isotropy", unchanged_x=frozenset({"rotation"}),
    ),
    Facts(
        "participation_ratio", participation_ratio, "Abbott et al., 2011", "1 / (1 / d + 1 / n)",
        compares="one set", low=1.0, high=INFINITY, more_is="dimension",
    ),
    Facts(
        "effective_rank", effective_rank, "Roy and Vetterli, 2007", "d for n >> d",
        compares="one set", low=1.0, high=INFINITY, more_is="dimension",
    ),
    Facts(
        "two_nn", two_nn, "Facco et al., 2017", "d for small d",
        compares="one set", high=INFINITY, more_is="dimension", plug_in=False, cost="n^2 d",
    ),
    Facts(
        "hubness_skewness", hubness_skewness, "Radovanović et al., 2010", "0 for small d, grows with d",
        compares="one set", low=-INFINITY, high=INFINITY, more_is="hubness", unchanged_x=DIRECTIONS, plug_in=False,
        cost="n^2 d",
    ),
    Facts(
        "robin_hood_index", robin_hood_index, "Feldbauer et al., 2018", "grows with d",
        compares="one set", more_is="hubness", unchanged_x=DIRECTIONS, plug_in=False, cost="n^2 d",
    ),
)  # fmt: skip


def describe() -> str:
    """The table as Markdown: one line per measure."""
    head = [
        "measure", "compares", "range", "x with x", "more is", "unchanged by", "symmetric", "independent inputs",
        "bootstrap", "cost", "source",
    ]  # fmt: skip
    lines = [head, ["---"] * len(head), *(_cells(facts) for facts in MEASURES)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def _cells(facts: Facts) -> list[str]:
    one = facts.compares == "one set"
    return [
        f"`{facts.name}`",
        facts.compares,
        _range(facts.low, facts.high),
        "" if one or facts.identical is None else f"{facts.identical:g}",
        facts.more_is,
        _unchanged(facts),
        "" if one else ("a metric" if facts.is_metric else ("yes" if facts.symmetric else "no")),
        facts.chance,
        "valid" if facts.plug_in else "no",
        facts.cost,
        facts.source,
    ]


def _range(low: float, high: float) -> str:
    left = "(-inf" if low == -INFINITY else f"[{low:g}"
    return f"{left}, inf)" if high == INFINITY else f"{left}, {high:.4g}]"


def _unchanged(facts: Facts) -> str:
    def listed(changes: frozenset[Change]) -> str:
        return "linear map, shift" if changes == LINEAR else ", ".join(c for c in CHANGES if c in changes)

    if facts.unchanged_y is None or facts.unchanged_y == facts.unchanged_x:
        return listed(facts.unchanged_x)
    return f"x: {listed(facts.unchanged_x)}; y: {listed(facts.unchanged_y)}"
