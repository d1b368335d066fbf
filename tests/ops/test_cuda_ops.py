"""The CUDA kernels against their references, on a GPU.

With XBRIDGE_CUDA_ON_CPU naming a library of the same sources compiled for the CPU (tests/ops/cuda_on_cpu; made by
test_cuda_build.py), the same tests run without a GPU.
"""

import os

import pytest
import torch

from xbridge.ops.ingest import ingest
from xbridge.ops.native import ingest as native_ingest
from xbridge.ops.native import topk_rescore as native_rescore
from xbridge.ops.native import why_no_cuda
from xbridge.ops.topk_rescore import topk_rescore

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
NARROW = [torch.float32, torch.float16, torch.bfloat16]
RANDOM_SUM = 1e-14  # relative, of two orders of a float64 sum of squares
ONE_ROUNDING = 1.2e-7  # relative: two float64 sums may round to neighbouring float32 numbers


@pytest.fixture(scope="module")
def device():
    if library := os.environ.get("XBRIDGE_CUDA_ON_CPU"):
        torch.ops.load_library(library)
        return torch.device("cpu")
    if reason := why_no_cuda():
        pytest.skip(reason)
    return torch.device("cuda")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def misaligned(x):
    """The same rows, a view that starts at an odd element and has an odd stride."""
    n, d = x.shape
    return torch.zeros(n * (d + 1 + d % 2) + 1, dtype=x.dtype, device=x.device)[1:].view(n, -1)[:, :d].copy_(x)


def padded(x):
    """The same rows, a view whose rows start at multiples of 16 elements."""
    n, d = x.shape
    return torch.zeros(n, d + -d % 16, dtype=x.dtype, device=x.device)[:, :d].copy_(x)


def run_ingest(function, x, shift, scale, dtype, view=lambda rows: rows):
    rows = view(torch.full(x.shape, torch.nan, dtype=dtype, device=x.device))
    lengths = torch.full((len(x),), torch.nan, dtype=torch.float64, device=x.device)
    return function(x, shift, scale, rows, lengths), rows.cpu(), lengths.cpu()


@pytest.mark.parametrize("rows_dtype", NARROW, ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("n", "d"), [(1, 1), (5, 7), (67, 64), (3, 1000), (2, 1027)])
@pytest.mark.parametrize("view", [lambda x: x, misaligned, padded], ids=["whole", "misaligned", "padded"])
def test_ingest_equals_its_reference(device, dtype, rows_dtype, n, d, view):
    x, shift = (normal(n, d) * 3 + 2).to(dtype), normal(d, seed=1).double()
    expected = run_ingest(ingest.reference, x, shift, 0.25, rows_dtype)
    found = run_ingest(native_ingest.ingest, view(x.to(device)), shift, 0.25, rows_dtype, view)
    assert found[0] == expected[0] == -1
    assert torch.equal(found[1], expected[1])
    assert torch.allclose(found[2], expected[2], rtol=RANDOM_SUM, atol=0)


def test_ingest_writes_nothing_outside_its_view(device):
    whole = torch.full((6, 40), 7.0, device=device)
    native_ingest.ingest(
        normal(4, 21).to(device),
        torch.zeros(21),
        1.0,
        whole[1:5, 4:25],
        torch.empty(4, dtype=torch.float64, device=device),
    )
    whole[1:5, 4:25] = 7.0
    assert (whole == 7).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("column", [0, 63, 64])
@pytest.mark.parametrize("rows", [(150, 77, 78), (2, 3, 199)])
def test_ingest_finds_the_first_row_that_is_not_finite(device, bad, column, rows):
    x = normal(200, 65)
    x[list(rows), column] = bad
    assert run_ingest(native_ingest.ingest, x.to(device), torch.zeros(65), 1.0, torch.float32)[0] == min(rows)


def test_ingest_reports_rows_that_the_output_cannot_hold(device):
    x = torch.ones(3, 10, dtype=torch.float64)
    x[1, 9] = 1e300
    assert run_ingest(native_ingest.ingest, x.to(device), torch.zeros(10), 1.0, torch.float32)[0] == 1
    x[1, 9] = 1e5
    assert run_ingest(native_ingest.ingest, x.to(device), torch.zeros(10), 1.0, torch.float16)[0] == 1


def test_ingest_measures_float32_rows_whose_squares_overflow_float32(device):
    bad, _, lengths = run_ingest(
        native_ingest.ingest, torch.full((2, 9), 1e30, device=device), torch.zeros(9), 1.0, torch.float32
    )
    assert bad == -1
    assert lengths.tolist() == pytest.approx([9e60] * 2)


def test_ingest_takes_no_rows_and_no_columns(device):
    assert (
        run_ingest(native_ingest.ingest, torch.empty(0, 4, device=device), torch.zeros(4), 1.0, torch.float32)[0] == -1
    )
    _, _, lengths = run_ingest(
        native_ingest.ingest, torch.empty(3, 0, device=device), torch.zeros(0), 1.0, torch.float32
    )
    assert lengths.tolist() == [0.0] * 3


def far_apart(rows, stride):
    """The same rows, `stride` elements apart: the last one begins beyond 2^31 elements."""
    n, d = rows.shape
    storage = torch.empty((n - 1) * stride + d, dtype=rows.dtype, device=rows.device)
    return storage.as_strided((n, d), (stride, 1)).copy_(rows)


def test_ingest_reaches_rows_beyond_two_to_the_31_elements(device):
    x = normal(3, 16).bfloat16().to(device)
    expected = run_ingest(ingest.reference, x.cpu(), torch.zeros(16), 1.0, torch.float32)
    found = run_ingest(native_ingest.ingest, far_apart(x, (1 << 30) + 8), torch.zeros(16), 1.0, torch.float32)
    assert torch.equal(found[1], expected[1])


def every_tile(n, m, width):
    return torch.arange(-(-m // width)).expand(n, -1).contiguous()


def random_tiles(n, m, width, slots):
    """`slots` different tiles per query in random order, now and then none."""
    order = torch.rand(n, -(-m // width), generator=torch.Generator().manual_seed(5)).argsort(1)[:, :slots]
    return torch.where(torch.arange(order.numel()).view_as(order) % 11 == 3, -1, order)


def rescore(queries, keys, tiles, width, k, device):
    scores, indices = native_rescore.topk_rescore(queries.to(device), keys.to(device), tiles.to(device), width, k)
    return scores.cpu(), indices.cpu()


def check_rescore(queries, keys, tiles, width, k, device):
    scores, indices = rescore(queries, keys, tiles, width, k, device)
    expected_scores, expected_indices = topk_rescore.reference(queries, keys, tiles, width, k)
    assert torch.equal(indices, expected_indices)
    assert torch.allclose(scores, expected_scores, rtol=ONE_ROUNDING, atol=0)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize(
    ("n", "m", "d", "width", "slots", "k"),
    [
        (1, 1, 1, 1, 1, 1),
        (9, 70, 3, 128, 1, 4),
        (70, 300, 65, 32, 4, 3),
        (130, 500, 16, 128, 3, 10),
        (5, 700, 36, 300, 2, 5),
    ],
)
def test_rescore_equals_its_reference(device, dtype, n, m, d, width, slots, k):
    queries, keys = normal(n, d).to(dtype), normal(m, d, seed=1).to(dtype)
    check_rescore(queries, keys, random_tiles(n, m, width, slots), width, k, device)


@pytest.mark.parametrize("k", [26, 27, 100, 122])
def test_rescore_keeps_many(device, k):
    queries, keys = normal(7, 12), normal(290, 12, seed=1)
    check_rescore(queries, keys, every_tile(7, 290, 64), 64, k, device)


def test_rescore_fills_up_where_a_row_has_fewer_keys_than_k(device):
    queries, keys = normal(6, 8), normal(50, 8, seed=1)
    tiles = torch.tensor([[0, -1], [3, 0], [-1, -1], [-1, 3], [1, 2], [2, 3]])
    check_rescore(queries, keys, tiles, 16, 20, device)


def test_rescore_breaks_ties_by_lowest_index_among_duplicates(device):
    keys = normal(6, 17).repeat(60, 1)
    tiles = every_tile(20, 360, 50).flip(1)
    check_rescore(normal(20, 17, seed=1), keys, tiles, 50, 7, device)
    check_rescore(torch.zeros(3, 17), keys, tiles[:3], 50, 7, device)


def test_rescore_ranks_keys_that_float32_cannot_tell_apart(device):
    d = 64
    keys = torch.ones(200, d)
    keys[torch.arange(200), torch.arange(200) % d] += 2.0**-20 * torch.randperm(
        200, generator=torch.Generator().manual_seed(0)
    )
    queries = normal(10, d) + torch.logspace(0, 3, 10)[:, None]
    check_rescore(queries, keys, every_tile(10, 200, 64), 64, 5, device)


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e18, 1e30])
def test_rescore_is_right_where_float32_underflows_or_overflows(device, scale):
    queries, keys = normal(8, 10) * scale, normal(90, 10, seed=1) * scale
    scores, indices = rescore(queries, keys, every_tile(8, 90, 32), 32, 4, device)
    expected_scores, expected_indices = topk_rescore.reference(queries, keys, every_tile(8, 90, 32), 32, 4)
    assert torch.equal(indices, expected_indices)
    assert torch.allclose(scores, expected_scores, rtol=ONE_ROUNDING, atol=2.0**-149)


def test_rescore_takes_misaligned_and_transposed_input(device):
    queries, keys, tiles = normal(20, 40), normal(100, 40, seed=1), random_tiles(20, 100, 16, 3)
    expected = topk_rescore.reference(queries, keys, tiles, 16, 4)
    for view in (misaligned, lambda x: x.T.contiguous().T):
        found = native_rescore.topk_rescore(view(queries.to(device)), view(keys.to(device)), tiles.to(device), 16, 4)
        assert torch.equal(found[1].cpu(), expected[1])


def test_rescore_works_in_panels(device, monkeypatch):
    monkeypatch.setattr(native_rescore, "PANEL_WORDS", 700)
    check_rescore(normal(150, 8), normal(120, 8, seed=1), random_tiles(150, 120, 16, 3), 16, 4, device)


def test_rescore_reaches_keys_beyond_two_to_the_31_elements(device):
    queries, keys = (
        normal(5, 16).bfloat16().to(device),
        far_apart(normal(3, 16, seed=1).bfloat16().to(device), (1 << 30) + 8),
    )
    _, indices = native_rescore.topk_rescore(queries, keys, every_tile(5, 3, 2).to(device), 2, 3)
    expected = topk_rescore.reference(queries.cpu(), keys.cpu().contiguous(), every_tile(5, 3, 2), 2, 3)[1]
    assert torch.equal(indices.cpu(), expected)


def test_lists_are_written_whole_and_dropped_keys_are_below_the_floor(device):
    queries, keys, tiles = (
        normal(9, 20).to(device),
        normal(140, 20, seed=1).to(device),
        every_tile(9, 140, 64).to(device),
    )
    by_tile = tiles.flatten().sort(stable=True)
    best = torch.full((9, 3, 7), -1, dtype=torch.int64, device=device)
    torch.ops.xbridge.rescore_tiles(queries, keys, by_tile.values, by_tile.indices, 64, best)
    scores, floors = torch.full((9, 2), torch.nan, device=device), torch.full((9,), torch.nan, device=device)
    indices = torch.full((9, 2), -7, dtype=torch.int64, device=device)
    torch.ops.xbridge.rescore_rows(queries, keys, best, scores, indices, floors)
    dense = (queries @ keys.T).sort(dim=1, descending=True)
    assert torch.equal(indices, dense.indices[:, :2])
    assert torch.allclose(scores, dense.values[:, :2], rtol=1e-5)
    assert torch.allclose(floors, dense.values[:, 6], rtol=1e-5)


def test_not_finite_input_is_named(device):
    broken = normal(4, 3)
    broken[2, 1] = torch.nan
    with pytest.raises(ValueError, match="keys: row 2 holds NaN"):
        rescore(normal(2, 3), broken, torch.tensor([[0], [1]]), 2, 1, device)


def test_five_runs_are_bitwise_equal(device):
    n, m, d = (70, 150, 33) if device.type == "cpu" else (3000, 4000, 130)
    x, keys, tiles = normal(n, d).to(device), normal(m, d, seed=1).to(device), random_tiles(n, m, 64, 2).to(device)

    def run():
        _, rows, lengths = run_ingest(native_ingest.ingest, x, torch.zeros(d), 2.0, torch.bfloat16)
        return rows, lengths, *native_rescore.topk_rescore(x, keys, tiles, 64, 9)

    first = run()
    for _ in range(4):
        assert all(torch.equal(a, b) for a, b in zip(first, run(), strict=True))
