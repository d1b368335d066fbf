"""The check that compiles kernels without a GPU passes what is used and can fail."""

import dataclasses
import inspect
import os

import pytest

pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("an interpreted kernel cannot be compiled", allow_module_level=True)

from xbridge.ops.triton import ahead_of_time, configs
from xbridge.ops.triton.configs import Blocks

CASES = {case.name: case for case in ahead_of_time.cases()}


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def first_case(kernel, **constants):
    return next(
        case for case in CASES.values() if case.kernel.endswith(kernel) and constants.items() <= case.constants.items()
    )


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_the_pair_kernel_compiles_without_spills_and_with_matrix_instructions(target):
    case = next(case for case in ahead_of_time.chosen(target) if case.constants.get("KERNEL") == "rbf")
    assert case.kernel == "gram.gram_pair_kernel"
    made = ahead_of_time.compile_case(case, target)
    assert made.problems == ()
    assert made.matrix_instructions > 0


def test_tiles_too_large_for_the_registers_are_reported():
    case = first_case("gram_pair_kernel", KERNEL="rbf")
    crowded = dataclasses.replace(case, blocks=dataclasses.replace(case.blocks, num_warps=4))
    problems = ahead_of_time.compile_case(crowded, "sm_90").problems
    assert any(problem.startswith("spills ") for problem in problems)


def test_too_many_stages_for_the_shared_memory_are_reported():
    case = first_case("gram_diagonal_kernel")
    deep = dataclasses.replace(case, blocks=dataclasses.replace(case.blocks, num_stages=9))
    problems = ahead_of_time.compile_case(deep, "sm_90").problems
    assert any("shared memory" in problem for problem in problems)


def test_every_kernel_has_a_case_and_every_constant_a_value():
    from xbridge.ops.triton.kernels import gram, ingest, neighbours

    kernels = {name for module in (gram, ingest, neighbours) for name in vars(module) if name.endswith("_kernel")}
    assert {case.kernel.split(".")[1] for case in CASES.values()} == kernels
    for case in CASES.values():
        module, name = case.kernel.split(".")
        function = getattr({"gram": gram, "ingest": ingest, "neighbours": neighbours}[module], name)
        parameters = inspect.signature(function.fn).parameters.values()
        constants = {p.name for p in parameters if "constexpr" in str(p.annotation)}
        assert constants <= set(case.constants)


def test_every_operand_tile_has_a_choice_for_64_kilobytes_of_shared_memory():
    choices = [configs.GRAM_PAIR, configs.GRAM_PANEL, configs.GRAM_DIAGONAL, configs.PANEL_SYRK, configs.TILE_MAX]
    choices += list(configs.RESCORE.values())
    assert all(blocks[-1].shared_bytes <= 64 << 10 for blocks in choices)
    assert 2 * configs.PANEL_SYRK_SPLIT[-1].shared_bytes <= 64 << 10


def test_shared_bytes_are_those_of_the_buffered_operand_tiles():
    assert Blocks(128, 128, 64, 8, 3).shared_bytes == 3 * 64 * 256 * 2
