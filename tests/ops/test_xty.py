"""x^T y of bfloat16 rows in float32: the reference, and the AMX kernel on emulated tiles, against float64."""

import pytest
import torch

from xbridge.ops.native import isa, why_unavailable
from xbridge.ops.xty import xty

BACKENDS = ("reference", "emulated", "native")


def run(backend, x, y, total):
    if backend == "emulated":
        if why_unavailable():
            pytest.skip(why_unavailable())
        torch.ops.xbridge.xty_amx_emulated(x, y, total)
        return
    reason = xty.why_not(backend, x, y, total)
    if reason:
        pytest.skip(reason)
    xty.on(backend, x, y, total)


def rows(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).bfloat16()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("n", "d1", "d2"),
    [(1, 1, 1), (2, 17, 16), (31, 33, 1), (64, 32, 300), (513, 40, 70), (1100, 257, 31), (8200, 5, 33)],
)
def test_sums_are_those_of_float64(n, d1, d2, backend):
    x, y, before = rows(n, d1), rows(n, d2, 1), rows(d1, d2, 2).float()
    total = before.clone()
    run(backend, x, y, total)
    wanted = before.double() + x.double().T @ y.double()
    bound = 1e-6 * (before.abs().double() + x.double().abs().T @ y.double().abs())
    assert ((total - wanted).abs() <= bound).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_whole_numbers_are_summed_exactly(backend):
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randint(-16, 17, (700, d), generator=generator) for d in (50, 290))
    total = torch.zeros(50, 290)
    run(backend, x.bfloat16(), y.bfloat16(), total)
    assert total.equal((x.T @ y).float())


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_may_be_views_and_nothing_else_is_written(backend):
    x, y, total = rows(120, 90), rows(120, 90, 1), torch.zeros(40, 50)
    run(backend, x[::2, 10:40], y[::2, 5:38], total[5:35, 7:40])
    wanted = x[::2, 10:40].double().T @ y[::2, 5:38].double()
    assert torch.allclose(total[5:35, 7:40].double(), wanted, rtol=0, atol=1e-4)
    total[5:35, 7:40] = 0
    assert not total.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_rows_change_nothing(backend):
    total = torch.ones(3, 4)
    run(backend, rows(0, 3), rows(0, 4), total)
    assert total.equal(torch.ones(3, 4))


def test_emulated_tiles_take_subnormal_numbers_as_zero():
    total = torch.zeros(1, 1)
    run("emulated", torch.full((4, 1), 1e-39).bfloat16(), torch.full((4, 1), 1e30).bfloat16(), total)
    assert float(total) == 0


def test_bits_do_not_depend_on_threads():
    x, y, before = rows(1500, 300), rows(1500, 280, 1), torch.get_num_threads()
    totals = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            totals.append(torch.zeros(300, 280))
            run("emulated", x, y, totals[-1])
    finally:
        torch.set_num_threads(before)
    assert totals[0].equal(totals[1])


def test_a_call_that_native_code_cannot_take_says_why():
    x, total = rows(4, 3), torch.zeros(3, 3)
    assert "bfloat16" in xty.why_not("native", x.float(), x, total)
    assert "float32" in xty.why_not("native", x, x, total.double())
    assert "contiguous" in xty.why_not("native", x.T, rows(3, 4), torch.zeros(4, 4))
    if not why_unavailable() and isa() != "amx":
        assert "needs AMX" in xty.why_not("native", x, x, total)


@pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable())
def test_wrong_arguments_are_named():
    x = rows(4, 3)
    with pytest.raises(RuntimeError, match="total must be"):
        torch.ops.xbridge.xty_amx_emulated(x, x, torch.zeros(3, 4))
    with pytest.raises(RuntimeError, match="must be bfloat16"):
        torch.ops.xbridge.xty_amx_emulated(x, x, torch.zeros(3, 3).double())
    with pytest.raises(RuntimeError, match="x must be"):
        torch.ops.xbridge.xty_amx_emulated(x, rows(5, 3), torch.zeros(3, 3))
    torch.library.opcheck(torch.ops.xbridge.xty_amx_emulated, (x, x, torch.zeros(3, 3)), test_utils="test_schema")
