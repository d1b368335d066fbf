"""Hubness: in high dimension a few rows are the nearest neighbour of very many others, which spoils retrieval.

With N_j the number of queries that have row j among their k nearest (mean k m / n for m queries and n rows), hubness is
how unevenly N is spread. Rows are used as they are, not centred: hubs are often what a common offset causes, and
centring (or a margin score, `margin_scores`) is the cure that one may want to measure.
"""

import torch
from torch import Tensor

from xbridge.ops.margin_topk import Metric, nearest
from xbridge.similarity.rows import Rows, as_rows


def k_occurrence(x: Rows, queries: Rows | None = None, *, k: int = 10, metric: Metric = "cosine") -> Tensor:
    """How often each row of x is among the k nearest of a query: (n,) int64, summing to k times the queries.

    x: (n, d); queries: (m, d), rows of another set (translations, say), or None for x itself, where a row is not its
    own neighbour. Ties go to the lowest index. ValueError unless k is less than n (k <= n with queries).
    """
    rows = as_rows(x, "x")
    asked = rows if queries is None else as_rows(queries, "queries")
    most = len(rows) - 1 if queries is None else len(rows)
    if not 1 <= k <= most:
        raise ValueError(f"k must be from 1 to {most}, got {k}")
    _, indices = nearest(asked, rows, k, metric=metric, exclude_self=queries is None)
    return torch.bincount(indices.flatten(), minlength=len(rows))


def hubness_skewness(x: Rows, queries: Rows | None = None, *, k: int = 10, metric: Metric = "cosine") -> float:
    """Skewness of the k-occurrence, E (N - mean)^3 / sd^3 (Radovanović et al., 2010, equation 1): 0 is no hubness.

    Values above 1 are usually called hubness. NaN is never returned: 0 where every row occurs equally often. Options
    as in `k_occurrence`.
    """
    counts = k_occurrence(x, queries, k=k, metric=metric).double()
    deviation = counts - counts.mean()
    variance = deviation.square().mean()
    return float(deviation.pow(3).mean() / variance**1.5) if variance > 0 else 0.0


def robin_hood_index(x: Rows, queries: Rows | None = None, *, k: int = 10, metric: Metric = "cosine") -> float:
    """Share of all k-occurrences that would have to move for every row to occur equally often, in [0, 1).

    sum_j |N_j - mean| / (2 sum_j N_j) (Hoover, 1936; Feldbauer et al., 2018). Options as in `k_occurrence`.
    """
    counts = k_occurrence(x, queries, k=k, metric=metric).double()
    return float((counts - counts.mean()).abs().sum() / (2 * counts.sum()))
