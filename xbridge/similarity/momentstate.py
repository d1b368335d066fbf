"""The sums of second moments: which products of layers are kept, how states are moved and added.

Shape letters: F features of all layers, S layers.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate as running_sums
from itertools import pairwise

import torch
from torch import Tensor

SMALL_SUMS = ("shift", "scale", "s", "A", "G", "U")


@dataclass(frozen=True)
class Panel:
    """A block row of C that is kept: the features of one layer against a run of features."""

    layer: int
    start: int
    stop: int


@dataclass(frozen=True)
class Layout:
    """Layers side by side. With `split`, layers before it are paired with those from it on, and each with itself."""

    dims: tuple[int, ...]
    split: int | None

    @cached_property
    def slices(self) -> list[slice]:
        """The features of each layer among all."""
        edges = [0, *running_sums(self.dims)]
        return [slice(start, stop) for start, stop in pairwise(edges)]

    @cached_property
    def panels(self) -> list[Panel]:
        """Block rows that cover every pair of layers: the upper triangle, or the rectangle and the diagonal."""
        num_features = self.slices[-1].stop
        if self.split is None:
            return [Panel(i, s.start, num_features) for i, s in enumerate(self.slices)]
        others = self.slices[self.split].start
        cross = [Panel(i, others, num_features) for i in range(self.split)]
        return cross + [Panel(i, s.start, s.stop) for i, s in enumerate(self.slices)]

    @property
    def left(self) -> range:
        """Layers of the first side (all of them without a split)."""
        return range(self.split or len(self.dims))

    @property
    def right(self) -> range:
        """Layers of the second side (all of them without a split)."""
        return range(self.split or 0, len(self.dims))

    def has_pair(self, first: int, second: int) -> bool:
        """True where the products of the two layers are kept."""
        return self.split is None or first == second or (first < self.split) != (second < self.split)


@dataclass
class State:
    """Sums over n rows of z = (x - shift) scale, with a = |z|^2 layer by layer; all float64."""

    layout: Layout
    n: int
    shift: Tensor  # (F,)
    scale: Tensor  # (S,) powers of two
    s: Tensor  # (F,) sum z
    C: list[Tensor]  # sum z z', one (d_l, stop - start) for every panel
    A: Tensor  # (S,) sum a
    G: Tensor  # (S, S) sum a a'
    U: Tensor  # (F, S) sum z a'

    @classmethod
    def empty(cls, layout: Layout, shift: Tensor, scale: Tensor) -> "State":
        """No rows yet."""
        num_features, num_layers = layout.slices[-1].stop, len(layout.dims)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=shift.device)

        return cls(
            layout,
            n=0,
            shift=shift.double(),
            scale=scale.double().to(shift.device),
            s=zeros(num_features),
            C=[zeros(layout.dims[p.layer], p.stop - p.start) for p in layout.panels],
            A=zeros(num_layers),
            G=zeros(num_layers, num_layers),
            U=zeros(num_features, num_layers),
        )

    def sums(self) -> Iterator[Tensor]:
        """What adds up over rows, n aside."""
        yield from (self.s, *self.C, self.A, self.G, self.U)

    def copy(self) -> "State":
        """A state of its own."""
        return replace(self, C=[c.clone() for c in self.C], **{key: getattr(self, key).clone() for key in SMALL_SUMS})

    def to(self, device: torch.device | str) -> "State":
        """The state on a device."""
        return replace(
            self, C=[c.to(device) for c in self.C], **{key: getattr(self, key).to(device) for key in SMALL_SUMS}
        )

    def add(self, other: "State") -> None:
        """Add the rows of a state with the same shift and scale."""
        self.n += other.n
        for mine, theirs in zip(self.sums(), other.sums(), strict=True):
            mine += theirs

    def products(self, first: int, second: int) -> Tensor:
        """sum z_first z_second' (d_first, d_second), not centred: a view. ValueError for a pair that is not kept."""
        for panel, sums in zip(self.layout.panels, self.C, strict=True):
            for layer, other, flip in ((first, second, False), (second, first, True)):
                columns = self.layout.slices[other]
                if panel.layer == layer and panel.start <= columns.start and columns.stop <= panel.stop:
                    found = sums[:, columns.start - panel.start : columns.stop - panel.start]
                    return found.T if flip else found
        raise ValueError(f"layers {first} and {second} are on one side of the split; their products were not kept")

    def cross_products(self, first: int, second: int, out: Tensor | None = None) -> Tensor:
        """The same about the means: (d_first, d_second), in `out` where it is given."""
        sums = self.s[self.layout.slices[first]], self.s[self.layout.slices[second]]
        return torch.addr(self.products(first, second), *sums, alpha=-1 / self.n, out=out)

    def squared_norms(self) -> Callable[[int, int], Tensor]:
        """A function of two layers: the sum of squares of their cross-products. One matrix of memory for all pairs."""
        room = torch.empty(max(self.layout.dims) ** 2, dtype=torch.float64, device=self.s.device)

        def squared_norm(first: int, second: int) -> Tensor:
            shape = self.layout.dims[first], self.layout.dims[second]
            cross = self.cross_products(first, second, out=room[: shape[0] * shape[1]].view(shape))
            norm: Tensor = torch.linalg.vector_norm(cross).square()
            return norm

        return squared_norm

    def offset(self, layer: int) -> Tensor:
        """d, the mean of z: (d_l,)."""
        return self.s[self.layout.slices[layer]] / self.n

    def moved(self, shift: Tensor, scale: Tensor) -> "State":
        """The same rows with another shift and scale: z' = (z - d) r, a' = (a - 2 d.z + |d|^2) r^2.

        Entries of G and U for pairs that are not kept become NaN, since their cross-products are not known.
        """
        num_features = torch.tensor(self.layout.dims, device=shift.device)
        d = (shift - self.shift) * self.scale.repeat_interleave(num_features)
        ratio_S = scale / self.scale
        ratio_F, square = ratio_S.repeat_interleave(num_features), ratio_S.square()
        A, G, U = self._moved_lengths([d[part] for part in self.layout.slices])
        C = []
        for panel, sums in zip(self.layout.panels, self.C, strict=True):
            rows, columns = self.layout.slices[panel.layer], slice(panel.start, panel.stop)
            moved = sums - torch.outer(d[rows], self.s[columns]) - torch.outer(self.s[rows], d[columns])
            moved += self.n * torch.outer(d[rows], d[columns])
            C.append(moved * ratio_S[panel.layer] * ratio_F[columns])
        return State(
            self.layout,
            n=self.n,
            shift=shift,
            scale=scale,
            s=(self.s - self.n * d) * ratio_F,
            C=C,
            A=A * square,
            G=G * torch.outer(square, square),
            U=U * ratio_F[:, None] * square,
        )

    def _moved_lengths(self, d: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """A, G and U of z - d, at the old scale."""
        slices, n = self.layout.slices, self.n
        s = [self.s[part] for part in slices]
        d2 = torch.stack([x @ x for x in d])
        ds = torch.stack([x @ y for x, y in zip(d, s, strict=True)])
        A = self.A - 2 * ds + n * d2
        U, G = torch.full_like(self.U, math.nan), torch.full_like(self.G, math.nan)
        for i in range(len(d)):
            for j in range(len(d)):
                if not self.layout.has_pair(i, j):
                    continue
                U_ij, U_ji = self.U[slices[i], j], self.U[slices[j], i]
                Cd = self.products(i, j) @ d[j]
                U[slices[i], j] = U_ij - 2 * Cd + d2[j] * s[i] - A[j] * d[i]
                crossed = 4 * d[i] @ Cd - 2 * d[j] @ U_ji - 2 * d[i] @ U_ij
                constant = d2[j] * self.A[i] + d2[i] * self.A[j] - 2 * d2[j] * ds[i] - 2 * d2[i] * ds[j]
                G[i, j] = self.G[i, j] + crossed + constant + n * d2[i] * d2[j]
        return A, G, U
