"""`xbridge doctor`: versions, devices and optional parts, each with the reason why it is or is not usable here."""

import importlib.util
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

from xbridge.core.artifact import machine, versions
from xbridge.core.network import is_offline
from xbridge.study.status import format_bytes, table

Finding = tuple[str, str, str]
"""(what, state: yes | no | note, detail)."""


def report() -> str:
    """All findings as a table."""
    checks: tuple[Callable[[], list[Finding]], ...] = (
        _system, _packages, _devices, _operators, _distributed, _optional_packages, _programs, _storage,
    )  # fmt: skip
    return table(("what", "usable", "detail"), [finding for check in checks for finding in check()])


def _system() -> list[Finding]:
    here = machine()
    return [
        ("system", "yes", f"{platform.platform()}"),
        ("processor", "yes", f"{here['processor']}, {here['cores']} cores"),
    ]


def _packages() -> list[Finding]:
    return [(name, "yes", version) for name, version in versions().items()]


def _devices() -> list[Finding]:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        kind = "ROCm" if torch.version.hip else f"CUDA {torch.version.cuda}"
        findings = [("gpu", "yes", f"{kind}: {', '.join(names)}")]
    elif torch.version.cuda is None and torch.version.hip is None:
        findings = [("gpu", "no", "this is a CPU build of torch; everything runs, slower")]
    else:
        findings = [("gpu", "no", "torch can use one, but the driver shows none")]
    capability = torch.backends.cpu.get_cpu_capability()
    return [*findings, ("cpu kernels", "yes", f"{capability}, {torch.get_num_threads()} threads by default")]


def _operators() -> list[Finding]:
    """Which of our own kernels can run here; what cannot is done by plain PyTorch."""
    import torch

    from xbridge.ops import native
    from xbridge.ops.triton.device import why_not_here

    reasons = {
        f"C++ operators ({native.isa()})": native.why_unavailable(),
        "CUDA operators": native.why_no_cuda(),
        "Triton operators": why_not_here([torch.empty(0, device="cuda" if torch.cuda.is_available() else "cpu")]),
    }
    findings = [(name, "no" if why else "yes", why or "ready") for name, why in reasons.items()]
    forced = os.environ.get("XBRIDGE_BACKEND")
    return findings + ([("operators", "note", f"XBRIDGE_BACKEND={forced} decides for all")] if forced else [])


def _distributed() -> list[Finding]:
    import torch.distributed as dist

    if not dist.is_available():
        return [("torch.distributed", "no", "this build of torch has none: one process only")]
    backends = [
        name for name, there in (("gloo", dist.is_gloo_available()), ("nccl", dist.is_nccl_available())) if there
    ]
    return [("torch.distributed", "yes", ", ".join(backends))]


def _optional_packages() -> list[Finding]:
    parts = {
        "deepspeed": "ZeRO (extra `scale`, Linux)",
        "triton": "GPU kernels (extra `scale`, Linux)",
        "matplotlib": "figures of the report (extra `report`)",
        "hassil": "intent sentences of the quickstart (extra `study`)",
        "sacrebleu": "BLEU, chrF and chrF++ (extra `study`)",
        "tensorboard": "watching trainings (extra `logging`)",
        "zstandard": "reading .zst corpora (extra `study`)",
    }
    return [(name, "yes" if importlib.util.find_spec(name) else "no", purpose) for name, purpose in parts.items()]


def _programs() -> list[Finding]:
    compiler = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    srun = shutil.which("srun")
    return [
        ("C++ compiler", "yes" if compiler else "no", compiler or "none found; not required"),
        ("nvcc", "yes" if shutil.which("nvcc") else "no", "CUDA kernels; not required"),
        ("Slurm", "yes" if srun else "no", srun or "no srun here; studies run locally"),
    ]


def _storage() -> list[Finding]:
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    offline = is_offline()
    return [
        ("disk", "yes" if free > 5e9 else "note", f"{format_bytes(free)} free in the current folder"),
        ("network", "no" if offline else "yes", "refused by XBRIDGE_OFFLINE=1" if offline else "allowed"),
    ]
