"""Stage folders: what a stage wrote, from what, and whether it is complete.

    runs/<study>/<stage>/<name>-<digest12>/
        config.json      the resolved config and inputs, written first
        ...              what the stage writes
        manifest.json    written last, by an atomic rename: it exists = the stage is complete

The digest names results: stage, its `VERSION`, its config and its parents' digests. The manifest also holds what does
not name them: versions, hardware, wall time.
"""

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from xbridge import __version__
from xbridge.core.errors import UserError
from xbridge.core.files import read_json, size_of, write_json

MANIFEST = "manifest.json"
PACKAGES = ("torch", "transformers", "accelerate", "datasets", "sentencepiece", "deepspeed", "numpy", "pyarrow")


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One stage's folder. `labels` say what it is in its study, e.g. {"arm": "mt", "seed": 0}."""

    stage: str
    name: str
    digest: str
    path: Path
    labels: Mapping[str, str | int]

    def is_complete(self) -> bool:
        """True when the manifest is there and is this digest's."""
        manifest = self.path / MANIFEST
        return manifest.exists() and read_json(manifest)["digest"] == self.digest

    def begin(self, config: Any, inputs: Any) -> None:
        """Make the folder and record what will be run. Files of an interrupted run stay, for the stage to resume."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / MANIFEST).unlink(missing_ok=True)
        write_json(self.path / "config.json", {"stage": self.stage, "config": config, "inputs": inputs})

    def finish(self, *, seconds: float, cpu_seconds: float, parents: Mapping[str, str]) -> None:
        """Write the manifest: from here on the stage is complete and is never run again."""
        write_json(
            self.path / MANIFEST,
            {
                "stage": self.stage,
                "name": self.name,
                "digest": self.digest,
                "labels": dict(self.labels),
                "parents": dict(parents),
                "seconds": round(seconds, 3),
                "cpu_seconds": round(cpu_seconds, 3),
                "bytes": size_of(self.path),
                "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "machine": machine(),
                "versions": versions(),
            },
        )


def folder_name(name: str, digest: str) -> str:
    """`<name>-<digest12>`, the folder of a stage."""
    return f"{name}-{digest[:12]}"


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a complete stage folder; `UserError` where it is missing."""
    if not (path / MANIFEST).exists():
        raise UserError(f"{path}: not a finished stage (no {MANIFEST}); run the stage that makes it first")
    manifest: dict[str, Any] = read_json(path / MANIFEST)
    return manifest


def versions() -> dict[str, str]:
    """Versions of Python, xbridge and the packages that results can depend on; absent packages are left out."""
    found = {"python": platform.python_version(), "xbridge": __version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str | int]:
    """Operating system and processor, for the report; no host or user name."""
    return {"system": platform.system(), "processor": _processor(), "cores": os.cpu_count() or 1}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
