"""Ingest and prepared rows of the Triton kernels, interpreted, against plain PyTorch."""

import pytest
import torch

from xbridge.ops.ingest import ingest as op
from xbridge.ops.triton import ingest as module
from xbridge.ops.triton.prepare import prepare

TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def rows_of(n, d, dtype):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) * 3 + 100).to(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("n", "d"), [(1, 1), (65, 70)])
def test_ingest_equals_its_definition(n, d, dtype):
    x, shift = rows_of(n, d, dtype), torch.linspace(98, 101, d, dtype=torch.float64)
    if dtype != torch.float64:
        shift = shift.float().double()  # in float32 arithmetic either way
    found, expected = torch.empty(n, d), torch.empty(n, d)
    lengths, expected_lengths = torch.empty(n, dtype=torch.float64), torch.empty(n, dtype=torch.float64)
    assert module.ingest(x, shift, 0.25, found, lengths) == -1
    assert op.reference(x, shift, 0.25, expected, expected_lengths) == -1
    assert torch.equal(found, expected)
    torch.testing.assert_close(lengths, expected_lengths, rtol=1e-14, atol=0)


def test_ingest_writes_into_views_and_reads_strided_rows():
    x, shift = rows_of(70, 20, torch.float32).T.contiguous().T, torch.full((20,), 100.0, dtype=torch.float64)
    whole, lengths = torch.zeros(70, 50), torch.empty(70, dtype=torch.float64)
    module.ingest(x, shift, 1.0, whole[:, 10:30], lengths)
    assert torch.equal(whole[:, 10:30], x - 100)
    assert whole[:, :10].abs().sum() == whole[:, 30:].abs().sum() == 0


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_the_first_row_that_is_not_finite_is_reported(bad):
    x = rows_of(200, 70, torch.float32)
    x[150, 69] = x[131, 0] = bad
    rows, lengths = torch.empty(200, 70), torch.empty(200, dtype=torch.float64)
    assert module.ingest(x, torch.zeros(70, dtype=torch.float64), 1.0, rows, lengths) == 131


@pytest.mark.parametrize("n", [0, 3])
def test_prepare_counts_every_bad_row(n):
    x = rows_of(100, 9, torch.float32)
    x[[5, 70, 99][:n], 8] = torch.nan
    taken = prepare(x, torch.zeros(9))
    assert int(taken.num_bad) == n
    assert int(taken.first_bad) == (5 if n else 100)


def test_two_planes_hold_22_bits_and_pad_with_zeros():
    x, shift = rows_of(70, 65, torch.float64), torch.full((65,), 100.0)
    rows = prepare(x, shift, 2.0**10, split=True).rows
    assert rows.shape == (70, 256)
    low, high = rows.double().split(128, dim=1)
    exact = (x - 100) * 2.0**10
    assert bool(((low + high)[:, :65] - exact).abs().le(exact.abs() * 2.0**-22 + 2.0**-25).all())
    assert low[:, 65:].abs().sum() == high[:, 65:].abs().sum() == 0


def test_column_sums_and_squared_lengths_are_those_of_the_stored_values():
    x = rows_of(150, 70, torch.float32)
    taken = prepare(x, torch.full((70,), 100.0), 1.0, torch.bfloat16)
    stored = taken.rows.double()
    assert stored.shape == (150, 72)
    torch.testing.assert_close(taken.norms, stored.square().sum(1), rtol=1e-14, atol=0)
    torch.testing.assert_close(taken.column_sums, stored[:, :70].sum(0), rtol=0, atol=1e-4)


def test_values_that_do_not_fit_float16_are_bad_rows():
    x = torch.ones(10, 8)
    x[6, 3] = 7e4
    assert int(prepare(x, torch.zeros(8)).first_bad) == 6


def test_a_scale_of_zero_is_refused():
    with pytest.raises(ValueError, match="scale must be positive"):
        prepare(torch.ones(3, 2), torch.zeros(2), 0.0)
