"""F. Permutation tests of linear CKA for all pairs of layers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.similarity.data import two_models
from benchmarks.similarity.measure import Answer, Case, Sizes, Task
from xbridge.similarity import cka_matrix_permutation_test


def cases(sizes: Sizes, _folder: Path) -> list[Case]:
    """All pairs at once, against the product that a plain loop repeats for every pair and permutation."""
    pairs, few = sizes["layers"] ** 2, sizes["few"]
    return [
        Case("xbridge cka_matrix_permutation_test", lambda: _ours(sizes)),
        Case("per pair and permutation, |x'Py|^2 in float32", lambda: _loop(sizes),
             factor=pairs * sizes["permutations"] / few, note=f"1 pair, {few} permutations", repeats=1),
    ]  # fmt: skip


def truths(_sizes: Sizes, _folder: Path) -> dict[str, Answer]:
    """None: a p-value has no error."""
    return {}


def _ours(sizes: Sizes) -> Callable[[], Any]:
    a, b = two_models(sizes["n"], sizes["d"], sizes["layers"])
    cka_matrix_permutation_test([a[0][:64]], [b[0][:64]], num_permutations=9)

    def call() -> Any:
        _, p_values = cka_matrix_permutation_test(a, b, num_permutations=sizes["permutations"])
        return p_values

    return call


def _loop(sizes: Sizes) -> Callable[[], Any]:
    a, b = two_models(sizes["n"], sizes["d"], 1)
    x, y = a[0] - a[0].mean(0), b[0] - b[0].mean(0)
    (x[:64].T @ y[:64]).square().sum()  # starts the threads

    def call() -> Any:
        generator = torch.Generator().manual_seed(0)
        orders = [torch.randperm(len(x), generator=generator) for _ in range(sizes["few"])]
        return [float((x.T @ y[order]).square().sum()) for order in orders]

    return call


TASK = Task(
    letter="F",
    title="Permutation tests of linear CKA, all pairs of layers",
    full={"n": 2000, "d": 768, "layers": 13, "permutations": 1000, "few": 20},
    quick={"n": 400, "d": 64, "layers": 3, "permutations": 100, "few": 10},
    cases=cases,
    truths=truths,
)
