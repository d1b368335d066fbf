"""Compile every kernel as the launchers use it, on a machine without a GPU, and check what came out.

    python -m xbridge.ops.triton.ahead_of_time [--target sm_90 | gfx942 ...] [--only NAME]

For NVIDIA (sm_90): no spills, shared memory within a block's 227 KB, and, for kernels that multiply, warpgroup tensor
core instructions (HGMMA) fed by 16-byte asynchronous copies (LDGSTS.128), without which tiles would not be pipelined.
For AMD (gfx942): no spills, 64 KB of shared memory, matrix instructions (MFMA). Prints a table; the exit status is the
number of kernels that fall short, at most 100.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from xbridge.ops.triton import configs
from xbridge.ops.triton.configs import Blocks

SHARED_LIMIT = {"cuda": 227 << 10, "hip": 64 << 10}
TARGETS = {"sm_90": ("cuda", 90, 32), "gfx942": ("hip", "gfx942", 64)}
POINTERS = {
    "norms_ptr": "*fp32", "x_norms_ptr": "*fp32", "y_norms_ptr": "*fp32", "tile_sums_ptr": "*fp32",
    "row_sums_ptr": "*i64", "x_row_sums_ptr": "*i64", "y_row_sums_ptr": "*i64", "addresses_ptr": "*i64",
    "widths_ptr": "*i32", "params_ptr": "*fp32", "values_ptr": "*fp16", "products_ptr": "*fp64",
    "row_max_ptr": "*fp32", "col_max_ptr": "*fp32", "near_x_ptr": "*fp32", "near_y_ptr": "*fp32",
    "pair_row_ptr": "*i32", "pair_out_ptr": "*i32", "block_tile_ptr": "*i32", "block_first_ptr": "*i32",
    "block_last_ptr": "*i32", "scores_ptr": "*fp32", "column_sums_ptr": "*fp32", "num_bad_ptr": "*i64",
    "first_bad_ptr": "*i64",
}  # fmt: skip
SCALARS = {"low_plane": "i64"} | dict.fromkeys(
    ("x_gamma_log2e", "x_kappa", "x_scale", "y_gamma_log2e", "y_kappa", "y_scale", "to_fixed", "unit", "scale"), "fp32"
)
# Strides and sizes that are multiples of 16 at run time for all but odd shapes; Triton compiles those apart.
MULTIPLES = ("capacity", "low_plane", "d", "stride_row", "stride_out")


@dataclass(frozen=True)
class Case:
    """One kernel with the block sizes and constants of a launch."""

    kernel: str
    """module and name under xbridge.ops.triton.kernels"""
    blocks: Blocks
    constants: Mapping[str, Any]
    types: Mapping[str, str] = field(default_factory=dict)
    """of the arguments whose type varies"""
    planes: int = 1
    """operand tiles of each side that a step holds"""
    multiplies: bool = True

    @property
    def name(self) -> str:
        """Kernel, block sizes and the constants that tell cases apart."""
        tiles = f"{self.blocks.rows}x{self.blocks.cols}x{self.blocks.depth}"
        sizes = {"ROWS", "COLS", "DEPTH", "BLOCK", "PANEL", "GROUP", "ENTRIES", "stride_column"}
        words = [
            f"{v}" if k in ("KERNEL", "SCORE") else f"{k}={v}" for k, v in self.constants.items() if k not in sizes
        ]
        launch = f"w{self.blocks.num_warps} s{self.blocks.num_stages}"
        return " ".join(
            [self.kernel.split(".")[1], tiles, launch, *words, *(t.strip("*") for t in self.types.values())]
        )


class Compiled(NamedTuple):
    """What a compiler made of a case."""

    name: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    matrix_instructions: int
    wide_copies: int
    problems: tuple[str, ...]


def cases() -> Iterator[Case]:
    """All launches of gram_sums, nearest_both_ways, margin_both_ways and ingest."""
    two = {"x_ptr": "*fp16", "y_ptr": "*fp16"}
    for kernel in ("linear", "rbf", "laplacian"):
        for b in configs.GRAM_PAIR:
            sizes = {"BLOCK": b.rows, "DEPTH": b.depth, "PANEL": configs.PANEL_TILES}
            yield Case("gram.gram_pair_kernel", b, {"KERNEL": kernel, **sizes}, two)
        for b in configs.GRAM_PANEL:
            for low in (False, True):
                sizes = {"BLOCK": b.rows, "DEPTH": b.depth}
                yield Case("gram.gram_panel_kernel", b, {"KERNEL": kernel, "LOW": low, **sizes})
    for low, choices in ((False, configs.PANEL_SYRK), (True, configs.PANEL_SYRK_SPLIT)):
        for b in choices:
            sizes = {"ENTRIES": configs.SYRK_ENTRIES, "BLOCK": b.rows, "DEPTH": b.depth}
            yield Case("gram.panel_syrk_kernel", b, {"LOW": low, **sizes}, planes=1 + low)
    for operand in ("*fp16", "*bf16"):
        for b in configs.GRAM_DIAGONAL:
            sizes = {"ROWS": b.rows, "DEPTH": b.depth}
            yield Case("gram.gram_diagonal_kernel", b, sizes, {"x_ptr": operand})
        for score in ("dot", "ratio", "distance") if operand == "*fp16" else ("dot",):
            pair = {"x_ptr": operand, "y_ptr": operand}
            for b in configs.TILE_MAX:
                sizes = {"ROWS": b.rows, "COLS": b.cols, "DEPTH": b.depth, "GROUP": configs.TILE_MAX_GROUP}
                yield Case("neighbours.tile_max_kernel", b, {"SCORE": score, **sizes}, pair)
            for b in (b for choices in configs.RESCORE.values() for b in choices):
                sizes = {"ROWS": b.rows, "COLS": b.cols, "DEPTH": b.depth}
                yield Case("neighbours.rescore_kernel", b, {"SCORE": score, **sizes}, pair)
    for taken, stored in (("*bf16", "*fp16"), ("*fp32", "*fp16"), ("*fp32", "*fp32"), ("*fp64", "*fp16")):
        types = {"rows_ptr": taken, "shift_ptr": "*fp64" if taken == "*fp64" else "*fp32", "out_ptr": stored}
        sizes = {"stride_column": 1, "ROWS": configs.INGEST.rows, "COLS": configs.INGEST.cols}
        yield Case("ingest.ingest_kernel", configs.INGEST, sizes, {**types, "norms_ptr": "*fp64"}, multiplies=False)


def compile_case(case: Case, target: str) -> Compiled:
    """Compile for "sm_90" or "gfx942" and look at the result."""
    from triton import compile as compile_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module, name = case.kernel.split(".")
    function = getattr(import_module(f"xbridge.ops.triton.kernels.{module}"), name)
    known = POINTERS | SCALARS | dict(case.types) | dict.fromkeys(case.constants, "constexpr")
    signature = {argument: known.get(argument, "i32") for argument in function.arg_names}
    aligned = [a.startswith("*") or name in MULTIPLES for name, a in signature.items()]
    source = ASTSource(
        function,
        signature,
        constexprs=dict(case.constants),
        attrs={(i,): [["tt.divisibility", 16]] for i, yes in enumerate(aligned) if yes},
    )
    options = {"num_warps": case.blocks.num_warps, "num_stages": case.blocks.num_stages}
    made = compile_kernel(source, target=GPUTarget(*TARGETS[target]), options=options)
    read = _read_cubin if target.startswith("sm_") else _read_amd
    return _judged(Compiled(case.name, *read(made), ()), case, TARGETS[target][0])


def _judged(made: Compiled, case: Case, backend: str) -> Compiled:
    problems = []
    if made.spill_bytes:
        problems.append(f"spills {made.spill_bytes} bytes")
    if made.shared_bytes > SHARED_LIMIT[backend]:
        problems.append(f"{made.shared_bytes} bytes of shared memory, more than {SHARED_LIMIT[backend]}")
    if case.multiplies and not made.matrix_instructions:
        problems.append("no matrix instructions")
    if case.multiplies and backend == "cuda" and not made.wide_copies:
        problems.append("no 16-byte asynchronous copies")
    return made._replace(problems=tuple(problems))


def _read_cubin(made: Any) -> tuple[int, int, int, int, int]:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(made.asm["cubin"])
        usage, assembly = (
            subprocess.run([tool, flag, file.name], check=True, capture_output=True, text=True).stdout
            for flag in ("-res-usage", "-sass")
        )
    figures = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    spilled = figures["STACK"] + figures["LOCAL"]
    if not spilled and re.search(r"\b(STL|LDL)\b", assembly):
        spilled = 4
    copies = len(re.findall(r"\bLDGSTS\S*\.128\b", assembly))
    return figures["REG"], spilled, made.metadata.shared, len(re.findall(r"\bHGMMA\b", assembly)), copies


def _read_amd(made: Any) -> tuple[int, int, int, int, int]:
    assembly = made.asm["amdgcn"]
    figures = {key: int(value) for key, value in re.findall(r"\.(vgpr_count|vgpr_spill_count):\s+(\d+)", assembly)}
    spilled = 4 * figures["vgpr_spill_count"]
    return figures["vgpr_count"], spilled, made.metadata.shared, len(re.findall(r"\bv_mfma", assembly)), 0


def chosen(target: str) -> list[Case]:
    """The cases that can be launched on a target: those that fit its shared memory."""
    limit = SHARED_LIMIT[TARGETS[target][0]]
    return [case for case in cases() if case.planes * case.blocks.shared_bytes <= limit]


def main() -> None:
    """Compile, print a line per kernel, exit with the number of those that fall short."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=TARGETS, nargs="+", default=list(TARGETS))
    parser.add_argument("--only", default="", help="compile the kernels whose names hold this")
    options = parser.parse_args()
    work = [(case, t) for t in options.target for case in chosen(t) if options.only in case.name]
    width = max(len(case.name) for case, _ in work)
    short = 0
    print(f"{'kernel':{width}}  target  registers  spilled  shared  matrix  16-byte copies")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache  # an earlier run's results would hide what this compiler does
        with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
            for (_, target), made in zip(work, pool.map(compile_case, *zip(*work, strict=True)), strict=True):
                short += bool(made.problems)
                figures = f"{made.registers:9}  {made.spill_bytes:7}  {made.shared_bytes:6}"
                counts = f"{made.matrix_instructions:6}  {made.wide_copies:14}  {'; '.join(made.problems)}"
                print(f"{made.name:{width}}  {target:6}  {figures}  {counts}".rstrip(), flush=True)
    print(f"{len(work)} compiled, {short} fall short")
    sys.exit(min(short, 100))


if __name__ == "__main__":
    main()
