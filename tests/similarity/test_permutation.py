"""Permutation p-values of CKA against brute force."""

import numpy as np
import pytest
import torch
from cka_layers import normal, related

from xbridge.similarity import cka_matrix, cka_matrix_permutation_test


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_p_values_are_the_rank_among_recomputed_permutations(estimator, kernel):
    a, b = [normal(25, 4, seed=1), related(25, 5)[0]], [related(25, 6, seed=2)[0], related(25, 3, 7)[1]]
    options = {"estimator": estimator, "kernel": kernel, "bandwidth": 2.5}
    value, p_value = cka_matrix_permutation_test(a, b, **options, num_permutations=39, seed=4)
    assert np.array_equal(value, cka_matrix(a, b, **options))
    generator, at_least = torch.Generator().manual_seed(4), np.ones((2, 2))
    for _ in range(39):
        order = torch.randperm(25, generator=generator)
        at_least += cka_matrix(a, [y[order] for y in b], **options) >= value
    assert np.allclose(p_value, at_least / 40)


def test_a_layer_without_variation_between_rows_has_no_p_value():
    with pytest.warns(RuntimeWarning, match="HSIC with itself is zero"):
        _, p_value = cka_matrix_permutation_test(
            [torch.eye(8, dtype=torch.float64), normal(8, 3)], [normal(8, 2)], num_permutations=5
        )
    assert np.isnan(p_value[0, 0])
    assert p_value[1, 0] > 0


def test_too_many_rows_are_refused_before_memory_is_taken():
    with pytest.raises(ValueError, match="sample rows"):
        cka_matrix_permutation_test([torch.zeros(200_000, 1)], num_permutations=1)
