"""The gate for CUDA kernels without a GPU: they compile, spill nothing, link, and do what they should on the CPU."""

import importlib.util
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from setuptools.errors import CompileError

ROOT = Path(__file__).parents[2]
NEEDS_NVCC = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc here")

PTXAS = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN7xbridge5scaleIfLi4EEEvPT_' for 'sm_90a'
ptxas info    : Function properties for _ZN7xbridge5scaleIfLi4EEEvPT_
    8 bytes stack frame, 16 bytes spill stores, 24 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 8 bytes cumulative stack size, 4096 bytes smem
ptxas info    : Compiling entry function '_ZN7xbridge4copyEv' for 'sm_90a'
ptxas info    : Function properties for _ZN7xbridge4copyEv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers, used 0 barriers
"""

SPILLS = """
__global__ void __launch_bounds__(1024, 2) spills(const float* in, float* out) {
  float sums[96];
  for (int i = 0; i < 96; ++i) sums[i] = in[i * 1024 + threadIdx.x];
  for (int turn = 0; turn < 9; ++turn) {
#pragma unroll
    for (int i = 0; i < 96; ++i) sums[i] = sums[i] * sums[(i + 1) % 96] + in[turn];
  }
#pragma unroll
  for (int i = 0; i < 96; ++i) out[i * 1024 + threadIdx.x] = sums[i];
}
"""

UNSTABLE = """
namespace at { void empty(); }
__global__ void fine(float* out) { out[threadIdx.x] = 0; }
void launch(float* out) { at::empty(); fine<<<1, 32>>>(out); }
"""


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("xbridge_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(folder, temporary):
    """XBRIDGE_CUDA=check, in a folder with a setup.py."""
    environment = os.environ | {"XBRIDGE_CUDA": "check"}
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--build-temp", str(temporary)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_registers_shared_memory_and_spills_are_read_from_ptxas(build, monkeypatch):
    monkeypatch.setattr(build, "readable", lambda symbol: symbol)
    assert build.kernel_usage(PTXAS) == {
        "_ZN7xbridge5scaleIfLi4EEEvPT_": (40, 4096, 8, 40),
        "_ZN7xbridge4copyEv": (12, 0, 0, 0),
    }


@pytest.mark.skipif(shutil.which("c++filt") is None, reason="no c++filt here")
def test_kernels_are_named_as_in_the_source(build):
    symbol = "_ZN7xbridge59_GLOBAL__N__6d7e8bd8_15_topk_rescore_cu_a599f1da_1089412rescore_rowsIN3c104HalfELi4EEEvPKT_"
    assert build.readable(
        symbol.replace("59_GLOBAL__N__6d7e8bd8_15_topk_rescore_cu_a599f1da_10894", "12_GLOBAL__N_1")
    ) == ("rescore_rows<Half, 4>")


def test_symbols_beyond_the_stable_abi_are_found(build):
    listing = """
                 w __gmon_start__
                 U aoti_torch_get_dim
                 U torch_list_size
                 U memcpy@GLIBC_2.14
                 U _Znwm@GLIBCXX_3.4
                 U _ZN2at5emptyEv
                 U _ZN3c106detail14torchCheckFailEPKcS2_jRKSs
    """
    assert build.unstable_symbols(listing) == ["_ZN2at5emptyEv", "_ZN3c106detail14torchCheckFailEPKcS2_jRKSs"]


def test_architectures_are_read_as_torch_reads_them(build, monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;9.0a 10.0+PTX")
    assert build.architectures() == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_100,code=sm_100",
        "-gencode=arch=compute_100,code=compute_100",
    ]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "Hopper")
    with pytest.raises(CompileError, match="not 'Hopper'"):
        build.architectures()


def test_cuda_extensions_are_built_when_they_are_wanted(build, monkeypatch):
    import torch

    def names(cuda, compiler, version, native="on"):
        monkeypatch.setenv("XBRIDGE_CUDA", cuda)
        monkeypatch.setenv("XBRIDGE_NATIVE", native)
        monkeypatch.setattr(build, "nvcc", lambda: compiler)
        monkeypatch.setattr(torch.version, "cuda", version)
        return [extension.name.rpartition(".")[2] for extension in build.extensions()]

    assert names("auto", "nvcc", "13.0") == ["_library", "_cuda"]
    assert names("auto", "nvcc", None) == names("auto", None, "13.0") == names("off", "nvcc", "13.0") == ["_library"]
    assert names("build", "nvcc", None) == ["_library", "_cuda"]
    assert names("check", "nvcc", None) == ["_cuda"]
    assert names("auto", "nvcc", "13.0", native="off") == names("off", "nvcc", "13.0", native="off") == []
    with pytest.raises(SystemExit, match="XBRIDGE_CUDA=build needs nvcc"):
        names("build", None, "13.0")
    with pytest.raises(SystemExit, match="must be auto, off, build or check, not 'on'"):
        names("on", "nvcc", "13.0")


@pytest.mark.slow
@NEEDS_NVCC
def test_every_cuda_kernel_compiles_for_sm_90_without_spills_and_links_against_the_stable_abi(tmp_path):
    found = check(ROOT, tmp_path)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "ingest_rows<BFloat16, float, 4>" in found.stdout
    assert "rescore_tiles<Half, 1>" in found.stdout
    assert "needs only torch's stable ABI" in found.stdout


@pytest.mark.slow
@NEEDS_NVCC
@pytest.mark.parametrize(
    ("source", "message"),
    [(SPILLS, "spill registers or keep arrays in local memory: spills"), (UNSTABLE, "stable ABI: _ZN2at5emptyEv")],
    ids=["spills", "unstable"],
)
def test_the_gate_refuses(tmp_path, source, message):
    shutil.copy(ROOT / "setup.py", tmp_path)
    (tmp_path / "csrc" / "cuda").mkdir(parents=True)
    (tmp_path / "csrc" / "cuda" / "bad.cu").write_text(source)
    found = check(tmp_path, tmp_path / "build")
    assert found.returncode != 0
    assert message in found.stderr


def on_cpu(build, folder):
    """The CUDA sources as a library for the CPU."""
    from torch.utils.cpp_extension import include_paths, library_paths

    shim = ROOT / "tests" / "ops" / "cuda_on_cpu"
    sources = [*(ROOT / "csrc" / "cuda").glob("*.cu"), shim / "torch_cuda.cpp", ROOT / "csrc" / "library.cpp"]
    flags = ["-O2", *(flag for flag in build.FLAGS if flag != "-O3"), "-fPIC", "-DUSE_CUDA", "-I", str(shim)]
    includes = [option for path in include_paths() for option in ("-isystem", path)]

    def compile_one(source):
        output = folder / f"{source.stem}.o"
        build.run(["c++", *flags, *includes, "-x", "c++", "-c", str(source), "-o", str(output)])
        return str(output)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    library = folder / "cuda_on_cpu.so"
    libraries = [*(f"-L{path}" for path in library_paths()), "-ltorch_cpu", "-lc10"]
    build.run(["c++", "-shared", "-Wl,-Bsymbolic", *objects, *libraries, "-o", str(library)])
    return library


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None or sys.platform != "linux", reason="no C++ compiler for Linux here")
def test_the_cuda_kernels_pass_their_tests_on_the_cpu(build, tmp_path):
    environment = os.environ | {"XBRIDGE_CUDA_ON_CPU": str(on_cpu(build, tmp_path)), "PYTHONPATH": str(ROOT)}
    cases = str(Path(__file__).with_name("test_cuda_ops.py"))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", cases]
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert " passed" in found.stdout
    assert "skipped" not in found.stdout
