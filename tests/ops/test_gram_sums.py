"""Gram sums in C++ against kernel matrices in float64, on every instruction set that this processor has.

Tolerances. A float32 tile entry is off by some 2^-24 of |x| |y|, and of the kernel's value, at random: sums are held to
5e-7 of the sum of magnitudes. The Laplacian kernel takes the root of a difference: a distance that is a thousandth of
the rows' lengths has a thousand times that error. In CKA most of it averages out, the more the more pairs of rows carry
the sums: 3e-7 for 300 rows even at narrow bandwidths, 2e-8 for 3,100.
"""

import re
import shutil
import subprocess

import pytest
import torch

from xbridge.ops.batch_gram_sums import batch_gram_sums as batch_op
from xbridge.ops.gram_sums import GramTotals
from xbridge.ops.gram_sums import gram_sums as op
from xbridge.ops.hsic import hsic_from_sums
from xbridge.ops.native import LIBRARY, __path__, isa, why_unavailable
from xbridge.ops.native import gram_sums as module

pytestmark = pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable())
KERNELS = ("linear", "rbf", "laplacian")
LEVELS = ("portable", "avx2", "avx512")  # amx has a kernel of its own
ISAS = [*LEVELS[: LEVELS.index(isa()) + 1 if isa() in LEVELS else len(LEVELS)], "wide"] if isa() != "none" else []
SUM, CKA = {"linear": 5e-7, "rbf": 5e-7, "laplacian": 5e-6}, 3e-7


@pytest.fixture(params=ISAS)
def sums(request, monkeypatch):
    """The operator on one instruction set; "wide" is the source of AVX-512 for any processor."""
    if request.param == "wide":

        def wide(layers, shifts, scales, kernel, gammas):
            shifts = [shift.float() for shift in shifts]
            return GramTotals(*torch.ops.xbridge.gram_sums_wide(layers, shifts, scales, kernel, gammas))

        return wide
    monkeypatch.setenv("XBRIDGE_ISA", request.param)
    return module.gram_sums


def layers_of(n, dims, dtype=torch.float32, offset=0.0, seed=0):
    """Correlated layers, their means as shifts and scales that give rows a length of about one."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(n, 20, generator=generator, dtype=torch.float64)
    layers = []
    for d in dims:
        mixed = common @ torch.randn(20, d, generator=generator, dtype=torch.float64) / 20**0.5
        layers.append((mixed + 0.5 * torch.randn(n, d, generator=generator) + offset).to(dtype))
    return layers, [x.double().mean(0) for x in layers], [d**-0.5 for d in dims]


def gammas_of(num_layers, kernel, width=1.0):
    """Rows are about 1.5 apart."""
    return [1 / (2 * width**2) if kernel == "rbf" else 1 / width] * num_layers


def kernel_matrices(layers, shifts, scales, kernel, gammas):
    """(S, n, n) float64 with zero diagonals, distances from differences."""
    rows = [(x.double() - shift) * scale for x, shift, scale in zip(layers, shifts, scales, strict=True)]
    if kernel == "linear":
        matrices = torch.stack([x @ x.T for x in rows])
    else:
        distances = [torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") for x in rows]
        power = 2 if kernel == "rbf" else 1
        matrices = torch.stack([torch.exp(-gamma * d**power) for gamma, d in zip(gammas, distances, strict=True)])
    matrices.diagonal(dim1=1, dim2=2).zero_()
    return matrices


def assert_sums(found, matrices, tolerance):
    flat, sizes = matrices.flatten(1), matrices.abs().flatten(1)
    assert bool(((found.products - flat @ flat.T).abs() <= tolerance * (sizes @ sizes.T)).all())
    assert bool(((found.row_sums - matrices.sum(2)).abs() <= tolerance * matrices.abs().sum(2).amax(1)[:, None]).all())


def cka(totals):
    n, total = totals.row_sums.shape[1], totals.row_sums.sum(1)
    hsic = hsic_from_sums(
        totals.products, totals.row_sums @ totals.row_sums.T, total[:, None], total[None, :],
        torch.tensor(float(n), dtype=torch.float64), "unbiased",
    )  # fmt: skip
    return hsic / (hsic.diagonal()[:, None] * hsic.diagonal()[None, :]).sqrt()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("n", [1, 2, 5, 95, 96, 97, 200, 401])
def test_sums_are_those_of_kernel_matrices_for_any_number_of_rows(sums, n, kernel):
    """A tile's side is 96 here; 401 rows make five, the last of 17."""
    given, gammas = layers_of(n, (3, 40)), gammas_of(2, kernel)
    assert_sums(sums(*given, kernel, gammas), kernel_matrices(*given, kernel, gammas), SUM[kernel])


@pytest.mark.parametrize("d", [1, 2, 4, 7, 63, 255, 256, 257, 600])
def test_sums_are_those_of_kernel_matrices_for_any_number_of_features(sums, d):
    """Panels hold 256 features."""
    given, gammas = layers_of(110, (d,)), gammas_of(1, "rbf")
    assert_sums(sums(*given, "rbf", gammas), kernel_matrices(*given, "rbf", gammas), SUM["rbf"])


@pytest.mark.parametrize("num_layers", [1, 2, 3, 4, 5, 7, 13, 64])
def test_products_of_all_pairs_of_layers(sums, num_layers):
    given, gammas = layers_of(130, [2 + layer % 5 for layer in range(num_layers)]), gammas_of(num_layers, "rbf")
    assert_sums(sums(*given, "rbf", gammas), kernel_matrices(*given, "rbf", gammas), SUM["rbf"])


@pytest.mark.parametrize("width", [0.25, 0.5, 1, 4, 30])
@pytest.mark.parametrize("kernel", ["rbf", "laplacian"])
def test_cka_is_exact_at_any_bandwidth(sums, kernel, width):
    """At 30 times the distances, kernel values are within a thousandth of one: constants must not drown them."""
    given, gammas = layers_of(300, (30, 50, 20)), gammas_of(3, kernel, width)
    assert float((cka(sums(*given, kernel, gammas)) - cka(op.reference(*given, kernel, gammas))).abs().max()) < CKA


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_offsets_and_rogue_features_cost_nothing(sums, dtype, kernel):
    """All means at 100 sigma, one at 300, one feature 30 times as wide as the others."""
    layers, _, _ = layers_of(300, (30, 300), torch.float32, offset=100.0)
    for x in layers:
        x[:, 3] += 200
        x[:, 5] = (x[:, 5] - 100) * 30
    layers = [x.to(dtype) for x in layers]
    given = layers, [x.double().mean(0) for x in layers], [(30.0**2 + x.shape[1]) ** -0.5 for x in layers]
    gammas = gammas_of(2, kernel)
    assert float((cka(sums(*given, kernel, gammas)) - cka(op.reference(*given, kernel, gammas))).abs().max()) < CKA


@pytest.mark.parametrize("kernel", ["rbf", "laplacian"])
def test_cka_of_larger_tiles_of_mixed_types(kernel):
    """From 3,072 rows on a tile's side is 192. Through the dispatcher, in its own choice of instructions."""
    layers, shifts, scales = layers_of(3100, (8, 60))
    layers[0] = layers[0].half()
    given, gammas = (layers, shifts, scales), gammas_of(2, kernel)
    found = op.on("native", *given, kernel, gammas)
    assert float((cka(found) - cka(op.reference(*given, kernel, gammas))).abs().max()) < 2e-8


@pytest.mark.parametrize("kernel", ["rbf", "laplacian"])
def test_equal_rows_are_exactly_alike(sums, kernel):
    """A distance of 1e-3, the rounding of |x|^2 + |y|^2 - 2 x.y, would give exp(-1e-3)."""
    x = layers_of(1, (700,))[0][0] * 100
    found = sums([x.repeat(3, 1)], [torch.zeros(700)], [1.0], kernel, [1.0])
    assert found.row_sums.tolist() == [[2.0, 2.0, 2.0]]
    assert found.products.tolist() == [[6.0]]


def test_every_float16_value_is_read_exactly(sums):
    """Rows v_i e_i and one of ones: the sum of row i is v_i. One exponent at a time, the subnormal numbers first."""
    for exponent in range(31):
        bits = torch.arange(0, 1024, 17, dtype=torch.int16) + exponent * 1024
        values = torch.cat([bits, bits - 2**15]).view(torch.float16)
        x = torch.cat([torch.diag(values), values.new_ones(1, len(values))])
        found = sums([x], [torch.zeros(len(values))], [1.0], "linear", [1.0])
        assert torch.equal(found.row_sums[0, :-1], values.double())


@pytest.mark.parametrize("size", [1e-30, 1e-15, 1e15, 1e30])
def test_linear_sums_do_not_depend_on_the_size_of_entries(sums, size):
    """Float32 products of products would be 1e-120, or 1e120."""
    x, unit = layers_of(150, (40,))[0][0], [0.5]
    given = [x * size], [torch.zeros(40)], unit
    assert_sums(sums(*given, "linear", unit), kernel_matrices(*given, "linear", unit), SUM["linear"])


def test_rows_may_be_part_of_a_wider_matrix_and_skip_lines(sums):
    layers, shifts, scales = layers_of(100, (64,))
    view, gammas = [layers[0][::2, 8:40]], gammas_of(1, "rbf")
    given = view, [shifts[0][8:40].contiguous()], scales
    assert_sums(sums(*given, "rbf", gammas), kernel_matrices(*given, "rbf", gammas), SUM["rbf"])


@pytest.mark.parametrize("kernel", KERNELS)
def test_bits_do_not_depend_on_the_number_of_threads_or_the_run(sums, kernel):
    given, gammas = layers_of(500, (16, 40, 24)), gammas_of(3, kernel)
    before, seen = torch.get_num_threads(), []
    try:
        for num_threads in (1, 2, 3, 2, 1):
            torch.set_num_threads(num_threads)
            seen.append(sums(*given, kernel, gammas))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for found in seen[1:] for a, b in zip(found, seen[0], strict=True))


def test_products_and_row_sums_are_symmetric_under_reordering_of_rows(sums):
    layers, shifts, scales = layers_of(211, (12, 30))
    order, gammas = torch.randperm(211, generator=torch.Generator().manual_seed(0)), gammas_of(2, "rbf")
    found = sums(layers, shifts, scales, "rbf", gammas)
    moved = sums([x[order] for x in layers], shifts, scales, "rbf", gammas)
    assert torch.allclose(moved.row_sums, found.row_sums[:, order], rtol=1e-6)
    assert torch.allclose(moved.products, found.products, rtol=1e-7)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_is_named(sums, kernel, bad):
    layers, _, scales = layers_of(120, (8, 8))
    layers[1][97, 5] = bad
    with pytest.raises(RuntimeError, match="layer 1, row 97 is not finite"):
        sums(layers, [torch.zeros(8)] * 2, scales, kernel, gammas_of(2, kernel))


def test_a_bandwidth_that_leaves_nothing_is_an_error(sums):
    """exp(-2000) has no float32; float64 would see zeros too, but for the nearest rows."""
    with pytest.raises(RuntimeError, match="layer 0: nearly all kernel values are zero"):
        sums(*layers_of(50, (20,)), "rbf", [1000.0])


def test_arguments_that_do_not_fit_are_named():
    layers, shifts, scales = layers_of(20, (4, 5))
    shifts = [shift.float() for shift in shifts]
    run = torch.ops.xbridge.gram_sums
    with pytest.raises(RuntimeError, match="kernel must be linear, rbf or laplacian, not cosine"):
        run(layers, shifts, scales, "cosine", [1.0, 1.0])
    with pytest.raises(RuntimeError, match="gamma of layer 1 must be positive, not 0"):
        run(layers, shifts, scales, "rbf", [1.0, 0.0])
    with pytest.raises(RuntimeError, match="shift of layer 0"):
        run(layers, shifts[::-1], scales, "rbf", [1.0, 1.0])
    with pytest.raises(RuntimeError, match="layer 1 must be"):
        run([layers[0], layers[1][1:]], shifts, scales, "rbf", [1.0, 1.0])
    with pytest.raises(RuntimeError, match="one shift, scale and gamma per layer"):
        run(layers, shifts, scales, "rbf", [1.0])
    with pytest.raises(RuntimeError, match="layer 0 must be float16, bfloat16 or float32"):
        run([layers[0].double(), layers[1]], shifts, scales, "rbf", [1.0, 1.0])


def test_the_operator_says_what_it_cannot_take():
    layers, shifts, scales = layers_of(20, (4,))
    assert module.why_not(layers, shifts, scales, "rbf", [1.0]) == ""
    assert "float64" in module.why_not([layers[0].double()], shifts, scales, "rbf", [1.0])
    assert "contiguous" in module.why_not([layers[0].T], shifts, scales, "rbf", [1.0])
    assert "meta" in module.why_not([layers[0].to("meta")], shifts, scales, "rbf", [1.0])


def test_the_operator_keeps_the_rules_of_the_dispatcher():
    layers, shifts, scales = layers_of(20, (4, 5))
    torch.library.opcheck(
        torch.ops.xbridge.gram_sums.default,
        (layers, [s.float() for s in shifts], scales, "rbf", [1.0, 1.0]),
        test_utils=("test_schema", "test_faketensor"),
    )
    means = [s.float().expand(4, -1).contiguous() for s in shifts]
    batch_op(layers, means, scales, "rbf", [1.0, 1.0], 5)  # the first call loads the operator and its shapes
    torch.library.opcheck(
        torch.ops.xbridge.batch_gram_sums.default,
        (layers, means, scales, "rbf", [1.0, 1.0], 5),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", [5, 50, 400])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batches_have_the_sums_that_each_has_by_itself(kernel, size, dtype):
    layers, _, scales = layers_of(3 * size, (20, 33, 7), dtype=dtype)
    shifts = [x.double().unflatten(0, (3, size)).mean(1) for x in layers]
    gammas = gammas_of(3, kernel)
    found = batch_op(layers, shifts, scales, kernel, gammas, size)
    for b in range(3):
        batch = [x[b * size : (b + 1) * size] for x in layers], [shift[b] for shift in shifts]
        totals = GramTotals(found.products[b], found.row_sums[b])
        assert_sums(totals, kernel_matrices(*batch, scales, kernel, gammas), SUM[kernel])


def test_batches_do_not_depend_on_threads_nor_on_what_comes_with_them():
    layers, _, scales = layers_of(4 * 64, (30, 100))
    shifts = [x.double().unflatten(0, (4, 64)).mean(1) for x in layers]
    whole = batch_op(layers, shifts, scales, "linear", [1.0, 1.0], 64)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        again = batch_op(layers, shifts, scales, "linear", [1.0, 1.0], 64)
    finally:
        torch.set_num_threads(threads)
    last = batch_op([x[192:] for x in layers], [s[3:] for s in shifts], scales, "linear", [1.0, 1.0], 64)
    assert torch.equal(again.products, whole.products)
    assert torch.equal(again.row_sums, whole.row_sums)
    assert torch.equal(last.products[0], whole.products[3])


def test_batches_name_what_is_not_finite_and_what_does_not_fit():
    layers, _, scales = layers_of(40, (6, 8))
    shifts = [torch.zeros(4, 6), torch.zeros(4, 8)]
    layers[1][23, 2] = float("inf")
    with pytest.raises(RuntimeError, match="layer 1, row 3 is not finite"):
        batch_op.on("native", layers, shifts, scales, "linear", [1.0, 1.0], 10)
    with pytest.raises(RuntimeError, match="40 rows are not batches of 9"):
        batch_op.on("native", layers, shifts, scales, "linear", [1.0, 1.0], 9)
    assert "float64" in batch_op.why_not("native", [layers[0].double()], shifts, scales, "linear", [1.0], 10)


@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is not installed")
@pytest.mark.parametrize(("level", "block"), [("avx2", 12), ("avx512", 24)])
def test_the_inner_loop_of_the_matrix_product_is_fused_multiply_adds_in_registers(level, block):
    """Instruction sets that this processor lacks are at least compiled to what was meant: no spill, no call."""
    if isa() == "portable":
        pytest.skip("another architecture")
    code = subprocess.run(
        ["objdump", "-dC", "--no-show-raw-insn", f"{__path__[0]}/{LIBRARY}"], capture_output=True, text=True, check=True
    ).stdout
    body = re.search(rf"{level}::multiply_panels\(.*?\)>:\n(.*?)\n\n", code, re.DOTALL)[1].splitlines()
    loops = [loop for loop in innermost_loops(body) if sum("vfmadd" in line for line in loop) == block]
    assert loops
    for loop in loops:
        assert not any(stack in line for line in loop for stack in ("(%rsp", "(%rbp", "call"))
        assert len(loop) <= 2 * block


def innermost_loops(lines):
    """Instructions from a jump's target back to the jump, where no other jump stands between."""
    at = {re.match(r"\s*([0-9a-f]+):", line)[1]: index for index, line in enumerate(lines)}
    jumps = [(i, m[1]) for i, line in enumerate(lines) if (m := re.search(r"\sj\w+\s+([0-9a-f]+)\b", line))]
    inside = [(at[target], i) for i, target in jumps if target in at and at[target] < i]
    return [lines[a : b + 1] for a, b in inside if not any(a <= i < b for i, _ in jumps)]
