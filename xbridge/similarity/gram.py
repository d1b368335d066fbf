"""CKA in Gram space, exact over the whole sample: any kernel, memory free of n x n.

The sums come from the operator `gram_sums` (float64 in plain PyTorch, or float32 tiles with float64 sums in C++ or
Triton), which computes every layer's tile once for all pairs of layers. Both estimators of HSIC follow from the sums
off the diagonal; the biased one adds the diagonal by rule: |z_i|^2 for the linear kernel, 1 for the others.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xbridge.ops.batch_gram_sums import batch_gram_sums
from xbridge.ops.dispatch import Backend, checked
from xbridge.ops.gram_sums import GramTotals, TileKernel, gram_sums
from xbridge.ops.hsic import Estimator, HsicSums, cka_from_sums
from xbridge.similarity.kernels import Bandwidth, Kernel, KernelLayer, check_kernel, kernel_layers, unit_rows
from xbridge.similarity.rows import Rows, as_chunk, as_rows

EXACT_WORK = 1e10  # multiply-adds below which "auto" takes float64: about a second of one core


def whole_sample_sums(
    layers: Mapping[str, Tensor],
    *,
    split: int | None,
    kernel: TileKernel,
    kernels: Sequence[KernelLayer],
    estimator: Estimator,
    backend: Backend = "auto",
    exact_below: float = EXACT_WORK,
) -> HsicSums:
    """The sums of HSIC of all pairs of `layers`, or of those across `split`. Each layer: (n, d_l), checked.

    "auto" is the reference for less work than `exact_below` multiply-adds.
    """
    rows = list(layers.values())
    n, num_features = len(rows[0]), sum(x.shape[1] for x in rows)
    if checked(backend) == "auto" and n * n * num_features < exact_below:
        backend = "reference"
    shifts, scales, gammas = [k.shift for k in kernels], [k.scale for k in kernels], [k.gamma for k in kernels]
    totals = gram_sums.on(backend, rows, shifts, scales, kernel, gammas)
    if estimator == "biased":
        diagonal_SN = _diagonals(rows, shifts, kernels, kernel)
        totals = GramTotals(totals.products + diagonal_SN @ diagonal_SN.T, totals.row_sums + diagonal_SN)
    return _as_hsic_sums(totals, split)


def batch_sums(
    layers: Sequence[Tensor],
    means: Sequence[Tensor],
    *,
    split: int | None,
    kernel: TileKernel,
    kernels: Sequence[KernelLayer],
    estimator: Estimator,
) -> HsicSums:
    """The sums of HSIC of each of B batches of equally many rows, about their means: with a leading axis of batches.

    layers: (n, d_l) each, finite; means: (B, d_l) each, as of `batch_means`.
    """
    size = len(layers[0]) // len(means[0])
    totals = batch_gram_sums(layers, means, [k.scale for k in kernels], kernel, [k.gamma for k in kernels], size)
    if estimator == "biased":
        batches = [torch.split(x, size) for x in layers]
        diagonal_BSN = torch.stack(
            [_diagonals([x[b] for x in batches], [m[b] for m in means], kernels, kernel) for b in range(len(means[0]))]
        )
        totals = GramTotals(totals.products + diagonal_BSN @ diagonal_BSN.mT, totals.row_sums + diagonal_BSN)
    return _as_hsic_sums(totals, split)


def batch_means(x: Tensor, size: int) -> Tensor:
    """The mean of every run of `size` rows, one by one, so that it is the same whatever comes along: (B, d) float64."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.stack([batch.mean(0, dtype=dtype) for batch in torch.split(x, size)]).double()


class GramSums:
    """All rows of several layers, kept, for CKA with any kernel. Memory: the rows; n^2 F / 2 multiply-adds when read.

    dims: features of each layer. split: as for `SecondMoments`. kernel, bandwidth: as for `cka_matrix`. Rows may come
    in any chunks. For streams longer than memory use `MinibatchSums`, or `SecondMoments` with the linear kernel.
    """

    def __init__(
        self,
        dims: Sequence[int],
        *,
        kernel: Kernel = "linear",
        bandwidth: Bandwidth = "median",
        split: int | None = None,
        names: Sequence[str] | None = None,
    ):
        check_kernel(kernel)
        if callable(kernel):
            raise ValueError("GramSums takes the kernels by name; give a kernel of your own to cka_matrix")
        self.dims, self.split, self.kernel, self.bandwidth = tuple(dims), split, kernel, bandwidth
        self.names = tuple(names or (f"layer {i}" for i in range(len(dims))))
        self._chunks: list[list[Tensor]] = [[] for _ in self.dims]

    @property
    def num_examples(self) -> int:
        """Rows seen so far."""
        return sum(map(len, self._chunks[0]))

    def update(self, chunk: Sequence[Rows]) -> None:
        """Add rows, copied: one (rows, d_l) matrix per layer, any float type."""
        if len(chunk) != len(self.dims):
            raise ValueError(f"expected {len(self.dims)} layers, got {len(chunk)}")
        rows = [as_chunk(x, name).clone() for x, name in zip(chunk, self.names, strict=True)]
        for name, x, dim in zip(self.names, rows, self.dims, strict=True):
            if x.shape != (len(rows[0]), dim):
                raise ValueError(f"{name}: expected {(len(rows[0]), dim)}, got {tuple(x.shape)}")
        for kept, x in zip(self._chunks, rows, strict=True):
            kept.append(x)

    def merge(self, other: "GramSums") -> None:
        """Add another's rows after this one's."""
        if (other.dims, other.split, other.kernel, other.bandwidth) != (
            self.dims, self.split, self.kernel, self.bandwidth,
        ):  # fmt: skip
            raise ValueError("the two have other layers, kernels or bandwidths")
        for kept, more in zip(self._chunks, other._chunks, strict=True):
            kept.extend(more)

    def all_reduce(self, group: "torch.distributed.ProcessGroup | None" = None) -> None:
        """Gather the rows of all ranks, in rank order: every rank then holds all of them. Collective."""
        import torch.distributed as dist

        world = dist.get_world_size(group)
        counts = [torch.zeros(1, dtype=torch.int64) for _ in range(world)]
        dist.all_gather(counts, torch.tensor([self.num_examples]), group=group)
        longest = int(max(counts))
        for layer, dim in enumerate(self.dims):
            mine = self.rows(layer)
            padded = torch.zeros(longest, dim, dtype=torch.float64)
            padded[: len(mine)] = mine
            gathered = [torch.empty_like(padded) for _ in range(world)]
            dist.all_gather(gathered, padded, group=group)
            self._chunks[layer] = [x[: int(n)].to(mine.dtype) for x, n in zip(gathered, counts, strict=True)]

    def rows(self, layer: int) -> Tensor:
        """All rows of a layer: (n, d)."""
        kept = self._chunks[layer]
        if len(kept) > 1:
            self._chunks[layer] = kept = [torch.cat(kept)]
        return kept[0] if kept else torch.empty(0, self.dims[layer])

    def cka(self, estimator: Estimator = "unbiased", *, backend: Backend = "auto") -> np.ndarray:
        """CKA, float64: (S, S), or (split, S - split). NaN where a layer's HSIC with itself is zero."""
        least = 4 if estimator == "unbiased" else 2
        if self.num_examples < least:
            raise ValueError(f"{self.num_examples} examples: the {estimator} estimator needs at least {least}")
        layers = {name: self.rows(i) for i, name in enumerate(self.names)}
        layers, kernel = prepared(layers, self.kernel)
        sums = whole_sample_sums(
            layers,
            split=self.split,
            kernel=kernel,
            kernels=kernel_layers(layers, kernel, self.bandwidth),
            estimator=estimator,
            backend=backend,
        )
        return cka_from_sums(sums, estimator).cpu().numpy()

    def save(self, path: str | Path) -> None:
        """Write the rows as safetensors, atomically."""
        from xbridge.similarity.statefile import save_state

        scalars = {"dims": list(self.dims), "split": self.split, "kernel": self.kernel, "bandwidth": self.bandwidth}
        save_state(path, "GramSums", {str(i): self.rows(i) for i in range(len(self.dims))}, scalars)

    @classmethod
    def load(cls, path: str | Path) -> "GramSums":
        """Read what `save` wrote. ValueError for a file that is something else."""
        from xbridge.similarity.statefile import load_state

        tensors, scalars = load_state(path, "GramSums")
        sums = cls(scalars.pop("dims"), **scalars)
        sums._chunks = [[tensors[str(i)]] for i in range(len(sums.dims))]
        return sums


def prepared(layers: Mapping[str, Tensor], kernel: Kernel) -> tuple[dict[str, Tensor], TileKernel]:
    """Rows checked to be finite, and of unit length for the cosine kernel, which then is the linear one."""
    for name, x in layers.items():
        _check_finite(x, name)
    if kernel == "cosine":
        return {name: unit_rows(x, name) for name, x in layers.items()}, "linear"
    assert not callable(kernel)
    return dict(layers), kernel


def _check_finite(x: Tensor, name: str) -> None:
    for start in range(0, len(x), 4096):
        block = x[start : start + 4096]
        if not bool(torch.isfinite(block.sum(1, dtype=torch.float64)).all()):
            as_rows(x, name)  # names the row


def _diagonals(
    layers: Sequence[Tensor], shifts: Sequence[Tensor], kernels: Sequence[KernelLayer], kernel: TileKernel
) -> Tensor:
    """k(x_i, x_i) of every layer: (S, n) float64."""
    if kernel != "linear":
        return torch.ones(len(layers), len(layers[0]), dtype=torch.float64, device=layers[0].device)
    return torch.stack(
        [
            torch.cat([((b.double() - shift.to(x.device)) * k.scale).square().sum(1) for b in torch.split(x, 4096)])
            for x, shift, k in zip(layers, shifts, kernels, strict=True)
        ]
    )


def _as_hsic_sums(totals: GramTotals, split: int | None) -> HsicSums:
    products, r_SN = totals  # and any leading axes
    num_layers, n = r_SN.shape[-2:]
    a, b = slice(0, split or num_layers), slice(split or 0, num_layers)
    own, own_rows, own_totals = products.diagonal(dim1=-2, dim2=-1), r_SN.square().sum(-1), r_SN.sum(-1)
    return HsicSums(
        pair=products[..., a, b],
        pair_rows=r_SN[..., a, :] @ r_SN[..., b, :].mT,
        left=own[..., a],
        left_rows=own_rows[..., a],
        left_total=own_totals[..., a],
        right=own[..., b],
        right_rows=own_rows[..., b],
        right_total=own_totals[..., b],
        num_examples=torch.tensor(float(n), dtype=torch.float64, device=r_SN.device),
    )
