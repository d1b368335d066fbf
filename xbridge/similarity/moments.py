"""Streaming second moments: linear CKA of any number of layers from one pass over the rows, in memory free of n.

For rows x of all layers side by side (F features), shifted by a constant c, and squared lengths a_l of each layer:

    n,  s = sum x,  C = sum x x',  A_l = sum a_l,  G_lm = sum a_l a_m,  U_l = sum x a_l

These determine HSIC_0 and HSIC_1 of all pairs of layers (ops/feature_sums.py), exactly and whatever the chunks. The
shift is the mean of the first chunk's rows; it keeps every sum small, so that nothing cancels. Sums are float64. States
merge by addition after one is moved to the other's shift, and the finaliser moves the state to the mean.

    moments = SecondMoments([768] * 13)
    for chunk in chunks:               # 13 tensors (rows, 768)
        moments.update(chunk)
    moments.cka()                      # (13, 13)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from xbridge.ops.hsic import Estimator, HsicSums, cka_from_sums
from xbridge.similarity.rows import Rows, as_rows

PILOT_ROWS = 1024


@dataclass(frozen=True)
class _State:
    n: int
    shift: Tensor  # (F,)
    s: Tensor  # (F,)
    C: Tensor  # (F, F)
    A: Tensor  # (S,)
    G: Tensor  # (S, S)
    U: Tensor  # (F, S)


class SecondMoments:
    """Second moments of several layers over a stream of rows. `dims`: features of each layer. Cost: F^2 per row."""

    def __init__(self, dims: Sequence[int]):
        self.dims = tuple(dims)
        edges = np.cumsum([0, *self.dims]).tolist()
        self._slices = [slice(edges[i], edges[i + 1]) for i in range(len(self.dims))]
        self._state: _State | None = None

    @property
    def num_examples(self) -> int:
        """Rows seen so far."""
        return 0 if self._state is None else self._state.n

    def update(self, chunk: Sequence[Rows]) -> None:
        """Add rows: one (rows, d_l) matrix per layer, any float type. ValueError names a layer and row not finite."""
        if len(chunk) != len(self.dims):
            raise ValueError(f"expected {len(self.dims)} layers, got {len(chunk)}")
        layers = [as_rows(x, f"layer {i}") for i, x in enumerate(chunk)]
        for index, (x, dim) in enumerate(zip(layers, self.dims, strict=True)):
            if x.shape != (len(layers[0]), dim):
                raise ValueError(f"layer {index}: expected {(len(layers[0]), dim)}, got {tuple(x.shape)}")
        rows = torch.cat(layers, dim=1)
        if len(rows) == 0:
            return
        # the first row is taken off before the mean, so that a constant feature becomes zero exactly
        shift = rows[0] + (rows[:PILOT_ROWS] - rows[0]).mean(dim=0) if self._state is None else self._state.shift
        self._add(self._moments(rows - shift, shift))

    def merge(self, other: "SecondMoments") -> None:
        """Add another's rows to this one's. The result does not depend on the split beyond rounding."""
        if other.dims != self.dims:
            raise ValueError(f"layers differ: {self.dims} and {other.dims}")
        if other._state is not None:
            state = other._state
            if self._state is not None:
                state = self._moved(state, self._state.shift - state.shift)
            self._add(state)

    def cka(self, estimator: Estimator = "unbiased") -> np.ndarray:
        """Linear CKA between all layers: (S, S) float64; NaN where a layer's HSIC with itself is zero."""
        least = 4 if estimator == "unbiased" else 2
        if self._state is None or self._state.n < least:
            raise ValueError(f"{self.num_examples} examples: the {estimator} estimator needs at least {least}")
        state = self._centred()
        for index, total in enumerate(state.A.tolist()):
            if total == 0:
                raise ValueError(f"layer {index}: all rows are equal (zero variance); similarity to it is undefined")
        scale = (state.A / state.n).sqrt()  # of each layer: products stay of order 1
        squares = (
            torch.stack([torch.stack([state.C[i, j].square().sum() for j in self._slices]) for i in self._slices])
            / (scale[:, None] * scale[None, :]).square()
        )
        diagonal = 0.0 if estimator == "biased" else 1.0
        rows = diagonal * state.G / (scale[:, None] * scale[None, :]).square()
        pair, totals = squares - rows, -diagonal * state.A / scale.square()
        own, own_rows = pair.diagonal(), rows.diagonal()
        n = torch.tensor(float(state.n), dtype=torch.float64)
        return cka_from_sums(HsicSums(pair, rows, own, own_rows, totals, own, own_rows, totals, n), estimator).numpy()

    def covariance(self, first: int, second: int) -> Tensor:
        """Covariance (divided by n) of two layers: (d_first, d_second) float64."""
        state = self._centred()
        return state.C[self._slices[first], self._slices[second]] / state.n

    def mean(self, layer: int) -> Tensor:
        """Mean row of a layer: (d,) float64."""
        return self._centred().shift[self._slices[layer]]

    def save(self, path: Path) -> None:
        """Write the state as safetensors, atomically."""
        if self._state is None:
            raise ValueError("nothing to save: no rows yet")
        tensors = {key: value.contiguous() for key, value in vars(self._state).items() if key != "n"}
        counts = {"n": torch.tensor(self._state.n), "dims": torch.tensor(self.dims)}
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(save({**tensors, **counts}))
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> "SecondMoments":
        """Read what `save` wrote."""
        tensors = load_file(path)
        moments = cls(tensors.pop("dims").tolist())
        moments._state = _State(n=int(tensors.pop("n")), **tensors)
        return moments

    def _moments(self, x_NF: Tensor, shift: Tensor) -> _State:
        a_NS = torch.stack([x_NF[:, s].square().sum(1) for s in self._slices], dim=1)
        return _State(
            n=len(x_NF),
            shift=shift,
            s=x_NF.sum(0),
            C=x_NF.T @ x_NF,
            A=a_NS.sum(0),
            G=a_NS.T @ a_NS,
            U=x_NF.T @ a_NS,
        )

    def _add(self, other: _State) -> None:
        state = self._state
        if state is None:
            self._state = other
            return
        sums = {key: getattr(state, key) + getattr(other, key) for key in ("n", "s", "C", "A", "G", "U")}
        self._state = _State(shift=state.shift, **sums)

    def _centred(self) -> _State:
        assert self._state is not None
        return self._moved(self._state, self._state.s / self._state.n)

    def _moved(self, state: _State, delta: Tensor) -> _State:
        """The state of the same rows with the shift raised by delta: x' = x - d, a' = a - 2 d.x + |d|^2."""
        n, s = state.n, state.s
        d_FS = torch.zeros_like(state.U)  # column l: the part of delta in layer l
        for layer, features in enumerate(self._slices):
            d_FS[features, layer] = delta[features]
        d2_S, ds_S = d_FS.square().sum(0), d_FS.T @ s
        A = state.A - 2 * ds_S + n * d2_S
        # sum x a' = U - 2 C d + |d|^2 s, and then minus d for x
        xa = state.U - 2 * state.C @ d_FS + s[:, None] * d2_S
        # sum a a' = G - 2 d.U + |d|^2 A; sum (d.x) a' = d.xa; sum a' is A'
        aa = state.G - 2 * (state.U.T @ d_FS) + state.A[:, None] * d2_S
        return _State(
            n=n,
            shift=state.shift + delta,
            s=s - n * delta,
            C=state.C - torch.outer(delta, s) - torch.outer(s, delta) + n * torch.outer(delta, delta),
            A=A,
            G=aa - 2 * (d_FS.T @ xa) + d2_S[:, None] * A,
            U=xa - delta[:, None] * A,
        )
