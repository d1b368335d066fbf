"""Minibatch CKA against a plain loop over batches, brute force and simulation."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from cka_layers import normal, related, states

from xbridge.ops.hsic import hsic_of_grams
from xbridge.similarity import MinibatchSums, cka, cka_matrix


def by_a_plain_loop(x, y, cuts, estimator="unbiased"):
    """sum_b n_b HSIC_b(K, L) / sqrt(sum_b n_b HSIC_b(K, K) sum_b n_b HSIC_b(L, L))"""
    sums = np.zeros(3)
    for start, stop in pairwise(cuts):
        k, m = (z[start:stop] @ z[start:stop].T for z in (x - x.mean(0), y - y.mean(0)))
        sums += [(stop - start) * float(hsic_of_grams(p, q, estimator)) for p, q in ((k, m), (k, k), (m, m))]
    return sums[0] / np.sqrt(sums[1] * sums[2])


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
@pytest.mark.parametrize(("n", "cuts"), [(64, [0, 32, 64]), (70, [0, 32, 64, 70]), (67, [0, 32, 67]), (20, [0, 20])])
def test_sums_over_batches_are_those_of_a_loop_and_no_row_is_left_out(n, cuts, estimator):
    x, y = related(n, 7, 40)
    value = cka(x, y, engine="minibatch", batch_size=32, estimator=estimator)
    assert value == pytest.approx(by_a_plain_loop(x, y, cuts, estimator), abs=1e-12)


def test_one_batch_is_the_whole_sample():
    layers = related(50, 3, 60, 8)
    assert np.allclose(cka_matrix(layers, engine="minibatch", batch_size=50), cka_matrix(layers), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", ["linear", "rbf", "laplacian", "cosine"])
def test_chunks_do_not_matter(kernel):
    layers = [x.float() for x in related(150, 5, 30)]
    whole = MinibatchSums([5, 30], batch_size=32, kernel=kernel)
    whole.update(layers)
    parts = MinibatchSums([5, 30], batch_size=32, kernel=kernel)
    for start in range(0, 150, 7):
        parts.update([x[start : start + 7] for x in layers])
    assert np.array_equal(parts.cka(), whole.cka())
    assert parts.num_batches == whole.num_batches == 5
    assert np.array_equal(parts.stderr(), whole.stderr())


def test_whole_batches_merge_and_survive_a_file(tmp_path):
    layers = related(128, 5, 9)
    whole = MinibatchSums([5, 9], batch_size=32)
    whole.update(layers)
    first, second = MinibatchSums([5, 9], batch_size=32), MinibatchSums([5, 9], batch_size=32)
    first.update([x[:64] for x in layers])
    second.update([x[64:] for x in layers])
    first.merge(second)
    assert np.allclose(first.cka(), whole.cka(), rtol=0, atol=1e-13)
    assert np.allclose(first.stderr(), whole.stderr(), rtol=1e-12)
    first.save(tmp_path / "sums.safetensors")
    assert np.array_equal(MinibatchSums.load(tmp_path / "sums.safetensors").cka(), first.cka())


def test_float32_input_loses_less_than_1e_8_even_near_zero_and_far_from_the_origin():
    for ratio in (0, 20, 400):
        x, y = states(1024, 96, ratio, seed=1).float(), normal(1024, 64, seed=9).float() + ratio
        exact = cka(x.double(), y.double(), engine="minibatch", batch_size=128)
        assert cka(x, y, engine="minibatch", batch_size=128) == pytest.approx(exact, abs=2e-8)


def test_standard_error_is_the_spread_over_samples():
    values, errors = [], []
    for seed in range(120):
        latent = normal(480, 3, seed=5000 + seed)
        x, y = (latent @ normal(3, d, seed=d) + normal(480, d, seed=seed * 7 + d) for d in (6, 9))
        value, error = cka(x, y, engine="minibatch", batch_size=16, return_stderr=True)
        values.append(value)
        errors.append(error)
    spread = np.std(values, ddof=1)
    assert np.mean(errors) == pytest.approx(spread, rel=0.25)  # 120 samples know a spread to 6.5 %, times three


def test_errors_say_what_to_change():
    x, y = related(30, 3, 5)
    with pytest.raises(ValueError, match="batch_size must be at least 4"):
        cka(x, y, engine="minibatch", batch_size=3)
    with pytest.raises(ValueError, match="at least two of them; use a smaller batch_size"):
        cka(x, y, engine="minibatch", batch_size=30, return_stderr=True)
    with pytest.raises(ValueError, match='batch_size is for engine="minibatch"'):
        cka(x, y, batch_size=8)
    x[21, 1] = float("nan")
    with pytest.raises(ValueError, match="x: row 21 holds NaN or infinity"):
        cka(x, y, engine="minibatch", batch_size=8)
    assert torch.isfinite(y).all()


def test_streams_with_medians_of_their_own_do_not_add_up():
    first, second = MinibatchSums([3, 5], kernel="rbf", batch_size=8), MinibatchSums([3, 5], kernel="rbf", batch_size=8)
    for sums in (first, second):
        sums.update(related(20, 3, 5))
    with pytest.raises(ValueError, match="give a number"):
        first.merge(second)
