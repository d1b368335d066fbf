"""Minibatch CKA (Nguyen et al., 2021, section 2.2): HSIC summed over disjoint batches, divided once; with its error.

    CKA = sum_b HSIC_b(K, L) / sqrt(sum_b HSIC_b(K, K) sum_b HSIC_b(L, L))

One pass, memory free of n, n b F multiply-adds: an estimate of the CKA of the whole sample, not that number itself.
With the unbiased HSIC_1 it estimates the same population value at any batch size; the biased HSIC_0 keeps the bias of
one batch. The standard error is the delta method's over batches: with e_b the batch's influence on the ratio,

    se^2 = B / (B - 1) sum_b e_b^2,   e_b = (h_b(K,L) / sqrt(PQ) - CKA (h_b(K,K) / 2P + h_b(L,L) / 2Q)) / B

Shape letters: B batch rows, S layers, D features.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xbridge.ops.gram_sums import GramBlocks
from xbridge.ops.hsic import Estimator, HsicSums, hsics
from xbridge.similarity.gram import batch_means, batch_sums
from xbridge.similarity.kernels import Bandwidth, Kernel, KernelLayer, check_kernel, kernel_layers, unit_rows
from xbridge.similarity.rows import Rows, as_chunk

FIELDS = (
    "pair", "left", "right", "pair2", "left2", "right2", "pair_left", "pair_right", "left_right",
)  # fmt: skip


class MinibatchSums:
    """Sums of HSIC over batches of rows, in the order in which they come, whatever the chunks.

    dims, split: as for `SecondMoments`. kernel, bandwidth: as for `cka_matrix`; a median bandwidth is the first
    batch's.
    batch_size: rows per batch, at least 4; the last batch takes what is left over, and up to 3 rows more than the
    others rather than leave out rows. Batches are weighted by their rows.
    """

    def __init__(
        self,
        dims: Sequence[int],
        *,
        batch_size: int = 256,
        kernel: Kernel = "linear",
        bandwidth: Bandwidth = "median",
        estimator: Estimator = "unbiased",
        split: int | None = None,
        names: Sequence[str] | None = None,
        kernels: Sequence[KernelLayer] | None = None,
    ):
        check_kernel(kernel)
        if batch_size < 4:
            raise ValueError(f"batch_size must be at least 4, got {batch_size}")
        self.dims, self.split, self.batch_size = tuple(dims), split, batch_size
        self.kernel, self.bandwidth, self.estimator = kernel, bandwidth, estimator
        self.names = tuple(names or (f"layer {i}" for i in range(len(dims))))
        self.num_examples, self.num_batches = 0, 0
        self._kernels, self._given = None if kernels is None else list(kernels), kernels is not None
        self._pending: list[list[Tensor]] = [[] for _ in self.dims]
        self._num_pending = 0
        self._sums = self._zeros()

    def update(self, chunk: Sequence[Rows]) -> None:
        """Add rows: one (rows, d_l) matrix per layer, any float type. ValueError names a layer and row not finite."""
        if len(chunk) != len(self.dims):
            raise ValueError(f"expected {len(self.dims)} layers, got {len(chunk)}")
        rows = [as_chunk(x, name) for x, name in zip(chunk, self.names, strict=True)]
        for name, x, dim in zip(self.names, rows, self.dims, strict=True):
            if x.shape != (len(rows[0]), dim):
                raise ValueError(f"{name}: expected {(len(rows[0]), dim)}, got {tuple(x.shape)}")
        for kept, x in zip(self._pending, rows, strict=True):
            kept.append(x)
        self._num_pending += len(rows[0])
        self._consume(self.batch_size + 4)
        self._pending = [[x.clone() for x in kept] for kept in self._pending]

    def merge(self, other: "MinibatchSums") -> None:
        """Add another's batches. Rows that do not fill a batch yet become one of their own, on both sides.

        The result is that of one stream where shares are whole batches. ValueError for a median bandwidth, which each
        stream takes from its own rows.
        """
        self._require_one_bandwidth()
        if (other.dims, other.split, other.estimator) != (self.dims, self.split, self.estimator):
            raise ValueError("the two have other layers or another estimator")
        self._finish()
        other._finish()
        self._sums = {key: value + other._sums[key] for key, value in self._sums.items()}
        self.num_examples += other.num_examples
        self.num_batches += other.num_batches
        self._kernels = self._kernels or other._kernels

    def all_reduce(self, group: "torch.distributed.ProcessGroup | None" = None) -> None:
        """Add up the sums of all ranks; every rank then holds the whole. Collective. ValueError as `merge`."""
        import torch.distributed as dist

        self._require_one_bandwidth()
        self._finish()
        counts = torch.tensor([self.num_examples, self.num_batches])
        for tensor in (counts, *self._sums.values()):
            dist.all_reduce(tensor, group=group)
        self.num_examples, self.num_batches = counts.tolist()

    def cka(self) -> np.ndarray:
        """The estimate, float64: (S, S), or (split, S - split). NaN where a layer's own HSIC is not positive."""
        self._finish()
        if self.num_batches == 0:
            raise ValueError(f"{self.num_examples} examples: a batch needs at least 4")
        ratio = self._sums["pair"] / self._norms()
        return ratio.cpu().numpy()

    def stderr(self) -> np.ndarray:
        """Standard error of `cka`, over batches (delta method), same shape. ValueError for fewer than two batches."""
        self._finish()
        if self.num_batches < 2:
            raise ValueError("the standard error over batches needs at least two of them; use a smaller batch_size")
        s, norms = self._sums, self._norms()
        value, p, q = s["pair"] / norms, s["left"][:, None], s["right"][None, :]
        # sum_b (u h_xy - v h_xx - w h_yy)^2 with u, v, w constant over batches
        u, v, w = 1 / norms, value / (2 * p), value / (2 * q)
        squares = u**2 * s["pair2"] + v**2 * s["left2"][:, None] + w**2 * s["right2"][None, :]
        crossed = -2 * u * v * s["pair_left"] - 2 * u * w * s["pair_right"] + 2 * v * w * s["left_right"]
        count = self.num_batches
        # a layer against itself has no spread: what is left there is rounding, of either sign
        return (count / (count - 1) * (squares + crossed).clamp_min(0)).sqrt().cpu().numpy()

    def save(self, path: str | Path) -> None:
        """Write the sums as safetensors, atomically; rows of an unfinished batch become a batch of their own."""
        from xbridge.similarity.statefile import save_state

        self._finish()
        if callable(self.kernel):
            raise ValueError(
                "sums with a kernel of your own cannot be saved: a function has no name that can be read back"
            )
        scalars = {
            "dims": list(self.dims), "split": self.split, "batch_size": self.batch_size, "kernel": self.kernel,
            "bandwidth": self.bandwidth, "estimator": self.estimator,
        }  # fmt: skip
        counts = {"num_examples": self.num_examples, "num_batches": self.num_batches}
        shifts = {f"shift.{i}": k.shift for i, k in enumerate(self._kernels or ())}
        widths = [(k.scale, k.gamma) for k in self._kernels or ()]
        save_state(path, "MinibatchSums", {**self._sums, **shifts}, {"options": scalars, "widths": widths, **counts})

    @classmethod
    def load(cls, path: str | Path) -> "MinibatchSums":
        """Read what `save` wrote. ValueError for a file that is something else."""
        from xbridge.similarity.statefile import load_state

        tensors, scalars = load_state(path, "MinibatchSums")
        widths = [KernelLayer(tensors[f"shift.{i}"], *pair) for i, pair in enumerate(scalars["widths"])]
        sums = cls(**scalars["options"], kernels=widths or None)
        sums._sums = {key: tensors[key] for key in FIELDS}
        sums.num_examples, sums.num_batches = scalars["num_examples"], scalars["num_batches"]
        return sums

    def _zeros(self) -> dict[str, Tensor]:
        num_left, num_right = self.split or len(self.dims), len(self.dims) - (self.split or 0)
        shapes = {"left": (num_left,), "right": (num_right,), "left2": (num_left,), "right2": (num_right,)}
        return {key: torch.zeros(shapes.get(key, (num_left, num_right)), dtype=torch.float64) for key in FIELDS}

    def _norms(self) -> Tensor:
        left, right = (torch.where(self._sums[key] > 0, self._sums[key], torch.nan) for key in ("left", "right"))
        return left.sqrt()[:, None] * right.sqrt()[None, :]

    def _consume(self, at_least: int) -> None:
        """Take batches off the pending rows while so many are there."""
        while self._num_pending >= at_least:
            whole = self._num_pending >= self.batch_size + 4
            size = self.batch_size if whole else self._num_pending
            first = len(self._pending[0][0])
            # what is left of earlier chunks is filled up to a batch; the rest of this one is used as it lies there
            count = max(1, (min(first, self._num_pending - 4) if whole else first) // size)
            self._add([self._take(kept, count * size) for kept in self._pending], size)
            self._num_pending -= count * size

    @staticmethod
    def _take(kept: list[Tensor], count: int) -> Tensor:
        """Remove so many rows from the front of `kept`."""
        taken: list[Tensor] = []
        while count > 0:
            taken.append(kept[0][:count])
            rest = kept[0][count:]
            count -= len(taken[-1])
            kept[:1] = [rest] if len(rest) else []
        return torch.cat(taken) if len(taken) > 1 else taken[0]

    def _finish(self) -> None:
        self._consume(4)

    def _add(self, rows: Sequence[Tensor], size: int) -> None:
        """Add the batches of `size` rows that `rows` consists of."""
        if self._kernels is None:
            first = {name: x[:size] for name, x in zip(self.names, rows, strict=True)}
            self._kernels = kernel_layers(first, self.kernel, self.bandwidth)
        pair, left, right = (h.cpu() * size for h in hsics(self._hsic_sums(rows, size), self.estimator))
        unit = self._units(self._kernels)
        unit_left, unit_right = unit[: left.shape[1]], unit[len(unit) - right.shape[1] :]
        h = pair * unit_left[:, None] * unit_right
        p, q = left * unit_left.square(), right * unit_right.square()
        p_, q_ = p[:, :, None], q[:, None, :]
        terms = {
            "pair": h, "left": p, "right": q, "pair2": h**2, "left2": p**2, "right2": q**2,
            "pair_left": h * p_, "pair_right": h * q_, "left_right": p_ * q_,
        }  # fmt: skip
        for key, batches in terms.items():
            for term in batches:  # one by one: the same sum whatever batches come together
                self._sums[key] += term
        self.num_examples += len(rows[0])
        self.num_batches += len(pair)

    def _units(self, kernels: Sequence[KernelLayer]) -> Tensor:
        """What takes a kernel matrix of scaled rows to that of the rows as given, in whose units sums add up."""
        scaled = self.kernel in ("linear", "cosine")
        return torch.tensor([k.scale**-2.0 if scaled else 1.0 for k in kernels], dtype=torch.float64)

    def _require_one_bandwidth(self) -> None:
        if self.kernel in ("rbf", "laplacian") and self.bandwidth == "median" and not self._given:
            raise ValueError(
                "each stream has a median bandwidth of its own: give a number to sums that are to be added"
            )

    def _hsic_sums(self, rows: Sequence[Tensor], size: int) -> HsicSums:
        """The sums of HSIC of each batch, along a leading axis. ValueError names a row that is not finite."""
        assert self._kernels is not None
        if self.kernel == "cosine":
            rows = [unit_rows(x, name, self.num_examples) for x, name in zip(rows, self.names, strict=True)]
        means = [batch_means(x, size) for x in rows]
        for x, mean_BD, name in zip(rows, means, self.names, strict=True):
            if not bool(torch.isfinite(mean_BD).all()):
                self._check_finite(x, name)
        if callable(self.kernel):
            batches = [self._blocks([x[start : start + size] for x in rows]) for start in range(0, len(rows[0]), size)]
            return HsicSums(*(torch.stack(sums) for sums in zip(*batches, strict=True)))
        return batch_sums(
            rows,
            means,
            split=self.split,
            kernel="linear" if self.kernel == "cosine" else self.kernel,
            kernels=self._kernels,
            estimator=self.estimator,
        )

    def _blocks(self, batch: Sequence[Tensor]) -> HsicSums:
        """The sums of one batch with a kernel given as a function."""
        assert callable(self.kernel)
        tiles = [(x.double(), self.kernel) for x in batch]
        left, right = (tiles, None) if self.split is None else (tiles[: self.split], tiles[self.split :])
        return GramBlocks(left, right, keep_diagonal=self.estimator == "biased").totals()

    def _check_finite(self, x_ND: Tensor, name: str) -> None:
        bad = ~torch.isfinite(x_ND).all(1)
        if bool(bad.any()):
            raise ValueError(f"{name}: row {self.num_examples + int(bad.nonzero()[0])} holds NaN or infinity")
