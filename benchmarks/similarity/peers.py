"""How each library is called, as its own documentation says, on two activation matrices.

Libraries that hook into models get a model whose layers return stored rows, and a loader of row numbers: what they see
is exactly the given matrix, in the given batches.
"""

import contextlib
import importlib
import io
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

DISTRIBUTIONS = (
    "pytorch-cka", "ckatorch", "cka-pytorch", "torch_cka", "deep-reps", "rsatoolbox", "IsoScore", "pytorch-ignite",
    "faiss-cpu", "scikit-learn", "scipy", "pykeops", "dcor", "torch", "numpy",
)  # fmt: skip


@dataclass(frozen=True)
class Peer:
    """A way to get one number from x: (n, d1) and y: (n, d2)."""

    name: str
    distribution: str
    call: Callable[[Tensor, Tensor], float]


def installed_versions() -> dict[str, str]:
    """Distribution -> version of those that are here."""
    found = {}
    for name in DISTRIBUTIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@contextlib.contextmanager
def quiet(dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """No progress bars or warnings; `dtype` is torch's default, in which several libraries make their accumulators."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_default_dtype(before)


class Lookup(nn.Module):
    """A model with one layer per matrix: layer l returns the rows, of its matrix, whose numbers are the input."""

    def __init__(self, layers: Sequence[Tensor], leading_axis: bool = False):
        super().__init__()
        self.names = [f"layer{index}" for index in range(len(layers))]
        for name, rows in zip(self.names, layers, strict=True):
            self.add_module(name, _Layer(rows[None] if leading_axis else rows, leading_axis))
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, index: Tensor) -> Tensor:
        """index: (batch,) int64."""
        outputs = [getattr(self, name)(index) for name in self.names]
        last: Tensor = outputs[-1]
        return last


class _Layer(nn.Module):
    def __init__(self, rows: Tensor, leading_axis: bool):
        super().__init__()
        self.rows, self.leading_axis = rows, leading_axis

    def forward(self, index: Tensor) -> Tensor:
        return self.rows[:, index] if self.leading_axis else self.rows[index]


class _Named(Lookup):
    """A second class name: torch_cka and ckatorch warn when two models share one."""


def row_numbers(n: int, batch_size: int) -> DataLoader[Any]:
    """Batches of (row numbers, row numbers), in order."""
    index = torch.arange(n)
    return DataLoader(TensorDataset(index, index), batch_size=batch_size)


def pytorch_cka_features(x: Sequence[Tensor] | Tensor, y: Sequence[Tensor] | Tensor) -> Tensor:
    """`cka.cka_from_features`: unbiased, all pairs of layers."""
    module = importlib.import_module("cka")
    result: Tensor = module.cka_from_features(x, y)
    return result


def pytorch_cka_batches(a: Sequence[Tensor], b: Sequence[Tensor], batch_size: int) -> Tensor:
    """`cka.compute_cka`: minibatch, all pairs of layers."""
    module = importlib.import_module("cka")
    first, second = Lookup(a), Lookup(b)
    loader = row_numbers(len(a[0]), batch_size)
    matrices = module.compute_cka(
        first, second, loader, layers=first.names, model2_layers=second.names, device="cpu", progress=False
    )
    result: Tensor = matrices[0]
    return result


def cka_pytorch_batches(a: Sequence[Tensor], b: Sequence[Tensor], batch_size: int, epsilon: float = 1e-4) -> Tensor:
    """`cka_pytorch.CKACalculator`: minibatch, all pairs of layers, one epoch. `epsilon` is its default."""
    module = importlib.import_module("cka_pytorch")
    first, second = Lookup(a), Lookup(b)
    calculator = module.CKACalculator(
        first, second, model1_layers=first.names, model2_layers=second.names, verbose=False
    )
    result: Tensor = calculator.calculate_cka_matrix(row_numbers(len(a[0]), batch_size), num_epochs=1, epsilon=epsilon)
    return result


def torch_cka_batches(a: Sequence[Tensor], b: Sequence[Tensor], batch_size: int) -> Tensor:
    """`torch_cka.CKA.compare`: minibatch, all pairs of layers."""
    module = importlib.import_module("torch_cka")
    first, second = Lookup(a), _Named(b)
    comparison = module.CKA(first, second, model1_layers=first.names, model2_layers=second.names)
    comparison.compare(row_numbers(len(a[0]), batch_size))
    result: Tensor = comparison.export()["CKA"]
    return result


def ckatorch_model_batches(x: Tensor, y: Tensor, batch_size: int) -> float:
    """`ckatorch.CKA`: it takes outputs of (sequences, tokens, features), so that each batch is one sequence here."""
    module = importlib.import_module("ckatorch")
    first, second = Lookup([x], leading_axis=True), _Named([y], leading_axis=True)
    index = torch.arange(len(x))
    batches: Any = [{"index": index[start : start + batch_size]} for start in range(0, len(x), batch_size)]
    loader: DataLoader[Any] = DataLoader(batches, batch_size=None)
    return float(module.CKA(first, second, layers=["layer0"])(loader, epochs=1))


def ckatorch_batch(x: Tensor, y: Tensor, batch_size: int) -> float:
    """`ckatorch.cka_batch` on (batches, batch_size, features)."""
    module = importlib.import_module("ckatorch")
    return float(module.cka_batch(x.reshape(-1, batch_size, x.shape[1]), y.reshape(-1, batch_size, y.shape[1])))


def ckatorch_pair(
    x: Tensor, y: Tensor, *, kernel: str = "linear", unbiased: bool = True, method: str = "fro_norm"
) -> float:
    """`ckatorch.cka_base`. Its RBF width is the root of the median of all n^2 squared distances."""
    module = importlib.import_module("ckatorch")
    return float(module.cka_base(x, y, kernel=kernel, unbiased=unbiased, method=method))


def ignite_hsic(x: Tensor, y: Tensor, widths: tuple[float, float], batch_size: int) -> float:
    """`ignite.metrics.HSIC` over consecutive batches: RBF kernel, unbiased per batch, then clamped at 0, averaged."""
    metric = importlib.import_module("ignite.metrics").HSIC(sigma_x=widths[0], sigma_y=widths[1])
    for start in range(0, len(x), batch_size):
        metric.update((x[start : start + batch_size], y[start : start + batch_size]))
    return float(metric.compute())


def ignite_rbf_cka(x: Tensor, y: Tensor, widths: tuple[float, float]) -> float:
    """CKA as the ratio of three full-batch `ignite.metrics.HSIC`."""
    (w, v), n = widths, len(x)
    own = ignite_hsic(x, x, (w, w), n) * ignite_hsic(y, y, (v, v), n)
    return float(ignite_hsic(x, y, widths, n) / own**0.5)


def keops_rbf_cka(x: Tensor, y: Tensor, widths: tuple[float, float]) -> float:
    """Unbiased RBF CKA whose sums over the n x n kernels are KeOps reductions; the rest is the definition."""
    sums = KeopsSums(x, y, widths)
    n = len(x)

    def hsic(products: float, left: Tensor, right: Tensor) -> float:
        cross = float(left.sum() * right.sum()) / ((n - 1) * (n - 2)) - 2 / (n - 2) * float(left @ right)
        return products + cross

    k, l = sums.row_sums(1, 0) - 1, sums.row_sums(0, 1) - 1  # noqa: E741
    kl, kk, ll = (float(sums.row_sums(*powers).sum()) - n for powers in ((1, 1), (2, 0), (0, 2)))
    return float(hsic(kl, k, l) / (hsic(kk, k, k) * hsic(ll, l, l)) ** 0.5)


class KeopsSums:
    """Row sums of products of two Gaussian kernels through KeOps; no n x n matrix."""

    def __init__(self, x: Tensor, y: Tensor, widths: tuple[float, float]):
        lazy = importlib.import_module("pykeops.torch").LazyTensor
        self._distances = [
            ((lazy((z / width)[:, None, :]) - lazy((z / width)[None, :, :])) ** 2).sum(-1)
            for z, width in zip((x, y), widths, strict=True)
        ]

    def row_sums(self, power_x: int, power_y: int) -> Tensor:
        """sum_j k_ij^power_x l_ij^power_y: (n,)."""
        exponent = sum(
            (power / 2) * distance for power, distance in zip((power_x, power_y), self._distances, strict=True) if power
        )
        total: Tensor = (-exponent).exp().sum(1)[:, 0]
        return total


def deep_reps(module: str) -> types.ModuleType:
    """A module of deep-reps 0.0.6. Its package cannot be imported (it asks for open_clip, then imports itself in a
    circle), so its modules are loaded without it."""
    package = types.ModuleType("deep_reps")
    package.__path__ = [str(metadata.distribution("deep-reps").locate_file("deep_reps"))]
    sys.modules.setdefault("deep_reps", package)
    return importlib.import_module(f"deep_reps.{module}")


def rsatoolbox_compare(x: Tensor, y: Tensor, method: str) -> float:
    """`rsatoolbox.rdm.compare` on squared Euclidean RDMs."""
    toolbox = importlib.import_module("rsatoolbox")
    rdms = [toolbox.rdm.calc_rdm(toolbox.data.Dataset(z.numpy()), method="euclidean") for z in (x, y)]
    return float(np.squeeze(toolbox.rdm.compare(*rdms, method=method)))


def faiss_inner_product(queries: Tensor, keys: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """`faiss.IndexFlatIP`: scores and indices, (n, k) each. float32 rows."""
    faiss = importlib.import_module("faiss")
    index = faiss.IndexFlatIP(keys.shape[1])
    index.add(keys.numpy())
    scores, indices = index.search(queries.numpy(), k)
    return scores, indices
