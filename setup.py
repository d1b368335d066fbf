"""The native operators in csrc/; everything static is in pyproject.toml.

They are optional: without a C++ compiler, or without torch in the environment that builds (use
`pip install --no-build-isolation`), xbridge installs and runs on plain PyTorch, slower. Only torch's stable ABI is
used, so one build serves every torch from 2.11 on.

    XBRIDGE_NATIVE=off      build nothing
    XBRIDGE_CUDA=auto       the CUDA kernels too, where nvcc and a CUDA build of torch are there (the default)
                 off        no CUDA kernels
                 build      the CUDA kernels, with any torch: a CPU machine can build for one with a GPU
                 check      only test the CUDA kernels, without a GPU: compile for sm_90a, print what each kernel uses,
                            link, and fail if one spills registers or the library needs more than torch's stable ABI
    TORCH_CUDA_ARCH_LIST    what to build for, as torch reads it; by default "8.0 9.0+PTX"
"""

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # torch 2.11
FLAGS = ["-std=c++20", "-O3", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wno-unknown-pragmas", STABLE_ABI]
CUDA_FLAGS = ["-std=c++20", "-O3", "-DUSE_CUDA", STABLE_ABI, "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall"]
CUDA_LIBRARY = "xbridge.ops.native._cuda"


def extensions() -> list[Extension]:
    """What is built here: the CPU kernels, the CUDA kernels, both or nothing."""
    cuda = os.environ.get("XBRIDGE_CUDA") or "auto"
    if cuda not in ("auto", "off", "build", "check"):
        sys.exit(f"xbridge: XBRIDGE_CUDA must be auto, off, build or check, not {cuda!r}")
    cpu = os.environ.get("XBRIDGE_NATIVE") != "off" and cuda != "check"
    if not cpu and cuda in ("auto", "off"):
        return []
    try:
        import torch
    except ImportError:
        if cuda in ("build", "check"):
            sys.exit(f"xbridge: XBRIDGE_CUDA={cuda} needs torch in the building environment (--no-build-isolation)")
        print(
            "xbridge: no torch in the building environment, so no native operators (--no-build-isolation)",
            file=sys.stderr,
        )
        return []
    found = [cpu_extension()] if cpu else []
    if cuda in ("build", "check") and nvcc() is None:
        sys.exit(f"xbridge: XBRIDGE_CUDA={cuda} needs nvcc on the PATH or in $CUDA_HOME/bin")
    if cuda in ("build", "check") or (cuda == "auto" and nvcc() is not None and torch.version.cuda is not None):
        found.append(cuda_extension(optional=cuda == "auto"))
    return found


def cpu_extension() -> Extension:
    """The CPU kernels, and the schemas of all operators."""
    from torch.utils.cpp_extension import include_paths, library_paths

    return Extension(
        "xbridge.ops.native._library",
        ["csrc/library.cpp", *sorted(str(p) for p in Path("csrc/cpu").glob("*.cpp"))],
        include_dirs=include_paths(),
        library_dirs=library_paths(),
        libraries=["torch_cpu", "c10"],
        extra_compile_args=FLAGS,
        depends=headers(),
        optional=True,
        py_limited_api=True,  # there is no Python in it: any version can load it
    )


def cuda_extension(*, optional: bool) -> Extension:
    """The CUDA kernels, in a library of their own: it loads only where torch has CUDA."""
    sources = sorted(str(p) for p in Path("csrc/cuda").glob("*.cu"))
    return Extension(CUDA_LIBRARY, sources, depends=headers(), optional=optional, py_limited_api=True)


def headers() -> list[str]:
    return sorted(str(p) for p in Path("csrc").rglob("*") if p.suffix in (".h", ".inl", ".cuh"))


def nvcc() -> str | None:
    """The CUDA compiler."""
    home = os.environ.get("CUDA_HOME")
    return (home and shutil.which("nvcc", path=f"{home}/bin")) or shutil.which("nvcc")


class Build(build_ext):
    """Compile the files side by side; CUDA by nvcc."""

    def build_extensions(self) -> None:
        compile_one = self.compiler.compile

        def compile_many(sources, *args, **kwargs):
            with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
                found = pool.map(lambda source: compile_one([source], *args, **kwargs), sources)
                return [name for names in found for name in names]

        self.compiler.compile = compile_many
        super().build_extensions()

    def build_extension(self, ext) -> None:
        if ext.name != CUDA_LIBRARY:
            super().build_extension(ext)
        elif os.environ.get("XBRIDGE_CUDA") == "check":
            check_cuda(ext.sources, Path(self.build_temp))
        else:
            library = Path(self.get_ext_fullpath(ext.name))
            if self.force or is_older(library, [*ext.sources, *ext.depends]):
                build_cuda(ext.sources, library, Path(self.build_temp))

    def copy_extensions_to_source(self) -> None:
        if os.environ.get("XBRIDGE_CUDA") != "check":
            super().copy_extensions_to_source()


def is_older(library: Path, sources: list[str]) -> bool:
    return not library.exists() or library.stat().st_mtime < max(Path(s).stat().st_mtime for s in sources)


def build_cuda(sources: list[str], library: Path, temporary: Path) -> None:
    objects, _ = compile_cuda(sources, architectures(), temporary)
    link_cuda(objects, library, temporary)


def check_cuda(sources: list[str], temporary: Path) -> None:
    """The gate without a GPU. CompileError if a kernel does not compile or spills, or the library would not load."""
    objects, log = compile_cuda(sources, ["-gencode=arch=compute_90a,code=sm_90a", "-Xptxas=-v"], temporary)
    usage = kernel_usage(log)
    print(f"{'registers':>9} {'shared B':>8} {'stack B':>7} {'spilled B':>9}  kernel (sm_90a)")
    for name, (registers, shared, stack, spilled) in sorted(usage.items()):
        print(f"{registers:9} {shared:8} {stack:7} {spilled:9}  {name}")
    if not usage:
        raise CompileError("no kernel was compiled: nvcc printed nothing that this script understands")
    spilling = [name for name, (_, _, stack, spilled) in usage.items() if stack or spilled]
    if spilling:
        raise CompileError(f"kernels that spill registers or keep arrays in local memory: {', '.join(spilling)}")
    library = temporary / "_cuda.abi3.so"
    link_cuda(objects, library, temporary)
    unstable = unstable_symbols(run(["nm", "--dynamic", "--undefined-only", str(library)]))
    if unstable:
        raise CompileError(f"the CUDA library needs more than torch's stable ABI: {', '.join(unstable)}")
    print(f"{len(usage)} CUDA kernels: no spills; the library links and needs only torch's stable ABI")


def architectures() -> list[str]:
    """nvcc's options for TORCH_CUDA_ARCH_LIST."""
    options = []
    for name in re.split("[ ;]+", os.environ.get("TORCH_CUDA_ARCH_LIST") or "8.0 9.0+PTX"):
        found = re.fullmatch(r"(\d+)\.(\d+a?)(\+PTX)?", name)
        if found is None:
            raise CompileError(f"TORCH_CUDA_ARCH_LIST: expected numbers such as 9.0 or 9.0+PTX, not {name!r}")
        number = found[1] + found[2]
        options.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if found[3]:
            options.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return options


def compile_cuda(sources: list[str], options: list[str], temporary: Path) -> tuple[list[str], str]:
    """Objects, and what the compiler printed."""
    from torch.utils.cpp_extension import include_paths

    includes = [option for path in include_paths() for option in ("-isystem", path)]
    temporary.mkdir(parents=True, exist_ok=True)
    objects = [str(temporary / f"{Path(source).stem}.cuda.o") for source in sources]

    def compile_one(source: str, output: str) -> str:
        print(f"nvcc {source}", flush=True)
        return run([str(nvcc()), *CUDA_FLAGS, *includes, *options, "-c", source, "-o", output])

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return objects, "".join(pool.map(compile_one, sources, objects))


def link_cuda(objects: list[str], library: Path, temporary: Path) -> None:
    """The CUDA runtime goes in; torch stays outside."""
    from torch.utils.cpp_extension import library_paths

    folders = library_paths()
    if not any((Path(folder) / "libtorch_cuda.so").exists() for folder in folders):
        # a CPU build of torch: an empty library of that name, so that the loader finds the real one elsewhere
        empty = ["-x", "c++", os.devnull, "-Wl,-soname,libtorch_cuda.so", "-o", str(temporary / "libtorch_cuda.so")]
        run([os.environ.get("CXX", "c++"), "-shared", "-fPIC", *empty])
        folders = [*folders, str(temporary)]
    library.parent.mkdir(parents=True, exist_ok=True)
    # libstdc++ before torch, which has some of its symbols too, without their versions
    libraries = ["-Xlinker=--no-as-needed", "-lstdc++", "-ltorch_cuda", "-ltorch_cpu", "-lc10"]
    paths = [f"-L{folder}" for folder in folders]
    run([str(nvcc()), "-shared", "-cudart=static", *objects, *paths, *libraries, "-o", str(library)])


def run(command: list[str]) -> str:
    """Everything that a command printed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise CompileError(f"{' '.join(command)}\n{done.stdout}")
    return done.stdout


def kernel_usage(log: str) -> dict[str, tuple[int, int, int, int]]:
    """Of each kernel in ptxas's messages: registers, shared bytes, stack bytes, spilled bytes."""
    usage = {}
    for block in log.split("Compiling entry function '")[1:]:
        stack, stores, loads = (
            int(re.search(rf"(\d+) bytes {what}", block)[1]) for what in ("stack frame", "spill stores", "spill loads")
        )
        shared = re.search(r"(\d+) bytes smem", block)
        registers = int(re.search(r"Used (\d+) registers", block)[1])
        usage[readable(block.split("'")[0])] = (registers, int(shared[1]) if shared else 0, stack, stores + loads)
    return usage


def readable(symbol: str) -> str:
    """name<arguments> of a mangled kernel."""
    if not shutil.which("c++filt"):
        return symbol
    name = run(["c++filt", symbol]).strip().replace("(anonymous namespace)::", "").replace("c10::", "")
    found = re.match(r"(?:void )?(?:\w+::)*(\w+(?:<[^(]*>)?)\(", name)
    return found[1] if found else name


def unstable_symbols(listing: str) -> list[str]:
    """What `nm` lists as undefined beyond torch's C shims, the C and C++ runtimes and weak hooks."""
    symbols = [line.split()[-2:] for line in listing.splitlines() if line.strip()]
    stable = re.compile(r"aoti_torch_\w+|torch_\w+|.+@(GLIBC|GLIBCXX|CXXABI|GCC)_[\d.]+")
    return [name for kind, name in symbols if kind != "w" and not stable.fullmatch(name)]


if __name__ == "__main__":
    setup(
        ext_modules=extensions(),
        cmdclass={"build_ext": Build},
        options={"bdist_wheel": {"py_limited_api": "cp310"}},
    )
