"""Products of kernel matrices under permutations, against permuted copies in float64.

Tolerance: float32 sums of at most 512 products, 1e-6 of the sum of magnitudes.
"""

import pytest
import torch

from xbridge.ops.native import isa, why_unavailable
from xbridge.ops.native import permuted_products as native
from xbridge.ops.permuted_products import permuted_products as op

LEVELS = ("portable", "avx2", "avx512")
AVAILABLE = [] if isa() == "none" else LEVELS[: LEVELS.index(isa()) + 1] if isa() in LEVELS else LEVELS


@pytest.fixture(params=["reference", *AVAILABLE])
def products(request, monkeypatch):
    """The operator's reference, and its kernel on one instruction set."""
    if request.param == "reference":
        return op.reference
    monkeypatch.setenv("XBRIDGE_ISA", request.param)
    return native.permuted_products


def matrices(num_layers, n, seed):
    """Symmetric, with a diagonal that must not count."""
    k = torch.randn(num_layers, n, n, generator=torch.Generator().manual_seed(seed))
    return k + k.mT


def orders_of(num, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(n, generator=generator) for _ in range(num)])


def hollow(k):
    return k.double() * (1 - torch.eye(k.shape[1], dtype=torch.float64))


def test_worked_by_hand(products):
    """The left joins 0 and 1 by 2, the right 1 and 2 by 3; only o = (1, 2, 0) maps (0, 1) to (1, 2): 2 * 2 * 3."""
    left, right = torch.zeros(1, 3, 3), torch.zeros(1, 3, 3)
    left[0, 0, 1] = left[0, 1, 0] = 2
    right[0, 1, 2] = right[0, 2, 1] = 3
    assert products(left, right, torch.tensor([[0, 1, 2], [1, 2, 0], [2, 0, 1]])).flatten().tolist() == [0, 12, 0]


@pytest.mark.parametrize(
    ("left", "right", "n", "num"),
    [
        (1, 1, 1, 2),
        (1, 1, 2, 3),
        (2, 3, 17, 4),
        (5, 8, 40, 3),
        (7, 9, 64, 3),
        (13, 20, 65, 2),
        (6, 33, 30, 2),
        (3, 1, 1100, 2),
    ],
)
def test_products_are_those_of_permuted_copies(products, left, right, n, num):
    """Groups of layers on the right are 4 to 32 wide; 1,100 rows need more than one block and one float32 sum."""
    k_left, k_right, orders = matrices(left, n, 0), matrices(right, n, 1), orders_of(num, n)
    found = products(k_left, k_right, orders)
    for p, order in enumerate(orders):
        a, b = hollow(k_left).flatten(1), hollow(k_right[:, order][:, :, order]).flatten(1)
        assert bool(((found[p] - a @ b.T).abs() <= 1e-6 * (a.abs() @ b.abs().T)).all())


def test_permuting_one_side_is_permuting_the_other_back(products):
    left, right, orders = matrices(3, 50, 0), matrices(4, 50, 1), orders_of(5, 50)
    back = orders.argsort(dim=1)
    assert torch.allclose(products(left, right, orders), products(right, left, back).mT, rtol=1e-5, atol=1e-3)


def test_nan_stays_in_its_layer(products):
    """A layer without variance has a kernel matrix of NaN; its neighbours must not be touched."""
    left, right, orders = matrices(3, 20, 0), matrices(3, 20, 1), orders_of(2, 20)
    expected = products(left, right, orders)
    left[1], right[2] = torch.nan, torch.nan
    found = products(left, right, orders)
    assert bool(found[:, 1].isnan().all())
    assert bool(found[:, :, 2].isnan().all())
    assert torch.allclose(found[:, ::2, :2], expected[:, ::2, :2], rtol=1e-12)


def test_no_permutations_no_products(products):
    assert products(matrices(2, 5, 0), matrices(3, 5, 1), torch.empty(0, 5, dtype=torch.int64)).shape == (0, 2, 3)


@pytest.mark.parametrize("row", [[0, 1, 1, 3], [0, 1, 2, 4], [0, 1, 2, -1]])
def test_what_is_no_permutation_is_refused(products, row):
    with pytest.raises((ValueError, RuntimeError), match="not a permutation"):
        products(matrices(1, 4, 0), matrices(1, 4, 1), torch.tensor([[0, 1, 2, 3], row]))


@pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable())
def test_bits_do_not_depend_on_the_number_of_threads_or_the_run():
    left, right, orders = matrices(5, 90, 0), matrices(6, 90, 1), orders_of(7, 90)
    before, seen = torch.get_num_threads(), []
    try:
        for num_threads in (1, 2, 3, 2, 1):
            torch.set_num_threads(num_threads)
            seen.append(native.permuted_products(left, right, orders))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found, seen[0]) for found in seen[1:])


@pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable())
def test_a_permutation_does_not_depend_on_its_company():
    left, right, orders = matrices(5, 90, 0), matrices(6, 90, 1), orders_of(7, 90)
    assert torch.equal(
        native.permuted_products(left, right, orders)[3], native.permuted_products(left, right, orders[3:4])[0]
    )


@pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable())
def test_the_operator_keeps_the_rules_of_the_dispatcher():
    torch.library.opcheck(
        torch.ops.xbridge.permuted_products.default,
        (matrices(2, 6, 0), matrices(3, 6, 1), orders_of(2, 6)),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_float64_matrices_are_left_to_the_reference():
    k = matrices(1, 6, 0)
    assert "float32" in native.why_not(k.double(), k, orders_of(1, 6))
