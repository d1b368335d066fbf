"""Measures of similarity between sets of activations, as plain functions, and their streaming sums."""

from xbridge.ops.margin_topk import margin_scores, nearest, nearest_both_ways
from xbridge.similarity.alignment import anc, anc_absolute, linear_r2, linear_r2_matrix, max_correlation
from xbridge.similarity.cka import cka, cka_matrix
from xbridge.similarity.dimension import effective_rank, participation_ratio, spectrum, two_nn
from xbridge.similarity.dissimilarity import rsa, rsa_matrix, rsa_spearman
from xbridge.similarity.distances import distance_correlation, frechet_distance, squared_mmd
from xbridge.similarity.gram import GramSums
from xbridge.similarity.hubness import hubness_skewness, k_occurrence, robin_hood_index
from xbridge.similarity.inference import Estimate, benjamini_hochberg, estimate, paired_difference
from xbridge.similarity.isotropy import isoscore, isoscore_star, mean_cosine, partition_isotropy
from xbridge.similarity.minibatch import MinibatchSums
from xbridge.similarity.moments import SecondMoments
from xbridge.similarity.neighbours import cknna, cycle_knn, knn_jaccard, mutual_knn, mutual_knn_matrix
from xbridge.similarity.permutation import cka_matrix_permutation_test, cka_permutation_test
from xbridge.similarity.subspaces import (
    canonical_correlations,
    cca,
    cca_matrix,
    normalised_bures,
    principal_angles,
    procrustes,
    procrustes_angle,
    procrustes_distance,
    procrustes_matrix,
    pwcca,
    pwcca_matrix,
    svcca,
    svcca_matrix,
)

__all__ = [
    "Estimate",
    "GramSums",
    "MinibatchSums",
    "SecondMoments",
    "anc",
    "anc_absolute",
    "benjamini_hochberg",
    "canonical_correlations",
    "cca",
    "cca_matrix",
    "cka",
    "cka_matrix",
    "cka_matrix_permutation_test",
    "cka_permutation_test",
    "cknna",
    "cycle_knn",
    "distance_correlation",
    "effective_rank",
    "estimate",
    "frechet_distance",
    "hubness_skewness",
    "isoscore",
    "isoscore_star",
    "k_occurrence",
    "knn_jaccard",
    "linear_r2",
    "linear_r2_matrix",
    "margin_scores",
    "max_correlation",
    "mean_cosine",
    "mutual_knn",
    "mutual_knn_matrix",
    "nearest",
    "nearest_both_ways",
    "normalised_bures",
    "paired_difference",
    "participation_ratio",
    "partition_isotropy",
    "principal_angles",
    "procrustes",
    "procrustes_angle",
    "procrustes_distance",
    "procrustes_matrix",
    "pwcca",
    "pwcca_matrix",
    "robin_hood_index",
    "rsa",
    "rsa_matrix",
    "rsa_spearman",
    "spectrum",
    "squared_mmd",
    "svcca",
    "svcca_matrix",
    "two_nn",
]
