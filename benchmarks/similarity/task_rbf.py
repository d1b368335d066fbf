"""C. RBF CKA of one pair of layers, unbiased; the bandwidths are given, so that only the n x n work is timed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.similarity import peers
from benchmarks.similarity.data import two_models, warm_up
from benchmarks.similarity.measure import Answer, Case, Sizes, Task
from xbridge.similarity import cka


def cases(sizes: Sizes, _folder: Path) -> list[Case]:
    """xbridge, three ways to write it in torch, ckatorch and KeOps."""
    n, d = sizes["n"], sizes["d"]
    fewer, keops = sizes["ckatorch_n"], sizes["keops_n"]
    return [
        Case("xbridge cka(kernel='rbf')", lambda: _ours(n, d), truth="rbf"),
        Case("torch, whole n x n matrices, float32", lambda: _torch(_whole, n, d), truth="rbf"),
        Case("torch, blocks of 1024 x 4096, float32", lambda: _torch(_blocks, n, d), truth="rbf"),
        Case("torch, blocks of 1024 x 1024 of one triangle, float32", lambda: _torch(_triangle, n, d), truth="rbf"),
        Case("ckatorch cka_base(kernel='rbf'), float64", lambda: _ckatorch(fewer, d), factor=(n / fewer) ** 2,
             note=f"n = {fewer:,}; grows with n^2, also in memory", repeats=1),
        Case("pykeops reductions, float32", lambda: _keops(keops, d), factor=(n / keops) ** 2,
             note=f"n = {keops:,}; grows with n^2; compiled before", repeats=1),
    ]  # fmt: skip


def truths(sizes: Sizes, _folder: Path) -> dict[str, Answer]:
    """The definition in float64, in blocks."""
    x, y = (z.double() for z in _pair(sizes["n"], sizes["d"]))
    return {"rbf": [_cka(_blocks, x, y, _width(sizes["d"]))]}


def _pair(n: int, d: int) -> tuple[Tensor, Tensor]:
    a, b = two_models(n, d, 2)
    return a[0], b[1]


def _width(d: int) -> float:
    """Near the median distance: squared distances of these rows are about 4 d."""
    return 2.0 * float(d) ** 0.5


def _ours(n: int, d: int) -> Callable[[], Any]:
    x, y = _pair(n, d)
    warm_up()
    return lambda: cka(x, y, kernel="rbf", bandwidth=_width(d))


def _torch(way: Callable[[Tensor, Tensor, float], Iterator["Tile"]], n: int, d: int) -> Callable[[], Any]:
    x, y = _pair(n, d)
    _cka(way, x[:64], y[:64], _width(d))
    return lambda: _cka(way, x, y, _width(d))


def _ckatorch(n: int, d: int) -> Callable[[], Any]:
    x, y = _pair(n, d)
    peers.ckatorch_pair(x[:64], y[:64], kernel="rbf")
    return lambda: peers.ckatorch_pair(x, y, kernel="rbf")


def _keops(n: int, d: int) -> Callable[[], Any]:
    x, y = _pair(n, d)
    widths = (_width(d), _width(d))
    peers.keops_rbf_cka(x[:64], y[:64], widths)
    return lambda: peers.keops_rbf_cka(x, y, widths)


Tile = tuple[int, int, Tensor, Tensor, bool]  # first row, first column, tile of K, tile of L, counts twice


def _kernel(a: Tensor, b: Tensor, width: float) -> Tensor:
    squared = a.square().sum(1)[:, None] + b.square().sum(1)[None, :] - 2 * (a @ b.T)
    return squared.mul_(-0.5 / width**2).exp_()


def _whole(x: Tensor, y: Tensor, width: float) -> Iterator[Tile]:
    yield 0, 0, _kernel(x, x, width), _kernel(y, y, width), False


def _blocks(x: Tensor, y: Tensor, width: float) -> Iterator[Tile]:
    for i in range(0, len(x), 1024):
        for j in range(0, len(x), 4096):
            rows, columns = slice(i, i + 1024), slice(j, j + 4096)
            yield i, j, _kernel(x[rows], x[columns], width), _kernel(y[rows], y[columns], width), False


def _triangle(x: Tensor, y: Tensor, width: float) -> Iterator[Tile]:
    for i in range(0, len(x), 1024):
        for j in range(i, len(x), 1024):
            rows, columns = slice(i, i + 1024), slice(j, j + 1024)
            yield i, j, _kernel(x[rows], x[columns], width), _kernel(y[rows], y[columns], width), j > i


def _cka(way: Callable[[Tensor, Tensor, float], Iterator[Tile]], x: Tensor, y: Tensor, width: float) -> float:
    """HSIC_1 from sums over tiles, all in float64 across tiles; the diagonal, which is 1, is taken off."""
    n = len(x)
    products = torch.zeros(3, dtype=torch.float64)
    rows_N2 = torch.full((n, 2), -1.0, dtype=torch.float64)
    for i, j, k, l, twice in way(x, y, width):  # noqa: E741
        sums = [torch.vdot(p.reshape(-1), q.reshape(-1)).double() for p, q in ((k, l), (k, k), (l, l))]
        products += torch.stack(sums) * (2 if twice else 1)
        for column, tile in enumerate((k, l)):
            rows_N2[i : i + len(tile), column] += tile.sum(1).double()
            if twice:
                rows_N2[j : j + tile.shape[1], column] += tile.sum(0).double()
    r, q = rows_N2.unbind(1)

    def hsic(product: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return product - n + left.sum() * right.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (left @ right)

    return float(hsic(products[0], r, q) / (hsic(products[1], r, r) * hsic(products[2], q, q)).sqrt())


TASK = Task(
    letter="C",
    title="RBF CKA, unbiased, one pair of layers, float32",
    full={"n": 20_000, "d": 768, "ckatorch_n": 4000, "keops_n": 1000},
    quick={"n": 2000, "d": 64, "ckatorch_n": 1000, "keops_n": 500},
    cases=cases,
    truths=truths,
)
