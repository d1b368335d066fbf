"""The machine code of the AMX kernels is what was meant. No machine with AMX is needed to read it."""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import xbridge.ops.native as native

LIBRARY = Path(native.__file__).with_name(native.LIBRARY)
pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or not LIBRARY.exists() or shutil.which("objdump") is None,
    reason="needs the library, built for x86-64, and objdump",
)
# prologues may put a constant on the stack; a spilled sum costs a store of a vector in every step
SPILL = re.compile(r"vmov\w+\s+%zmm\d+,[-\w]*\(%r[sb]p")


@pytest.fixture(scope="module")
def bodies():
    """The name and the instructions of every function."""
    command = ["objdump", "--disassemble", "--demangle", "--no-show-raw-insn", "--section=.text", str(LIBRARY)]
    found: list[tuple[str, list[str]]] = []
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        header = re.match(r"[0-9a-f]+ <(.*)>:$", line)
        if header:
            found.append((header.group(1), []))
        elif "\t" in line:
            found[-1][1].append(line.split("\t", 1)[1])
    return found


@pytest.fixture(scope="module")
def functions(bodies):
    """Instructions of the functions of namespaces `amx`, by their plain names; instances of a template together."""
    found: dict[str, list[list[str]]] = {}
    for full_name, body in bodies:
        name = re.search(r"\(anonymous namespace\)::amx::(\w+)", full_name)
        if name:
            found.setdefault(name.group(1), []).append(body)
    return found


def test_other_functions_run_on_older_processors(bodies):
    for name, body in bodies:
        if "::amx::" not in name and "::avx512::" not in name:
            assert not any("zmm" in line or "tmm" in line for line in body), name


def test_products_are_four_tile_instructions_for_four_loads(functions):
    assert len(functions["multiply_strips"]) == 2  # one starts from zero, one adds
    for body in functions["multiply_strips"]:
        assert sum(line.startswith("tdpbf16ps") for line in body) == 4
        first, last = (i for i in (index_of(body, "tdpbf16ps"), len(body) - 1 - index_of(body[::-1], "tdpbf16ps")))
        assert last - first == 3, "something stands between the products"
        loads = [line for line in body[first - 12 : first] if line.startswith("tileloadd")]
        assert len(loads) == 4
        assert not any("zmm" in line for line in body)


def index_of(body, mnemonic):
    return next(i for i, line in enumerate(body) if line.startswith(mnemonic))


def test_operands_are_tiles_c_a_b(functions):
    """AT&T order: the right operand, the left one, the sum."""
    for body in functions["multiply_strips"]:
        products = [re.findall(r"tmm(\d)", line) for line in body if line.startswith("tdpbf16ps")]
        assert products == [["6", "4", "0"], ["7", "4", "1"], ["6", "5", "2"], ["7", "5", "3"]]


def test_kernel_values_are_computed_in_wide_fused_steps(functions):
    (body,) = functions["finish"]
    fused = [line for line in body if re.match(r"vfn?m(add|sub)\d+ps", line)]
    assert len([line for line in fused if "zmm" in line]) >= 12, "an exponential and its argument, for two curves"
    assert not any(re.match(r"(vsqrtss|vfn?madd\d+ss|call.*exp)", line) for line in body)


@pytest.mark.parametrize("name", ["finish", "layer_products_of"])
def test_sums_stay_in_registers(functions, name):
    for body in functions[name]:
        fused = [i for i, line in enumerate(body) if re.match(r"vfn?madd\d+ps.*zmm", line)]
        hot = body[fused[0] : fused[-1] + 1]
        assert sum(bool(SPILL.match(line)) for line in hot) == 0


def test_tiles_are_released(functions):
    assert any("tilerelease" in line for body in functions["release"] for line in body)
    assert any("ldtilecfg" in line for body in functions["configure"] for line in body)
