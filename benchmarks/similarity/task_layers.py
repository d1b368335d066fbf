"""A. Exact linear CKA of all pairs of layers of two models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.similarity import peers
from benchmarks.similarity.data import corner, first_row, two_models, warm_up
from benchmarks.similarity.measure import Answer, Case, Sizes, Task
from xbridge.similarity import cka_matrix


def cases(sizes: Sizes, _folder: Path) -> list[Case]:
    """xbridge, the products alone, per-pair loops, and the libraries as far as they go."""
    n, d, layers = sizes["n"], sizes["d"], sizes["layers"]
    pairs, few = layers**2, min(n, sizes["few"])
    cubic = min(n, sizes["few"] // 4)
    return [
        Case("xbridge cka_matrix", lambda: _ours(n, d, layers), truth="unbiased"),
        Case("the needed products alone (torch.mm)", lambda: _products(n, d, layers),
             note=f"{pairs} + {layers} products"),
        Case("per pair, three centred products, float32 (the arithmetic of anatome and ReSi)",
             lambda: _feature_pairs(n, d, layers), truth="biased"),
        Case("per pair, two centred Grams, float32 (the arithmetic of netrep)", lambda: _gram_pair(n, d),
             factor=pairs, note="1 pair", truth="biased", repeats=1),
        Case("ckatorch cka_base, float64", lambda: _ckatorch(few, d), factor=pairs * (n / few) ** 2,
             note=f"1 pair at n = {few:,}; grows with n^2", repeats=1),
        Case("pytorch-cka cka_from_features", lambda: _pytorch_cka(few // 2, d, layers),
             factor=(2 * n / few) ** 2, note=f"all pairs at n = {few // 2:,}; n^2, also in memory", repeats=1),
        Case("cka-pytorch CKACalculator, one batch", lambda: _hooks("cka_pytorch_batches", cubic, d),
             factor=pairs * (n / cubic) ** 3, note=f"1 pair at n = {cubic:,}; n^3", repeats=1),
        Case("torch_cka CKA, one batch", lambda: _hooks("torch_cka_batches", cubic, d),
             factor=pairs * (n / cubic) ** 3, note=f"1 pair at n = {cubic:,}; n^3", repeats=1),
    ]  # fmt: skip


def truths(sizes: Sizes, _folder: Path) -> dict[str, Answer]:
    """Of three pairs of layers."""
    shape = sizes["n"], sizes["d"], sizes["layers"]
    return {estimator: first_row(*shape, estimator) for estimator in ("unbiased", "biased")}


def _ours(n: int, d: int, layers: int) -> Callable[[], Any]:
    a, b = two_models(n, d, layers)
    warm_up()
    return lambda: corner(cka_matrix(a, b))


def _products(n: int, d: int, layers: int) -> Callable[[], Any]:
    """x'y for every pair, and half of the two sets' own products (they are symmetric): no centring, no sums."""
    a, b = two_models(n, d, layers)
    out = torch.empty(d, d)
    torch.mm(a[0][:512].T, b[0][:512], out=out)

    def call() -> float:
        for x in a:
            for y in b:
                torch.mm(x.T, y, out=out)
            torch.mm(x.T, x, out=out)
        return 0.0

    return call


def _feature_pairs(n: int, d: int, layers: int) -> Callable[[], Any]:
    a, b = two_models(n, d, layers)
    _feature_cka(a[0][:512], b[0][:512])
    return lambda: corner([[_feature_cka(x, y) for y in b] for x in a])


def _feature_cka(x: Tensor, y: Tensor) -> float:
    x, y = x - x.mean(0), y - y.mean(0)
    return float((x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm()))


def _gram_pair(n: int, d: int) -> Callable[[], Any]:
    a, b = two_models(n, d, 1)

    def call() -> float:
        x, y = a[0] - a[0].mean(0), b[0] - b[0].mean(0)
        k, l = x @ x.T, y @ y.T  # noqa: E741
        return float(torch.vdot(k.view(-1), l.view(-1)) / (k.norm() * l.norm()))

    return call


def _ckatorch(n: int, d: int) -> Callable[[], Any]:
    a, b = two_models(n, d, 1)
    peers.ckatorch_pair(a[0][:64], b[0][:64])
    return lambda: peers.ckatorch_pair(a[0], b[0])


def _pytorch_cka(n: int, d: int, layers: int) -> Callable[[], Any]:
    a, b = two_models(n, d, layers)
    peers.pytorch_cka_features(a[0][:64], b[0][:64])
    return lambda: corner(peers.pytorch_cka_features(a, b))


def _hooks(name: str, n: int, d: int) -> Callable[[], Any]:
    a, b = two_models(n, d, 1)
    run = getattr(peers, name)
    with peers.quiet():
        run([a[0][:64]], [b[0][:64]], 64)

    def call() -> float:
        with peers.quiet():
            return float(run(a, b, n)[0][0])

    return call


TASK = Task(
    letter="A",
    title="Exact linear CKA, all pairs of layers, float32",
    full={"n": 20_000, "d": 768, "layers": 13, "few": 4000},
    quick={"n": 2000, "d": 128, "layers": 5, "few": 800},
    cases=cases,
    truths=truths,
)
