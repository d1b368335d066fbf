"""The AMX kernels, on emulated tiles, against the definition in float64.

The same source is compiled for the processor's tiles; test_amx_code.py looks at those instructions.
"""

import pytest
import torch

from xbridge.ops.gram_sums import GramTotals, gram_sums
from xbridge.ops.hsic import hsic_from_sums
from xbridge.ops.native import why_unavailable

pytestmark = pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable())

KERNELS = ("linear", "rbf", "laplacian")
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# bfloat16 rows are multiplied exactly, others as 16 to 17 bits (2^-17 = 8e-6, and fewer entries average less of it out)
TOLERANCE = {torch.bfloat16: 1e-6, torch.float16: 2e-5, torch.float32: 2e-5}
CKA_TOLERANCE = {torch.bfloat16: 5e-7, torch.float16: 1e-6, torch.float32: 1e-6}


def emulated(layers, shifts, scales, kernel, gammas, packed_bytes=64 << 20):
    arguments = list(layers), [s.float() for s in shifts], list(scales), kernel, list(gammas), packed_bytes
    return GramTotals(*torch.ops.xbridge.gram_sums_amx_emulated(*arguments))


def states(n, d, num_layers, *, offset=0.3, rogue=0.0, seed=0):
    """Layers with common structure, a power-law spectrum, a mean of `offset` and four features of `rogue` deviations."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(n, 8, generator=generator, dtype=torch.float64)
    layers = []
    for _ in range(num_layers):
        mixed = latent @ torch.randn(8, d, generator=generator, dtype=torch.float64)
        x = mixed + 2 * torch.randn(n, d, generator=generator, dtype=torch.float64)
        x = x * torch.arange(1, d + 1, dtype=torch.float64) ** -0.5
        x = x + offset * x.std(0) * torch.randn(d, generator=generator, dtype=torch.float64).sign()
        x[:, : min(4, d)] += rogue * x[:, : min(4, d)].std(0)
        layers.append(x)
    return layers


def gamma_of(x, kernel, width=1.0):
    """Bandwidth: `width` times the root mean square distance."""
    spread = float(2 * (x.double() - x.double().mean(0)).square().sum(1).mean()) * width**2
    return 0.5 / spread if kernel == "rbf" else spread**-0.5


def arguments_of(layers, kernel, width=1.0, scale=1.0):
    gammas = [gamma_of(x.double() * scale, kernel, width) for x in layers]
    return layers, [x.double().mean(0) for x in layers], [scale] * len(layers), kernel, gammas


def assert_sums_agree(arguments, tolerance):
    found, wanted = emulated(*arguments), gram_sums.on("reference", *arguments)
    size_S = wanted.products.diagonal().sqrt()
    error_SS = (found.products - wanted.products) / (size_S[:, None] * size_S)
    assert float(error_SS.abs().max()) < tolerance
    num_examples = wanted.row_sums.shape[1]
    error_SN = (found.row_sums - wanted.row_sums) / (size_S[:, None] * num_examples**-0.5)
    assert float(error_SN.abs().max()) < 5 * tolerance


def cka_of(totals):
    products_SS, rows_SN = totals.products, totals.row_sums
    row_products_SS, total_S = rows_SN @ rows_SN.T, rows_SN.sum(1)
    n = torch.tensor(float(rows_SN.shape[1]), dtype=torch.float64)
    hsic_SS = hsic_from_sums(products_SS, row_products_SS, total_S[:, None], total_S, n, "unbiased")
    return hsic_SS / (hsic_SS.diagonal()[:, None] * hsic_SS.diagonal()).sqrt()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), [(4, 3), (31, 32), (32, 33), (33, 1), (100, 70), (300, 200)])
def test_sums_are_those_of_the_definition(n, d, dtype, kernel):
    layers = [x.to(dtype) for x in states(n, d, 3)]
    assert_sums_agree(arguments_of(layers, kernel, scale=1.7), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_of_one_two_and_many_layers_agree(dtype):
    layers = [x.to(dtype) for x in states(70, 40, 9)]
    for num_layers in (1, 2, 9):
        assert_sums_agree(arguments_of(layers[:num_layers], "rbf"), TOLERANCE[dtype])


def test_layers_of_other_types_and_widths_mix():
    layers = [states(50, d, 1)[0].to(dtype) for d, dtype in zip((20, 33, 65), DTYPES, strict=True)]
    assert_sums_agree(arguments_of(layers, "laplacian"), 2e-5)


def test_rows_may_be_views():
    wide = states(90, 60, 1)[0].bfloat16()
    layers = [wide[::2, 3:40], wide[1::2, :37]]
    assert_sums_agree(arguments_of(layers, "rbf"), TOLERANCE[torch.bfloat16])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("offset", "rogue"), [(0.3, 0), (10, 0), (0.3, 300), (3, 100)])
def test_cka_of_shifted_states_is_exact(offset, rogue, dtype, kernel):
    layers = [x.to(dtype) for x in states(400, 96, 2, offset=offset, rogue=rogue)]
    arguments = arguments_of(layers, kernel)
    error = cka_of(emulated(*arguments)) - cka_of(gram_sums.on("reference", *arguments))
    assert float(error.abs().max()) < CKA_TOLERANCE[dtype]


@pytest.mark.parametrize("width", [0.5, 4])
@pytest.mark.parametrize("kernel", ["rbf", "laplacian"])
def test_cka_is_exact_for_narrow_and_wide_kernels(kernel, width):
    arguments = arguments_of([x.bfloat16() for x in states(400, 96, 2)], kernel, width)
    error = cka_of(emulated(*arguments)) - cka_of(gram_sums.on("reference", *arguments))
    assert float(error.abs().max()) < CKA_TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("size", [1e-12, 1e12])
@pytest.mark.parametrize("kernel", KERNELS)
def test_cka_does_not_depend_on_the_size_of_rows(kernel, size):
    layers = [(x * size).float() for x in states(100, 40, 2)]
    arguments = arguments_of(layers, kernel)
    error = cka_of(emulated(*arguments)) - cka_of(gram_sums.on("reference", *arguments))
    assert float(error.abs().max()) < 2e-6  # 40 features average less than 96


@pytest.mark.parametrize(("kernel", "dtype"), [("rbf", torch.bfloat16), *(("laplacian", dtype) for dtype in DTYPES)])
def test_equal_rows_are_at_distance_zero(kernel, dtype):
    n = 65
    x = torch.randn(1, 77, generator=torch.Generator().manual_seed(1)).to(dtype).repeat(n, 1)
    found = emulated([x], [torch.zeros(77)], [1.0], kernel, [1.0])
    assert float(found.products) == n * (n - 1)
    assert found.row_sums.eq(n - 1).all()


def test_whole_numbers_are_multiplied_exactly():
    x = torch.randint(-8, 9, (70, 45), generator=torch.Generator().manual_seed(2)).float()
    for dtype in DTYPES:
        arguments = [x.to(dtype)], [torch.zeros(45)], [1.0], "linear", [1.0]
        assert emulated(*arguments).row_sums.equal(gram_sums.on("reference", *arguments).row_sums)


@pytest.mark.parametrize("num_panels", [1, 2, 4])
def test_operands_that_are_not_held_are_packed_in_turn(num_panels):
    arguments = arguments_of([x.float() for x in states(300, 50, 3)], "rbf")
    panel_bytes = 3 * 2 * (2 * 2048)  # 3 layers, 2 blocks of entries, high and low
    found, wanted = emulated(*arguments, num_panels * panel_bytes), emulated(*arguments)
    assert found.row_sums.equal(wanted.row_sums)
    assert torch.allclose(found.products, wanted.products, rtol=1e-14, atol=0)


def test_bits_depend_neither_on_the_run_nor_on_threads():
    arguments = arguments_of([x.float() for x in states(300, 50, 3)], "rbf")
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            results.append(emulated(*arguments))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert result.products.equal(results[0].products)
        assert result.row_sums.equal(results[0].row_sums)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_that_is_not_finite_is_named(dtype, value):
    layers = [x.to(dtype) for x in states(50, 40, 2)]
    arguments = arguments_of(layers, "linear")
    layers[1][37, 39] = value
    with pytest.raises(RuntimeError, match="layer 1, row 37 is not finite"):
        emulated(*arguments)
