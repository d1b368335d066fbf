"""Streaming second moments: linear CKA of any number of layers from one pass over the rows, in memory free of n.

For rows x of all layers side by side (F features), shifted by a constant c, and squared lengths a_l of each layer:

    n,  s = sum x,  C = sum x x',  A_l = sum a_l,  G_lm = sum a_l a_m,  U_l = sum x a_l

These determine HSIC_0 and HSIC_1 of all pairs of layers (similarity/readout.py), exactly. The shift is the mean of the
first block's rows and the scale a power of two near their size, which keeps every product of order 1, so that nothing
cancels. Rows are gathered into blocks of a fixed size, so chunks do not matter; sums over blocks are float64, and
states merge by addition after one is moved to the other's shift. A block's products are float64, so that any split
into ranks gives the same answer to 1e-9; or float32, faster on a CPU, within 1e-7 of it at ordinary sizes.

    moments = SecondMoments([768] * 13)
    for chunk in chunks:               # 13 tensors (rows, 768)
        moments.update(chunk)
    moments.cka()                      # (13, 13)

Shape letters: N rows, F features of all layers, S layers.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from xbridge.ops.accumulate import accumulate
from xbridge.ops.hsic import Estimator, cka_from_sums
from xbridge.ops.ingest import ingest
from xbridge.similarity.momentstate import SMALL_SUMS, Layout, Panel, State
from xbridge.similarity.readout import hsic_sums, rsa_correlations
from xbridge.similarity.rows import Rows, as_chunk

BLOCK_ROWS = 2048
RUN_FEATURES = 768  # columns of a product: it is still in the cache when it is added to the sums
OWN_FEATURES = 256  # the same of a layer's products with itself: thinner, for less below the diagonal
Precision: TypeAlias = Literal["float64", "float32"]


class SecondMoments:
    """Second moments of several layers over a stream of rows. Cost: F^2 / 2 multiply-adds per row; memory 4 F^2 bytes.

    dims: features of each layer. split: with a number, layers before it are paired with those from it on, and each with
    itself; without, all with all. precision: of the products in a block; float64 input takes float64 in any case.
    names: of the layers, for messages.
    """

    def __init__(
        self,
        dims: Sequence[int],
        *,
        split: int | None = None,
        precision: Precision = "float64",
        names: Sequence[str] | None = None,
    ):
        if not dims or min(dims) < 1:
            raise ValueError(f"dims: expected the features of each layer, at least 1, got {list(dims)}")
        if split is not None and not 0 < split < len(dims):
            raise ValueError(f"split must leave layers on both sides: 1 to {len(dims) - 1}, got {split}")
        if precision not in ("float64", "float32"):
            raise ValueError(f"precision must be float64 or float32, not {precision!r}")
        self.dims, self.split, self.precision = tuple(dims), split, precision
        self._layout = Layout(self.dims, split)
        self.names = tuple(names or (f"layer {i}" for i in range(len(dims))))
        self._state: State | None = None
        self._first: list[list[Tensor]] = []  # the first block's chunks, as they came: they decide shift and scale
        self._rows = torch.empty(0)  # (BLOCK_ROWS, F) and (BLOCK_ROWS, S): rows not yet in the sums, and their lengths
        self._lengths = torch.empty(0)
        self._filled = 0

    @property
    def num_examples(self) -> int:
        """Rows seen so far."""
        return (0 if self._state is None else self._state.n) + self._filled

    def update(self, chunk: Sequence[Rows]) -> None:
        """Add rows: one (rows, d_l) matrix per layer, any float type. ValueError names a layer and row not finite."""
        layers = self._checked(chunk)
        start, num_rows = 0, len(layers[0])
        while start < num_rows:
            stop = min(num_rows, start + BLOCK_ROWS - self._filled)
            piece = [x[start:stop] for x in layers]
            if self._state is None:
                self._check_finite(piece)
                self._first.append([x.clone() for x in piece] if stop - start < BLOCK_ROWS else piece)
                self._filled += stop - start
            else:
                self._ingest(piece)
            if self._filled == BLOCK_ROWS:
                self.flush()
            start = stop

    def flush(self) -> None:
        """Add the rows of the unfinished block to the sums now. What is read afterwards needs no copy of the sums."""
        if self._filled == 0:
            return
        if self._state is None:
            self._start()
            return
        z_NF, a_NS, state = self._rows[: self._filled], self._lengths[: self._filled], self._state
        state.n += self._filled
        state.A += a_NS.sum(0)
        state.G += a_NS.T @ a_NS
        # few rows times many columns: the product the other way round can take libraries ten times as long
        sums = torch.cat([a_NS, torch.ones_like(a_NS[:, :1])], dim=1).to(z_NF.dtype).T @ z_NF
        state.U += sums[:-1].T
        state.s += sums[-1]
        for panel, total in zip(self._layout.panels, state.C, strict=True):
            self._add_products(panel, total, z_NF)
        self._filled = 0

    def merge(self, other: "SecondMoments") -> None:
        """Add another's rows to this one's. The result does not depend on the split beyond rounding."""
        if (other.dims, other.split) != (self.dims, self.split):
            raise ValueError(f"layers differ: {self.dims} split at {self.split}, {other.dims} split at {other.split}")
        self.flush()
        theirs = other.state() if other.num_examples else None
        if theirs is None:
            return
        if self._state is None:
            self._state = theirs.copy()
        else:
            self._state.add(theirs.moved(self._state.shift, self._state.scale))

    def all_reduce(self, group: "torch.distributed.ProcessGroup | None" = None) -> None:
        """Add up the states of all ranks of a torch.distributed group; every rank then holds the whole. Collective.

        Ranks without rows may take part. The state moves to the shift of the first rank that has rows.
        """
        import torch.distributed as dist

        self.flush()
        device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend(group) == "nccl" else "cpu"
        counts = torch.zeros(dist.get_world_size(group), dtype=torch.int64, device=device)
        counts[dist.get_rank(group)] = self.num_examples
        dist.all_reduce(counts, group=group)
        if int(counts.sum()) == 0:
            return
        state = self._state or State.empty(self._layout, torch.zeros(sum(self.dims)), torch.ones(len(self.dims)))
        state = state.to(device)
        shift, scale = state.shift.clone(), state.scale.clone()
        first = int(counts.nonzero()[0])
        for tensor in (shift, scale):
            dist.broadcast(tensor, src=dist.get_global_rank(group, first) if group else first, group=group)
        state = state.moved(shift, scale)
        for tensor in state.sums():
            dist.all_reduce(tensor, group=group)
        state.n = int(counts.sum())
        self._state = state

    def cka(self, estimator: Estimator = "unbiased") -> np.ndarray:
        """Linear CKA, float64: (S, S), or (split, S - split). NaN where a layer's HSIC with itself is zero."""
        least = 4 if estimator == "unbiased" else 2
        if self.num_examples < least:
            raise ValueError(f"{self.num_examples} examples: the {estimator} estimator needs at least {least}")
        return cka_from_sums(hsic_sums(self.state(), estimator, self.names), estimator).cpu().numpy()

    def rsa(self) -> np.ndarray:
        """Pearson RSA on squared Euclidean distances between all rows (see `rsa`), float64, shaped as `cka`."""
        if self.num_examples < 3:
            raise ValueError(f"{self.num_examples} examples: a correlation of distances needs at least 3")
        return rsa_correlations(self.state(), self.names).cpu().numpy()

    def mean(self, layer: int) -> Tensor:
        """Mean row of a layer: (d,) float64."""
        state, part = self.state(), self._layout.slices[layer]
        return state.shift[part] + state.s[part] / state.n / state.scale[layer]

    def covariance(self, first: int, second: int) -> Tensor:
        """Covariance (divided by n) of two layers: (d_first, d_second) float64. ValueError for a pair not kept."""
        state = self.state()
        return state.cross_products(first, second) / (state.n * state.scale[first] * state.scale[second])

    def state(self) -> State:
        """The sums over all rows so far, those of an unfinished block included. Not to be changed."""
        if self.num_examples == 0:
            raise ValueError("no rows yet")
        if self._filled == 0:
            assert self._state is not None
            return self._state
        copy = SecondMoments(self.dims, split=self.split, precision=self.precision, names=self.names)
        copy._first, copy._rows, copy._lengths, copy._filled = self._first, self._rows, self._lengths, self._filled
        if self._state is not None:
            copy._state = self._state.copy()
        copy.flush()
        assert copy._state is not None
        return copy._state

    def save(self, path: str | Path) -> None:
        """Write sums and unfinished block as safetensors, atomically: what is loaded goes on as if never stopped."""
        from xbridge.similarity.statefile import save_state

        tensors: dict[str, Tensor] = {}
        if self._state is not None:
            tensors |= {f"C.{i}": c for i, c in enumerate(self._state.C)}
            tensors |= {key: getattr(self._state, key) for key in SMALL_SUMS}
        if self._state is None and self._filled:
            tensors |= {f"first.{i}": torch.cat([chunk[i] for chunk in self._first]) for i in range(len(self.dims))}
        elif self._filled:
            tensors |= {"block": self._rows[: self._filled], "lengths": self._lengths[: self._filled]}
        counts = {"n": 0 if self._state is None else self._state.n, "filled": self._filled}
        options = {"dims": list(self.dims), "split": self.split, "precision": self.precision, "names": list(self.names)}
        save_state(path, "SecondMoments", tensors, {"options": options, **counts})

    @classmethod
    def load(cls, path: str | Path) -> "SecondMoments":
        """Read what `save` wrote. ValueError for a file that is something else."""
        from xbridge.similarity.statefile import load_state

        tensors, scalars = load_state(path, "SecondMoments")
        moments = cls(**scalars["options"])
        moments._filled = filled = scalars["filled"]
        if "shift" in tensors:
            panels = [tensors[f"C.{i}"] for i in range(len(moments._layout.panels))]
            small = {key: tensors[key] for key in SMALL_SUMS}
            moments._state = State(moments._layout, n=scalars["n"], C=panels, **small)
        elif filled:
            moments._first = [[tensors[f"first.{i}"] for i in range(len(moments.dims))]]
        if "block" in tensors:
            moments._make_block(tensors["block"])
            moments._rows[:filled] = tensors["block"]
            moments._lengths[:filled] = tensors["lengths"]
        return moments

    def _checked(self, chunk: Sequence[Rows]) -> list[Tensor]:
        if len(chunk) != len(self.dims):
            raise ValueError(f"expected {len(self.dims)} layers, got {len(chunk)}")
        layers = [as_chunk(x, self.names[i]) for i, x in enumerate(chunk)]
        for index, (x, dim) in enumerate(zip(layers, self.dims, strict=True)):
            if x.shape != (len(layers[0]), dim):
                raise ValueError(f"{self.names[index]}: expected {(len(layers[0]), dim)}, got {tuple(x.shape)}")
        return layers

    def _add_products(self, panel: Panel, total: Tensor, z_NF: Tensor) -> None:
        """Add a block's products of one layer with a run of features; its own are symmetric, so half is computed."""
        own = self._layout.slices[panel.layer]
        z_ND, start = z_NF[:, own], panel.start
        if start == own.start:
            for left in range(0, own.stop - own.start, OWN_FEATURES):
                run = slice(left, min(own.stop - own.start, left + OWN_FEATURES))
                accumulate(total[: run.stop, run], z_ND[:, : run.stop].T @ z_ND[:, run])
                total[run, :left] = total[:left, run].T
            start = own.stop
        for left in range(start, panel.stop, RUN_FEATURES):
            run = slice(left, min(panel.stop, left + RUN_FEATURES))
            accumulate(total[:, run.start - panel.start : run.stop - panel.start], z_ND.T @ z_NF[:, run])

    def _make_block(self, like: Tensor, capacity: int = BLOCK_ROWS) -> None:
        """Room for a block of rows, of the type and on the device of `like`."""
        self._rows = torch.empty(capacity, self._layout.slices[-1].stop, dtype=like.dtype, device=like.device)
        self._lengths = torch.empty(capacity, len(self.dims), dtype=torch.float64, device=like.device)

    def _check_finite(self, piece: Sequence[Tensor]) -> None:
        for name, x in zip(self.names, piece, strict=True):
            bad = ~torch.isfinite(x).all(1)
            if bool(bad.any()):
                raise ValueError(f"{name}: row {self._filled + int(bad.nonzero()[0])} holds NaN or infinity")

    def _ingest(self, piece: Sequence[Tensor], capacity: int = BLOCK_ROWS) -> None:
        """Put rows into the block, shifted and scaled; nothing is counted when one is not finite."""
        assert self._state is not None
        rows = slice(self._filled, self._filled + len(piece[0]))
        dtype = self._product_dtype(piece)
        if len(self._rows) == 0 or self._rows.dtype != dtype:
            self.flush()
            rows = slice(0, len(piece[0]))
            self._make_block(torch.empty(0, dtype=dtype, device=piece[0].device), capacity)
        scales = self._state.scale.tolist()
        for layer, (x, part) in enumerate(zip(piece, self._layout.slices, strict=True)):
            into = self._rows[rows, part]
            bad = ingest(x, self._state.shift[part], scales[layer], into, self._lengths[rows, layer])
            if bad >= 0:
                row = self._state.n + rows.start + bad
                raise ValueError(f"{self.names[layer]}: row {row} holds NaN or infinity")
        self._filled = rows.stop

    def _product_dtype(self, piece: Sequence[Tensor]) -> torch.dtype:
        wide = self.precision == "float64" or any(x.dtype == torch.float64 for x in piece)
        return torch.float64 if wide else torch.float32

    def _start(self) -> None:
        """Choose shift and scale from the first block's rows, and add them."""
        chunks, self._first, self._filled = self._first, [], 0
        means, scales = [], []
        for layer in range(len(self.dims)):
            x = torch.cat([chunk[layer] for chunk in chunks]).double()
            mean, scale = _mean_and_scale(x)
            means.append(mean)
            scales.append(scale)
        self._state = State.empty(self._layout, torch.cat(means), torch.tensor(scales, dtype=torch.float64))
        capacity = sum(len(chunk[0]) for chunk in chunks)
        for chunk in chunks:
            self._ingest(chunk, capacity)
        self.flush()
        if capacity < BLOCK_ROWS:
            self._rows = self._rows[:0]


def _mean_and_scale(x: Tensor) -> tuple[Tensor, float]:
    """The mean row of x: (n, d) float64, and a power of two near one over the root of the total variance.

    The first row is taken off before the mean, so that a constant feature becomes zero exactly.
    """
    mean = x[0] + (x - x[0]).mean(dim=0)
    centred = x - mean
    largest = float(centred.abs().max())
    if largest == 0:
        return mean, 1.0
    size = largest * float((centred / largest).square().sum(1).mean().sqrt())
    return mean, 2.0 ** -round(math.log2(size))
