"""Permutation tests of CKA: how often do shuffled partners look as similar as the true ones?

Shuffling the rows of y leaves its kernel matrix the same but for the order of rows and columns, and leaves the norms of
CKA untouched. With both matrices centred once, a permutation costs one pass over entries for all pairs of layers
(ops/permuted_products.py), not a new CKA.
"""

from typing import cast

import numpy as np
import torch
from torch import Tensor

from xbridge.ops.hsic import ROUNDING, Estimator
from xbridge.ops.permuted_products import permuted_products
from xbridge.similarity.centring import centre_, u_centre_
from xbridge.similarity.cka import cka_matrix, joined_layers
from xbridge.similarity.gram import prepared
from xbridge.similarity.kernels import Bandwidth, Kernel, KernelLayer, check_kernel, kernel_layers, tile_of
from xbridge.similarity.rows import Layers, Rows, as_rows, num_rows

MAX_BYTES = 8 << 30  # of centred kernel matrices, float32
CHUNK = 250  # permutations at a time
TIE = 1e-6  # relative: a permutation that swaps equal rows equals the observed value but for float32 rounding


def cka_permutation_test(
    x: Rows,
    y: Rows,
    *,
    kernel: Kernel = "linear",
    estimator: Estimator = "unbiased",
    bandwidth: Bandwidth = "median",
    num_permutations: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """CKA of x: (n, d1) and y: (n, d2), and its p-value; see `cka_matrix_permutation_test`."""
    value, p_value = cka_matrix_permutation_test(
        {"x": x}, {"y": y}, kernel=kernel, estimator=estimator, bandwidth=bandwidth, num_permutations=num_permutations,
        seed=seed,
    )  # fmt: skip
    return float(value[0, 0]), float(p_value[0, 0])


def cka_matrix_permutation_test(
    a: Layers,
    b: Layers | None = None,
    *,
    kernel: Kernel = "linear",
    estimator: Estimator = "unbiased",
    bandwidth: Bandwidth = "median",
    num_permutations: int = 1000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """CKA of all pairs of layers and the p-values of independence: (S_a, S_b) float64 each.

    One-sided: p = (1 + permutations of b's rows with a CKA at least as high) / (1 + num_permutations). All pairs share
    the same permutations; p-values are not adjusted for the number of pairs (`benjamini_hochberg` does that). Examples
    must be exchangeable: translations of one sentence are not. Options as for `cka_matrix`. Cost: n^2 S_a S_b / 2
    multiply-adds a permutation; memory: 4 n^2 (S_a + S_b) bytes, at most 8 GB (ValueError beyond).
    """
    check_kernel(kernel)
    if num_permutations < 1:
        raise ValueError(f"num_permutations must be at least 1, got {num_permutations}")
    layers, split = joined_layers(a, b)
    n, least = num_rows(layers), 4 if estimator == "unbiased" else 2
    if n < least:
        raise ValueError(f"{n} examples: the {estimator} estimator needs at least {least}")
    if 4 * n * n * len(layers) > MAX_BYTES:
        raise ValueError(f"{n} rows x {len(layers)} layers: a permutation test holds 4 n^2 bytes of each; sample rows")
    grams, diagonals = _unit_grams(layers, kernel, estimator, bandwidth)
    left, right = slice(0, split or len(layers)), slice(split or 0, len(layers))
    diagonals_left, diagonals_right = diagonals[left], diagonals[right]

    def statistics(orders: Tensor) -> Tensor:
        products = permuted_products(grams[left], grams[right], orders)
        if estimator == "biased":
            products = products + torch.einsum("an,bpn->pab", diagonals_left, diagonals_right[:, orders])
        return products

    observed = statistics(torch.arange(n)[None])[0]
    generator = torch.Generator().manual_seed(seed)
    at_least = torch.zeros_like(observed)
    for start in range(0, num_permutations, CHUNK):
        count = min(CHUNK, num_permutations - start)
        orders = torch.stack([torch.randperm(n, generator=generator) for _ in range(count)])
        at_least += (statistics(orders) >= observed - TIE * observed.abs()).sum(0)
    at_least[observed.isnan()] = torch.nan
    value = cka_matrix(a, b, kernel=kernel, estimator=estimator, bandwidth=bandwidth)
    return value, ((1 + at_least) / (1 + num_permutations)).numpy()


def _unit_grams(
    layers: dict[str, Rows], kernel: Kernel, estimator: Estimator, bandwidth: Bandwidth
) -> tuple[Tensor, Tensor]:
    """Centred kernel matrices of norm 1: off the diagonal (S, n, n) float32, and their diagonals (S, n) float64.

    Inner products of two of them, diagonals included, are CKA. NaN where the norm is zero.
    """
    rows = {name: as_rows(x, name) for name, x in layers.items()}
    n = num_rows(layers)
    kernels: list[KernelLayer] | list[None] = [None] * len(rows)
    if not callable(kernel):
        rows, kernel = prepared(rows, kernel)
        kernels = kernel_layers(rows, kernel, bandwidth)
    grams = torch.empty(len(rows), n, n)
    diagonals = torch.empty(len(rows), n, dtype=torch.float64)
    for index, (x, layer) in enumerate(zip(rows.values(), kernels, strict=True)):
        if layer is None:
            gram = cast(Tensor, kernel(x, x)).clone()  # type: ignore[operator]
        else:
            z = (x - layer.shift) * layer.scale
            gram = tile_of(layer, kernel)(z, z)
        size = gram.norm()
        gram = u_centre_(gram) if estimator == "unbiased" else centre_(gram)
        norm = gram.norm()
        gram /= torch.where(norm.square() > ROUNDING * size.square(), norm, torch.nan)
        diagonals[index] = gram.diagonal()
        grams[index] = gram.fill_diagonal_(0)
    return grams, diagonals
