"""CKA against its definition, closed forms, brute force and simulation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xbridge.ops import gram_sums
from xbridge.ops.hsic import hsic_of_grams
from xbridge.similarity import cka, cka_matrix, cka_permutation_test, jackknife

ENGINES = ("gram", "moments")
ESTIMATORS = ("unbiased", "biased")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(n: int, *dims: int, seed: int = 0) -> list[torch.Tensor]:
    """Layers that share three latent factors."""
    latent = normal(n, 3, seed=seed)
    return [latent @ normal(3, d, seed=seed + 10 + i) + normal(n, d, seed=seed + 20 + i) for i, d in enumerate(dims)]


def definition(x: torch.Tensor, y: torch.Tensor, estimator: str) -> float:
    grams = [(z - z.mean(0)) @ (z - z.mean(0)).T for z in (x, y)]
    xy, xx, yy = (hsic_of_grams(grams[i], grams[j], estimator) for i, j in ((0, 1), (0, 0), (1, 1)))
    return float(xy / (xx * yy).sqrt())


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("n", [5, 23, 200])
def test_both_engines_equal_the_definition(monkeypatch, engine, estimator, n):
    monkeypatch.setattr(gram_sums, "BLOCK_BYTES", 8 * 5 * n * 7)
    a, b = related(n, 3, 40, 7), related(n, 5, 2, seed=1)
    matrix = cka_matrix(a, b, engine=engine, estimator=estimator)
    expected = [[definition(x, y, estimator) for y in b] for x in a]
    assert np.allclose(matrix, expected, rtol=0, atol=1e-12)


def test_gaussian_cka_is_recovered_within_its_standard_error():
    """Population: |S_xy|_F^2 / (|S_xx|_F |S_yy|_F)."""
    loadings_x, loadings_y = normal(3, 6, seed=1), normal(3, 4, seed=2)
    cross = loadings_x.T @ loadings_y
    own_x, own_y = loadings_x.T @ loadings_x + torch.eye(6), loadings_y.T @ loadings_y + torch.eye(4)
    truth = float(cross.square().sum() / (own_x.norm() * own_y.norm()))
    latent = normal(3000, 3, seed=3)
    x, y = latent @ loadings_x + normal(3000, 6, seed=4), latent @ loadings_y + normal(3000, 4, seed=5)
    value, error = cka(x, y, return_stderr=True)
    assert error < 0.02
    assert abs(value - truth) < 3 * error


@pytest.mark.parametrize("kernel", ["linear", "rbf", "laplacian", "cosine"])
def test_unbiased_cka_of_independent_inputs_is_near_zero_and_biased_is_not(kernel):
    values = [
        [cka(normal(60, 50, seed=s), normal(60, 50, seed=s + 500), kernel=kernel, estimator=e) for e in ESTIMATORS]
        for s in range(30)
    ]
    mean, spread = np.mean(values, 0), np.std(values, 0, ddof=1) / 30**0.5
    assert abs(mean[0]) < 3.5 * spread[0]
    assert mean[1] > 0.3
    assert min(v[0] for v in values) < 0  # nothing is clamped


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    d=st.integers(1, 12),
    log_scale=st.floats(-4, 4),
    offset=st.floats(-1000, 1000),
    kernel=st.sampled_from(["linear", "rbf", "laplacian"]),
    estimator=st.sampled_from(ESTIMATORS),
)
def test_invariant_to_rotation_scale_shift_order_and_side(seed, d, log_scale, offset, kernel, estimator):
    x, y = related(30, d, 5, seed=seed)
    rotation = torch.linalg.qr(normal(d, d, seed=seed + 1)).Q
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    moved = (x @ rotation * 10**log_scale + offset)[order]
    options = {"kernel": kernel, "estimator": estimator}
    value = cka(x, y, **options)
    assert cka(moved, y[order], **options) == pytest.approx(value, abs=1e-7)
    assert cka(y, x, **options) == pytest.approx(value, abs=1e-12)
    assert cka(moved, x[order], **options) == pytest.approx(1, abs=1e-7)


def stress_sets() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Power-law features with offsets of r times the spread, large shifts and scales, wide and tall, rogue features."""

    def states(n, d, r, seed):
        x = related(n, d, seed=seed)[0] * torch.arange(1, d + 1) ** -0.5
        direction = normal(d, seed=seed + 1)
        return x + r * x.var(0).sum().sqrt() * direction / direction.norm()

    def rogue(x, seed):
        x = x.clone()
        x[:, :4] += 100 * (1 + seed) * x[:, :4].std(0)
        return x

    pairs = {f"offset {r}": (states(48, 40, r, 1), states(48, 24, r, 2)) for r in (1.7, 5, 20, 50, 400)}
    base = states(48, 40, 1, 1), states(48, 24, 1, 2)
    pairs["shift 1000"] = base[0] + 1000, base[1] + 1000
    pairs["scales"] = base[0] * 1e-6, base[1] * 1e6
    pairs["wide"] = states(24, 384, 5, 3), states(24, 384, 5, 4)
    pairs["tall"] = states(300, 3, 5, 3), states(300, 3, 5, 4)
    pairs["rogue"] = rogue(base[0], 0), rogue(base[1], 2)
    return pairs


def in_long_double(x: torch.Tensor, y: torch.Tensor) -> float:
    def gram(z):
        z = z.to(torch.float64).numpy().astype(np.longdouble)
        z = z - z.mean(0)
        k = z @ z.T
        np.fill_diagonal(k, 0)
        return k

    def hsic(k, m):
        n = len(k)
        total = k.sum() * m.sum() / ((n - 1) * (n - 2))
        return ((k * m).sum() + total - 2 / np.longdouble(n - 2) * (k.sum(0) @ m.sum(0))) / (n * (n - 3))

    k, m = gram(x), gram(y)
    return float(hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m)))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", list(stress_sets()))
def test_stress_sets_keep_twelve_digits_of_the_given_numbers(name, dtype, engine):
    x, y = (z.to(dtype) for z in stress_sets()[name])
    if (name, dtype) == ("scales", torch.float16):
        y = x * 1000  # 1e6 is beyond float16
    assert cka(x, y, engine=engine) == pytest.approx(in_long_double(x, y), abs=1e-11)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_standard_error_is_the_brute_force_jackknife(monkeypatch, engine, estimator):
    monkeypatch.setattr(gram_sums, "BLOCK_BYTES", 8 * 5 * 25 * 7)
    monkeypatch.setattr(jackknife, "BLOCK_ROWS", 7)
    a, b = related(25, 3, 30), related(25, 4, 6, 2, seed=1)
    left_out = np.array(
        [
            cka_matrix(
                [np.delete(x.numpy(), i, 0) for x in a], [np.delete(y.numpy(), i, 0) for y in b], estimator=estimator
            )
            for i in range(25)
        ]
    )
    brute = np.sqrt(24 / 25 * ((left_out - left_out.mean(0)) ** 2).sum(0))
    _, error = cka_matrix(a, b, estimator=estimator, engine=engine, return_stderr=True)
    assert np.allclose(error, brute, rtol=1e-9)
    _, own = cka_matrix([*a, *b], estimator=estimator, engine=engine, return_stderr=True)
    assert np.allclose(own[:2, 2:], brute, rtol=1e-9)
    assert np.allclose(own.diagonal(), 0, atol=1e-8)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_grouped_standard_error_leaves_out_whole_groups(monkeypatch, estimator, kernel):
    monkeypatch.setattr(gram_sums, "BLOCK_BYTES", 8 * 2 * 24 * 7)
    x, y = related(24, 3, 5)
    groups = torch.tensor([7, 2, 2, 9, 9, 9] * 4)
    keep = [groups != g for g in (2, 7, 9)]
    options = {"estimator": estimator, "kernel": kernel, "bandwidth": 2.0}
    left_out = np.array([cka(x[k], y[k], **options) for k in keep])
    _, error = cka(x, y, **options, groups=groups, return_stderr=True)
    assert error == pytest.approx(np.sqrt(2 / 3 * ((left_out - left_out.mean()) ** 2).sum()), rel=1e-9)


def test_standard_error_covers_the_population_value():
    """Nominal 95 % intervals over 300 samples of n = 150: binomial 3-sigma band around the nominal rate."""
    loadings = normal(2, 4, seed=1), normal(2, 3, seed=2)
    owns = [w.T @ w + torch.eye(w.shape[1]) for w in loadings]
    truth = float((loadings[0].T @ loadings[1]).square().sum() / (owns[0].norm() * owns[1].norm()))
    hits = []
    for seed in range(300):
        latent = normal(150, 2, seed=1000 + seed)
        x, y = (latent @ w + normal(150, w.shape[1], seed=s * 10_000 + seed) for s, w in enumerate(loadings, 1))
        value, error = cka(x, y, return_stderr=True)
        hits.append(abs(value - truth) < 1.96 * error)
    assert 0.90 < np.mean(hits) < 0.99


def test_permutation_test_is_uniform_under_independence_and_small_otherwise():
    p_values = [
        cka_permutation_test(normal(20, 3, seed=s), normal(20, 30, seed=s + 99), num_permutations=39, seed=s)[1]
        for s in range(100)
    ]
    assert 0.38 < np.mean(p_values) < 0.65
    assert np.mean(np.array(p_values) <= 0.1) < 0.2
    value, p_value = cka_permutation_test(*related(40, 4, 60), num_permutations=199)
    assert p_value == 1 / 200
    assert value == cka(*related(40, 4, 60))


def test_degenerate_input_is_refused_by_name():
    x = normal(10, 3)
    with pytest.raises(ValueError, match=r"encoder\.1: all 10 rows are equal"):
        cka_matrix({"encoder.0": x, "encoder.1": torch.full((10, 2), 0.1)})
    broken = x.clone()
    broken[7, 0] = float("inf")
    with pytest.raises(ValueError, match="layer 1 of b: row 7 holds NaN or infinity"):
        cka_matrix([x], [x, broken])
    with pytest.raises(ValueError, match="3 examples: the unbiased estimator needs at least 4"):
        cka(x[:3], x[:3])
    with pytest.raises(ValueError, match="needs at least 5"):
        cka(x[:4], x[:4], return_stderr=True)
    with pytest.raises(ValueError, match="y has 9 rows, x has 10"):
        cka(x, x[:9])


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_equally_far_apart_have_no_unbiased_cka_and_the_layer_is_named(engine):
    simplex = torch.eye(7, dtype=torch.float64) * 3 + 50
    with pytest.warns(RuntimeWarning, match="layer 0 of a"):
        matrix = cka_matrix([simplex, normal(7, 2)], engine=engine)
    assert np.isnan(matrix[0]).all()
    assert matrix[1, 1] == pytest.approx(1)
    assert cka(simplex, normal(7, 2), estimator="biased", engine=engine) > 0


def test_user_kernel_and_pair_of_bandwidths():
    x, y = related(30, 3, 5)
    tile = gram_sums.rbf_tile(1.5)
    assert cka(x, y, kernel=tile) == pytest.approx(cka(x, y, kernel="rbf", bandwidth=1.5), abs=1e-12)
    assert cka(x, x * 2, kernel="rbf", bandwidth=(1.5, 3.0)) == pytest.approx(1)


def test_input_that_requires_grad_is_detached_and_views_are_fine():
    x = normal(20, 6).requires_grad_()
    assert cka(x, x.detach().numpy()[:, ::-1]) == pytest.approx(1)
