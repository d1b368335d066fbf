"""B. Minibatch CKA (Nguyen et al., 2021) of all pairs of layers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.similarity import peers, reference
from benchmarks.similarity.data import corner, two_models, warm_up
from benchmarks.similarity.measure import Answer, Case, Sizes, Task
from xbridge.similarity import cka_matrix


def cases(sizes: Sizes, _folder: Path) -> list[Case]:
    """The slow ones run on a part of the batches: time grows with their number."""
    n, batch = sizes["n"], sizes["batch"]
    part = max(1, n // batch // sizes["parts"]) * batch
    scaled: dict[str, Any] = {"factor": n / part, "note": f"{part:,} of {n:,} rows; grows with n", "repeats": 1}
    return [
        Case("xbridge cka_matrix(engine='minibatch')", lambda: _ours(sizes, return_stderr=False), truth="minibatch"),
        Case("xbridge, with standard errors", lambda: _ours(sizes, return_stderr=True), truth="minibatch"),
        Case("pytorch-cka compute_cka", lambda: _hooks("pytorch_cka_batches", sizes, n), truth="minibatch"),
        Case("cka-pytorch CKACalculator", lambda: _hooks("cka_pytorch_batches", sizes, part), **scaled),
        Case("torch_cka CKA", lambda: _hooks("torch_cka_batches", sizes, part), **scaled),
        Case("ckatorch cka_batch per pair, float64", lambda: _ckatorch(sizes, part), **scaled),
    ]


def truths(sizes: Sizes, _folder: Path) -> dict[str, Answer]:
    """Of the first layer with three, the first of which is independent of it."""
    a, b = two_models(sizes["n"], sizes["d"], sizes["layers"])
    return {"minibatch": [reference.minibatch_cka(a[0], y, sizes["batch"]) for y in b[:3]]}


def _ours(sizes: Sizes, *, return_stderr: bool) -> Callable[[], Any]:
    a, b = two_models(sizes["n"], sizes["d"], sizes["layers"])
    options: dict[str, Any] = {"engine": "minibatch", "batch_size": sizes["batch"], "return_stderr": return_stderr}
    warm_up()
    cka_matrix([x[: sizes["batch"] * 2] for x in a], [y[: sizes["batch"] * 2] for y in b], **options)

    def call() -> Answer:
        result = cka_matrix(a, b, **options)
        return corner(result[0] if return_stderr else result)

    return call


def _hooks(name: str, sizes: Sizes, n: int) -> Callable[[], Any]:
    a, b = two_models(n, sizes["d"], sizes["layers"])
    run = getattr(peers, name)
    with peers.quiet():
        run([a[0][:64]], [b[0][:64]], 64)

    def call() -> Answer:
        with peers.quiet():
            return corner(run(a, b, sizes["batch"]))

    return call


def _ckatorch(sizes: Sizes, n: int) -> Callable[[], Any]:
    a, b = two_models(n, sizes["d"], sizes["layers"])
    peers.ckatorch_batch(a[0][:64], b[0][:64], 64)
    return lambda: corner([[peers.ckatorch_batch(x, y, sizes["batch"]) for y in b] for x in a])


TASK = Task(
    letter="B",
    title="Minibatch linear CKA, all pairs of layers, float32",
    full={"n": 19_968, "d": 768, "layers": 13, "batch": 256, "parts": 8},
    quick={"n": 1024, "d": 96, "layers": 4, "batch": 128, "parts": 4},
    cases=cases,
    truths=truths,
)
