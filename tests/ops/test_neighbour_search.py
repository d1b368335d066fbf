"""The search by float32 blocks and error bounds gives the answer of extended precision, whatever the data.

Oracle: numpy's long double (64-bit significand), one fixed order of summation, stable sort.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xbridge.ops import neighbour_search
from xbridge.ops.factor_rows import factor_rows
from xbridge.ops.margin_topk import margin_scores, nearest, nearest_both_ways
from xbridge.ops.native import why_unavailable
from xbridge.ops.neighbour_search import screened
from xbridge.ops.pair_products import pair_products
from xbridge.ops.pair_scores import pair_scores
from xbridge.ops.scan_products import Terms, new_lists, scan_products

native = pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable() or "available")
BACKENDS = [pytest.param("native", marks=native), "reference"]
METRICS = ["cosine", "dot", "euclidean"]
TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def oracle_scores(x, y, metric):
    """(n, m) long double, larger is nearer."""
    x, y = (z.double().numpy().astype(np.longdouble) for z in (x, y))
    if metric == "euclidean":
        return -np.sqrt(np.square(x[:, None] - y[None]).sum(2))
    products = (x[:, None] * y[None]).sum(2)
    if metric == "dot":
        return products
    return products / np.sqrt(np.square(x).sum(1)[:, None] * np.square(y).sum(1)[None])


def oracle(x, y, k, metric="cosine", *, exclude_self=False):
    scores = oracle_scores(x, y, metric)
    if exclude_self:
        np.fill_diagonal(scores, -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return torch.from_numpy(np.take_along_axis(scores, order, 1).astype(np.float64)), torch.from_numpy(order)


def check(x, y, k, metric="cosine", backend="auto", **options):
    scores, indices = nearest(x, y, k, metric=metric, backend=backend, **options)
    expected_scores, expected = oracle(x, y, k, metric, **options)
    assert torch.equal(indices, expected)
    expected_scores = -expected_scores if metric == "euclidean" else expected_scores
    torch.testing.assert_close(scores, expected_scores, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("n", "m", "d", "k"), [(1, 1, 1, 1), (3, 200, 2, 5), (130, 67, 17, 100), (70, 300, 65, 4)])
def test_nearest_is_that_of_extended_precision(backend, metric, n, m, d, k):
    check(normal(n, d), normal(m, d, seed=1), k, metric, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_every_float_type_is_taken_as_it_is(backend, dtype, metric):
    check(normal(40, 33, dtype=dtype), normal(150, 33, seed=1, dtype=dtype), 3, metric, backend)


@pytest.mark.parametrize("isa", ["portable", "avx2"])
@native
def test_every_instruction_set_finds_the_same(monkeypatch, isa):
    x, y = normal(90, 70), normal(310, 70, seed=1)
    expected = nearest_both_ways(x, y, 4, backend="native")
    monkeypatch.setenv("XBRIDGE_ISA", isa)
    try:
        found = nearest_both_ways(x, y, 4, backend="native")
    except RuntimeError as error:
        pytest.skip(str(error).splitlines()[0])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@native
def test_tiles_threads_and_directions_do_not_change_a_bit(monkeypatch):
    x, y = normal(150, 20), normal(230, 20, seed=1)
    expected = nearest_both_ways(x, y, 5, backend="reference")
    threads = torch.get_num_threads()
    try:
        for tile_rows, tile_columns, num_threads in [
            (1024, 8192, 1),
            (7, 64, 1),
            (64, 33, 2),
            (150, 1, 2),
            (1, 230, 1),
        ]:
            monkeypatch.setattr(neighbour_search, "TILE_ROWS", tile_rows)
            monkeypatch.setattr(neighbour_search, "TILE_COLUMNS", tile_columns)
            torch.set_num_threads(num_threads)
            found = nearest_both_ways(x, y, 5, backend="native")
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(expected.backward_index, nearest(y, x, 5)[1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("tile", [2048, 50, 17])
def test_one_set_with_itself_uses_half_the_blocks_and_leaves_out_the_row(monkeypatch, backend, metric, tile):
    monkeypatch.setattr(neighbour_search, "SQUARE_TILE", tile)
    x = torch.cat([normal(60, 9), normal(60, 9)[::3], normal(30, 9, seed=2)])
    check(x, x, 4, metric, backend, exclude_self=True)
    check(x, x, 4, metric, backend)
    assert torch.equal(*(nearest(x, z, 4, metric=metric, exclude_self=True)[1] for z in (x, x.clone())))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_single_row_has_no_other_neighbours(backend):
    scores, indices = nearest(normal(1, 3), normal(1, 3), 4, exclude_self=True, backend=backend)
    assert scores.shape == indices.shape == (1, 0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("metric", METRICS)
def test_near_ties_that_float32_cannot_tell_apart_are_in_the_order_of_float64(backend, metric):
    direction, key = normal(16, seed=3, dtype=torch.float64), normal(16, seed=4, dtype=torch.float64)
    steps = torch.randperm(300, generator=torch.Generator().manual_seed(5)).double()
    keys = torch.cat([key + 1e-11 * steps[:, None] * direction, normal(200, 16, seed=6, dtype=torch.float64)])
    queries = key + 0.1 * normal(20, 16, seed=7, dtype=torch.float64)
    assert len(keys[:300].float().unique(dim=0)) < 10
    check(queries, keys, 6, metric, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("metric", METRICS)
def test_clusters_of_hundreds_of_equal_rows_are_taken_from_the_lowest_index(backend, metric):
    centres = normal(3, 12)
    keys = centres.repeat(300, 1)
    check(normal(40, 12, seed=1), keys, 7, metric, backend)
    x, y = nearest_both_ways(keys, centres, 2, metric=metric, backend=backend)[1::2]
    assert torch.equal(x[:3], x[3:6])
    expected = oracle(centres, keys, 2, metric)[1]
    assert torch.equal(y, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_dot_products_of_rows_between_1e_minus_20_and_1e20(backend):
    sizes = 10.0 ** torch.linspace(-20, 20, 200, dtype=torch.float64)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    keys = normal(200, 8, dtype=torch.float64) * sizes[order][:, None]
    queries = normal(30, 8, seed=1, dtype=torch.float64) * sizes[::7][:29].repeat(2)[:30, None]
    expected_scores, expected = oracle(queries, keys, 9, "dot")
    scores, indices = nearest(queries, keys, 9, metric="dot", backend=backend)
    assert torch.equal(indices, expected)
    torch.testing.assert_close(scores, expected_scores, rtol=1e-11, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_cosines_of_float64_rows_beyond_the_range_of_their_squares(backend, scale):
    x, y = normal(20, 6, dtype=torch.float64), normal(90, 6, seed=1, dtype=torch.float64)
    expected = nearest(x, y, 3, backend="reference")
    found = nearest(x * scale, y, 3, backend=backend)
    assert torch.equal(found[1], expected[1])
    torch.testing.assert_close(found[0], expected[0], rtol=1e-14, atol=0)


@pytest.mark.parametrize("metric", ["dot", "euclidean"])
def test_rows_whose_squares_leave_float64_are_an_error(metric):
    x = normal(5, 3, dtype=torch.float64)
    x[3] *= 1e200
    with pytest.raises(ValueError, match="queries: row 3 is too long"):
        nearest(x, x, 1, metric=metric)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("offset", [3.0, 300.0])
def test_a_narrow_cone_of_rows_is_searched_exactly(backend, metric, offset):
    check(normal(60, 24) + offset, normal(250, 24, seed=1) + offset, 4, metric, backend)


@native
def test_rows_in_a_cone_need_no_second_search_since_what_they_share_is_taken_out():
    offset = 30 * normal(24, seed=9)
    scores = pair_scores(normal(60, 24) + offset, normal(250, 24, seed=1) + offset, "cosine", ("x", "y"))
    gamma = 24 * 2.0**-24
    assert scores.slack(torch.float32).max() < gamma / 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_transposed_and_mixed_inputs(backend):
    x, y = normal(60, 40)[::2, 3:20], normal(17, 150, seed=1).T
    check(x, y, 3, backend=backend)
    check(x.double(), y, 3, backend=backend)
    check(x.half(), y, 3, backend=backend)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60), st.integers(1, 120), st.integers(1, 9), st.integers(1, 12), st.sampled_from(METRICS),
    st.integers(0, 2**31), st.sampled_from([None, 1.0, 0.25]), st.sampled_from(TYPES),
)  # fmt: skip
def test_lists_and_definition_agree_on_any_data(n, m, d, k, metric, seed, step, dtype):
    x, y = normal(n, d, seed=seed, dtype=dtype), normal(m, d, seed=seed + 1, dtype=dtype)
    if step is not None:  # a coarse grid: many exact ties
        x, y = ((z / step).round() * step + (step if metric == "cosine" else 0) * (z.round() == 0) for z in (x, y))
    if metric == "cosine":
        x[(x == 0).all(dim=1)], y[(y == 0).all(dim=1)] = 1, 1
    expected = nearest_both_ways(x, y, k, metric=metric, backend="reference")
    for backend in ("auto", "reference"):  # the kernel where it is built, and plain PyTorch lists
        scores = replace(pair_scores(x, y, metric, ("x", "y")), backend=backend)
        forward, backward = screened(scores, min(k, m), min(k, n), False)
        assert torch.equal(forward.indices, expected.forward_index)
        assert torch.equal(backward.indices, expected.backward_index)
        assert torch.equal(forward.scores.abs(), expected.forward_score.abs())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("margin", ["ratio", "distance", "absolute"])
@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_margins_are_those_of_extended_precision_with_negative_means_too(backend, margin, shift):
    x, y, k = normal(80, 5) + shift, normal(130, 5, seed=1) + shift, 4
    axis = torch.eye(5)[0]
    y, x[:20] = 0.5 * y + 3 * axis, 0.2 * x[:20] - 3 * axis  # opposite to every target
    cosine = oracle_scores(x, y, "cosine")
    near_x = np.sort(cosine, axis=1)[:, -k:].mean(1)
    near_y = np.sort(cosine, axis=0)[-k:].mean(0)
    base = (near_x[:, None] + near_y[None]) / 2
    assert (base < 0).any()
    dense = {"ratio": cosine / base, "distance": cosine - base, "absolute": cosine}[margin]
    found = margin_scores(x, y, k, margin, backend=backend)
    assert found.forward_index.tolist() == dense.argmax(1).tolist()
    assert found.backward_index.tolist() == dense.argmax(0).tolist()
    np.testing.assert_allclose(found.forward_score.numpy(), dense.max(1).astype(float), rtol=1e-9)
    np.testing.assert_allclose(found.backward_score.numpy(), dense.max(0).astype(float), rtol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_ratio_of_zero_to_zero_is_an_error_that_names_the_rows(backend):
    x, y = torch.eye(4)[:2], torch.eye(4)[2:]
    with pytest.raises(ValueError, match="rows 0 and 0 is 0 / 0"):
        margin_scores(x, y, 1, "ratio", backend=backend)
    assert margin_scores(x, y, 1, "distance", backend=backend).forward_index.tolist() == [0, 0]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("d", [1, 7, 64, 257])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bound_holds_and_is_not_idle(metric, d, dtype):
    scores = pair_scores(normal(50, d) * 3 + 1, normal(70, d, seed=1) + 1, metric, ("x", "y"))
    rows, columns = (index.flatten() for index in torch.meshgrid(torch.arange(50), torch.arange(70), indexing="ij"))
    product = scores.x.factor(slice(0, 50), dtype) @ scores.y.factor(slice(0, 70), dtype).T
    picture = scores.terms(slice(0, 50), slice(0, 70), dtype).scores(product).double().flatten()
    error = (picture - scores.pictured(scores.exact(rows, columns), rows, columns)).abs()
    slack = scores.slack(dtype)[rows]
    assert (error <= slack).all()
    assert slack.max() < 1e-4 * (1 if dtype == torch.float32 else 1e-7)


@native
def test_products_in_less_than_float32_are_noticed(monkeypatch):
    """A product rounded to bfloat16, as a fast-math setting gives it, breaks the bound and sends rows to float64."""
    x, y = normal(80, 32), normal(300, 32, seed=1)
    product = torch.mm

    def rough(a, b):
        return product(a, b).bfloat16().float()

    monkeypatch.setattr(neighbour_search.scan_products, "why_not", lambda *_: "for this test")
    monkeypatch.setattr(neighbour_search.torch, "mm", rough)
    check(x, y, 4, backend="auto")


@native
@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("divides", [False, True])
@pytest.mark.parametrize(("shape", "first"), [((40, 333), (0, 0)), ((401, 300), (250, 400)), ((5, 90), (96, 7))])
def test_a_block_of_products_enters_the_lists_of_both_sides(exclude_self, divides, shape, first):
    left, right, k = normal(shape[0], 19), normal(shape[1], 19, seed=1), (3, 2)
    divisors = (normal(shape[0], seed=3).abs() + 1, normal(shape[1], seed=4).abs() + 1) if divides else (None, None)
    terms = Terms(normal(shape[0], seed=5), normal(shape[1], seed=6), *divisors)
    found = []
    for backend in ("native", "reference"):
        lists = [new_lists(torch.full((size,), 0.01, dtype=torch.float64), 3, 30) for size in shape]
        scan_products.on(backend, left, right, terms, *lists, k, first, exclude_self)
        found.append([side.pairs(count) for side, count in zip(lists, k, strict=True)])
    for ours, expected in zip(*found, strict=True):
        assert torch.equal(ours[0], expected[0])
        assert torch.equal(ours[1], expected[1])
        torch.testing.assert_close(ours[2], expected[2], rtol=1e-5, atol=1e-5)
    if exclude_self:
        rows, columns, _ = found[0][0]
        assert not bool((rows + first[0] == columns).any())


@native
@pytest.mark.parametrize("distances", [False, True])
@pytest.mark.parametrize("d", [1, 2, 3, 31, 768])
@pytest.mark.parametrize("dtype", TYPES)
def test_native_pair_products_have_the_bits_of_the_definition(distances, d, dtype):
    x, y = normal(9, d, dtype=dtype), normal(11, d, seed=1, dtype=dtype)
    rows, columns = torch.randint(9, (50,)), torch.randint(11, (50,))
    found = [pair_products.on(name, x, y, rows, columns, distances) for name in ("native", "reference")]
    assert torch.equal(*found)
    exact = oracle_scores(x, y, "euclidean") ** 2 if distances else oracle_scores(x, y, "dot")
    torch.testing.assert_close(found[0], torch.from_numpy(exact.astype(float))[rows, columns], rtol=1e-12, atol=1e-13)


@native
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("d", [1, 7, 8, 65])
def test_native_factors_are_those_of_the_definition(dtype, d):
    x, vectors = normal(13, d, dtype=dtype), normal(3, max(13, d), seed=1, dtype=torch.float64)
    call = (x, vectors[0, :13], vectors[1, :d], vectors[2, :d], torch.float32)
    found, expected = factor_rows.on("native", *call), factor_rows.on("reference", *call)
    assert torch.equal(found.rows, expected.rows)
    torch.testing.assert_close(found.squares, expected.squares, rtol=1e-13, atol=0)
    torch.testing.assert_close(found.products, expected.products, rtol=1e-11, atol=1e-13)


@native
@pytest.mark.parametrize("divides", [False, True])
def test_lists_keep_every_score_that_slack_cannot_exclude(divides):
    shape, k, slack = (40, 333), 3, 0.01
    divisors = (normal(shape[0], seed=3).abs() + 1, normal(shape[1], seed=4).abs() + 1) if divides else (None, None)
    terms = Terms(normal(shape[0], seed=1) / 9, normal(shape[1], seed=2) / 9, *divisors)
    values, identity = normal(*shape), torch.eye(shape[1])  # their product is the values themselves
    scores = terms.scores(values)
    for backend in ("native", "reference"):
        lists = [new_lists(torch.full((size,), slack, dtype=torch.float64), k, capacity=30) for size in shape]
        scan_products.on(backend, values, identity, terms, *lists, (k, k), (0, 0), False)
        for side, whole in zip(lists, (scores, scores.T), strict=True):
            rows, columns, found = side.pairs(k)
            kept = whole > (whole.topk(k).values[:, -1:] - 2 * slack)
            assert torch.equal(torch.stack([rows, columns]), kept.nonzero().T)
            torch.testing.assert_close(found, whole[kept], rtol=1e-6, atol=1e-7)


@native
def test_a_list_that_overflows_is_given_up():
    values = torch.ones(2, 500)
    values[0, :4] = torch.tensor([5.0, 4.0, 3.0, 2.0])
    for backend in ("native", "reference"):
        lists = new_lists(torch.full((2,), 0.1, dtype=torch.float64), 3, 30)
        terms = Terms(torch.zeros(2), torch.zeros(500))
        scan_products.on(backend, values, torch.eye(500), terms, lists, None, (3, 3), (0, 0), False)
        assert lists.counts[1] == -1
        rows, columns, _ = lists.pairs(3)
        assert (rows.tolist(), columns.tolist()) == ([0, 0, 0], [0, 1, 2])


@native
def test_operators_refuse_what_would_read_beyond_their_inputs():
    x, index, out = normal(3, 4), torch.tensor([0, 3]), torch.empty(2, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="out of range"):
        torch.ops.xbridge.pair_products(x, x, index, index, False, out)
    with pytest.raises(RuntimeError, match="of one type"):
        torch.ops.xbridge.pair_products(x, x.double(), index, index, False, out)
    lists = new_lists(torch.zeros(3, dtype=torch.float64), 2, 26)
    terms = Terms(torch.zeros(2), torch.zeros(4))
    with pytest.raises(RuntimeError, match="add_rows and add_columns"):
        scan_products.on("native", x, torch.eye(4), terms, lists, None, (2, 2), (0, 0), False)


@pytest.mark.parametrize("arguments", [{"k": 0}, {"metric": "manhattan"}, {"backend": "fast"}])
def test_unknown_settings_are_errors_that_name_them(arguments):
    with pytest.raises(ValueError, match=r"k must be|metric must be|backend must be"):
        nearest(normal(5, 3), normal(5, 3), **{"k": 1} | arguments)
