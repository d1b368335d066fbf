"""D. The k most similar rows of the other set, for every row of both: what margin scores and CSLS need.

The error is the largest difference between a returned index and the float64 one, over 256 rows of either side: 0 means
that all are exact.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.similarity import peers
from benchmarks.similarity.measure import Answer, Case, Sizes, Task
from xbridge.similarity import margin_scores, nearest, nearest_both_ways

SAMPLED = 256


def cases(sizes: Sizes, _folder: Path) -> list[Case]:
    """One pass for both directions, against two exhaustive searches."""
    scikit = min(sizes["n"], sizes["sklearn_n"])
    factor = (sizes["n"] / scikit) ** 2
    return [
        Case("xbridge nearest_both_ways", lambda: _both_ways(sizes), truth="indices"),
        Case("xbridge nearest, twice", lambda: _twice(sizes), truth="indices"),
        Case("xbridge margin_scores (searches and margins of all pairs)", lambda: _margins(sizes)),
        Case("faiss IndexFlatIP, twice", lambda: _faiss(sizes), truth="indices"),
        Case("torch blocks of rows, mm and topk, twice", lambda: _torch(sizes), truth="indices"),
        Case("scikit-learn NearestNeighbors, twice", lambda: _sklearn({**sizes, "n": scikit}), factor=factor,
             note=f"n = {scikit:,}; grows with n^2", repeats=1),
    ]  # fmt: skip


def truths(sizes: Sizes, _folder: Path) -> dict[str, Answer]:
    """In float64, of the first rows of either side."""
    x, y = (z.double() for z in _unit(*_rows(sizes)))
    parts = [(a[:SAMPLED] @ b.T).topk(sizes["k"], dim=1).indices.numpy() for a, b in ((x, y), (y, x))]
    return {"indices": [float(value) for value in _sample(*parts)]}


def _rows(sizes: Sizes) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(sizes["n"], sizes["d"], generator=generator)
    return x, x + torch.randn(sizes["n"], sizes["d"], generator=generator)


def _unit(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return torch.nn.functional.normalize(x, dim=1), torch.nn.functional.normalize(y, dim=1)


def _sample(forward: Any, backward: Any) -> Any:
    return np.concatenate([np.asarray(forward)[:SAMPLED].ravel(), np.asarray(backward)[:SAMPLED].ravel()])


def _timed(search: Callable[[Tensor, Tensor], Any], sizes: Sizes) -> Callable[[], Any]:
    x, y = _rows(sizes)
    search(x[:300], y[:300])
    return lambda: search(x, y)


def _both_ways(sizes: Sizes) -> Callable[[], Any]:
    def search(x: Tensor, y: Tensor) -> Any:
        found = nearest_both_ways(x, y, sizes["k"])
        return _sample(found.forward_index, found.backward_index)

    return _timed(search, sizes)


def _twice(sizes: Sizes) -> Callable[[], Any]:
    return _timed(lambda x, y: _sample(nearest(x, y, sizes["k"])[1], nearest(y, x, sizes["k"])[1]), sizes)


def _margins(sizes: Sizes) -> Callable[[], Any]:
    return _timed(lambda x, y: margin_scores(x, y, sizes["k"]).forward_score[:3], sizes)


def _faiss(sizes: Sizes) -> Callable[[], Any]:
    def search(x: Tensor, y: Tensor) -> Any:
        x, y = _unit(x, y)
        one, other = (peers.faiss_inner_product(a, b, sizes["k"])[1] for a, b in ((x, y), (y, x)))
        return _sample(one, other)

    return _timed(search, sizes)


def _torch(sizes: Sizes) -> Callable[[], Any]:
    def search(x: Tensor, y: Tensor) -> Any:
        x, y = _unit(x, y)
        found = []
        for a, b in ((x, y), (y, x)):
            blocks = [(a[i : i + 1024] @ b.T).topk(sizes["k"], dim=1).indices for i in range(0, len(a), 1024)]
            found.append(torch.cat(blocks))
        return _sample(*found)

    return _timed(search, sizes)


def _sklearn(sizes: Sizes) -> Callable[[], Any]:
    from sklearn.neighbors import NearestNeighbors

    def search(x: Tensor, y: Tensor) -> Any:
        found = []
        for a, b in ((x.numpy(), y.numpy()), (y.numpy(), x.numpy())):
            index = NearestNeighbors(n_neighbors=sizes["k"], metric="cosine", algorithm="brute").fit(b)
            found.append(index.kneighbors(a, return_distance=False))
        return _sample(*found)

    return _timed(search, sizes)


TASK = Task(
    letter="D",
    title="k nearest by cosine, both directions, float32; error in index",
    full={"n": 20_000, "d": 768, "k": 4, "sklearn_n": 8000},
    quick={"n": 3000, "d": 64, "k": 4, "sklearn_n": 1500},
    cases=cases,
    truths=truths,
)
