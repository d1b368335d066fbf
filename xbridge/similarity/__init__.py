"""Measures of similarity between sets of activations, as plain functions, and their streaming sums."""

from xbridge.ops.margin_topk import margin_scores, nearest
from xbridge.similarity.cka import cka, cka_matrix, cka_permutation_test
from xbridge.similarity.isotropy import isoscore, mean_cosine
from xbridge.similarity.moments import SecondMoments
from xbridge.similarity.neighbours import mutual_knn, mutual_knn_matrix, rsa
from xbridge.similarity.subspaces import cca, procrustes, pwcca, svcca

__all__ = [
    "SecondMoments",
    "cca",
    "cka",
    "cka_matrix",
    "cka_permutation_test",
    "isoscore",
    "margin_scores",
    "mean_cosine",
    "mutual_knn",
    "mutual_knn_matrix",
    "nearest",
    "procrustes",
    "pwcca",
    "rsa",
    "svcca",
]
