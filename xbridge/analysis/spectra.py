"""Stage: singular values of every weight matrix of a model, and of its change from the base.

With singular values s_1 >= s_2 >= ... of a matrix W:

    frobenius |W|_F = sqrt(sum s_i^2)     spectral |W|_2 = s_1     nuclear sum s_i
    stable rank     |W|_F^2 / |W|_2^2                                        (Rudelson and Vershynin, 2007)
    effective rank  exp(-sum p_i ln p_i), p_i = s_i / sum_j s_j              (Roy and Vetterli, 2007, equation 4)
    relative change |W - W0|_F / |W0|_F

    subspace overlap of rank k: |U' U0|_F^2 / k, with U, U0 the k leading left singular vectors of W and W0, and the
    mean of that and the same for the right ones: 1 = the same leading subspaces, k / rows or cols expected by chance
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from xbridge.core.console import progress
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import write_table

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
SCHEMA = pa.schema(
    [("matrix", pa.string()), ("kind", pa.string()), ("rows", pa.int64()), ("cols", pa.int64()),
     ("stable_rank", pa.float64()), ("effective_rank", pa.float64()), ("frobenius", pa.float64()),
     ("spectral", pa.float64()), ("nuclear", pa.float64()), ("relative_change", pa.float64()),
     ("subspace_overlap", pa.float64()), ("singular_values", pa.list_(pa.float64()))]
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which matrices."""

    matrices: tuple[str, ...] = ("*",)
    """Patterns of matrix names, e.g. [encoder.*.fc1, decoder.*.cross_attn.?]."""
    subspace_rank: int | None = 8
    """Leading singular vectors compared with the base's; cut to the matrix; null = do not compare."""

    def __post_init__(self) -> None:
        if self.subspace_rank is not None and self.subspace_rank < 1:
            raise ConfigError("subspace_rank", "must be at least 1, or null")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the stage reads."""

    model: Path
    """A train folder, or any folder that `from_pretrained` reads."""
    base: Path | None = None
    """The model that it was trained from; null = no rows of kind delta."""


def run(config: Config, inputs: Inputs, out: Path) -> None:
    """Write spectra.parquet: rows of kind weight, and with a base of kind delta (W - W0)."""
    from xbridge.analysis.matrices import load_matrices

    model = _chosen(load_matrices(inputs.model), config.matrices, inputs.model)
    base = None if inputs.base is None else load_matrices(inputs.base)
    if base is not None:
        check_shapes(model, base, inputs.model)
    rows: list[dict[str, Any]] = []
    with progress("spectra", total=len(model), unit="matrix") as bar:
        for name, weight in model.items():
            rows += list(_rows(name, weight, None if base is None else base[name], config.subspace_rank))
            bar.update(1, matrix=name)
    write_table(out / "spectra.parquet", rows, SCHEMA)


def spectrum(weight: "Tensor") -> dict[str, Any]:
    """Norms, ranks and all singular values of (rows, cols), in float64. Ranks of a zero matrix are None."""
    import torch

    values = torch.linalg.svdvals(weight.double())
    largest, total = float(values[0]), float(values.sum())
    frobenius = float(values.square().sum().sqrt())
    shares = values / total if total > 0 else values
    return {
        "rows": weight.shape[0],
        "cols": weight.shape[1],
        "stable_rank": (frobenius / largest) ** 2 if largest > 0 else None,
        "effective_rank": float(torch.special.entr(shares).sum().exp()) if total > 0 else None,
        "frobenius": frobenius,
        "spectral": largest,
        "nuclear": total,
        "singular_values": values.tolist(),
    }


def subspace_overlap(weight: "Tensor", base: "Tensor", rank: int) -> float:
    """Mean share of the leading left and right singular subspaces of `base` inside those of `weight`, in [0, 1]."""
    import torch

    k = min(rank, *weight.shape)
    (u, _, v), (u0, _, v0) = (torch.linalg.svd(w.double(), full_matrices=False) for w in (weight, base))
    left = (u[:, :k].T @ u0[:, :k]).square().sum()
    right = (v[:k] @ v0[:k].T).square().sum()
    return float((left + right) / (2 * k))


def check_shapes(model: "Mapping[str, Tensor]", base: "Mapping[str, Tensor]", folder: Path) -> None:
    """UserError naming the first matrix that the base does not have in the same shape."""
    for name, weight in model.items():
        if name not in base:
            raise UserError(f"{folder}: matrix {name} is not in the base model; are they of one architecture?")
        if weight.shape != base[name].shape:
            shapes = " and ".join("x".join(map(str, w.shape)) for w in (weight, base[name]))
            raise UserError(f"{folder}: matrix {name} is {shapes} in the base model; are they of one architecture?")


def _chosen(matrices: "dict[str, Tensor]", patterns: tuple[str, ...], folder: Path) -> "dict[str, Tensor]":
    for index, pattern in enumerate(patterns):
        if not any(fnmatchcase(name, pattern) for name in matrices):
            known = ", ".join(list(matrices)[:6])
            raise ConfigError(f"matrices.{index}", f"{pattern!r} fits no matrix of {folder}; it has {known}, ...")
    chosen = {name: w for name, w in matrices.items() if any(fnmatchcase(name, p) for p in patterns)}
    for name, weight in chosen.items():
        if not weight.isfinite().all():
            raise UserError(f"{folder}: matrix {name} holds NaN or infinity; the training diverged")
    return chosen


def _rows(name: str, weight: "Tensor", base: "Tensor | None", rank: int | None) -> Iterator[dict[str, Any]]:
    empty = {"relative_change": None, "subspace_overlap": None}
    yield {"matrix": name, "kind": "weight", **empty, **spectrum(weight)}
    if base is None:
        return
    delta = spectrum(weight - base)
    size = float(base.norm())
    yield {
        "matrix": name,
        "kind": "delta",
        **delta,
        "relative_change": delta["frobenius"] / size if size > 0 else None,
        "subspace_overlap": None if rank is None else subspace_overlap(weight, base, rank),
    }
