"""The native operators in csrc/; everything static is in pyproject.toml.

They are optional: without a C++ compiler, or without torch in the environment that builds (use
`pip install --no-build-isolation`), xbridge installs and runs on plain PyTorch, slower. Only torch's stable ABI is
used, so one build serves every torch from 2.11 on.

    XBRIDGE_NATIVE=off      build nothing
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # torch 2.11
FLAGS = ["-std=c++20", "-O3", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wno-unknown-pragmas", STABLE_ABI]


def cpu_extension() -> list[Extension]:
    """The CPU kernels, when they can be built here."""
    if os.environ.get("XBRIDGE_NATIVE") == "off":
        return []
    try:
        from torch.utils.cpp_extension import include_paths, library_paths
    except ImportError:
        print(
            "xbridge: no torch in the building environment, so no native operators (--no-build-isolation)",
            file=sys.stderr,
        )
        return []
    sources = ["csrc/library.cpp", *sorted(str(p) for p in Path("csrc/cpu").glob("*.cpp"))]
    return [
        Extension(
            "xbridge.ops.native._library",
            sources,
            include_dirs=include_paths(),
            library_dirs=library_paths(),
            libraries=["torch_cpu", "c10"],
            extra_compile_args=FLAGS,
            depends=sorted(str(p) for p in Path("csrc").rglob("*") if p.suffix in (".h", ".inl")),
            optional=True,
            py_limited_api=True,  # there is no Python in it: any version can load it
        )
    ]


class Build(build_ext):
    """Compile the files side by side."""

    def build_extensions(self) -> None:
        from concurrent.futures import ThreadPoolExecutor

        compile_one = self.compiler.compile

        def compile_many(sources, *args, **kwargs):
            with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
                found = pool.map(lambda source: compile_one([source], *args, **kwargs), sources)
                return [name for names in found for name in names]

        self.compiler.compile = compile_many
        super().build_extensions()


setup(ext_modules=cpu_extension(), cmdclass={"build_ext": Build})
