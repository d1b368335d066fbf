"""Layers for the tests of CKA: related ones, states with the shapes of real ones, and a reference in long double."""

import numpy as np
import torch


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(n: int, *dims: int, seed: int = 0) -> list[torch.Tensor]:
    """Layers that share three latent factors."""
    latent = normal(n, 3, seed=seed)
    return [latent @ normal(3, d, seed=seed + 10 + i) + normal(n, d, seed=seed + 20 + i) for i, d in enumerate(dims)]


def states(n: int, d: int, ratio: float = 0.0, *, seed: int = 0, latent_seed: int = 0) -> torch.Tensor:
    """Power-law features that share ten factors with other seeds, offset by `ratio` times their total spread."""
    latent = normal(n, 10, seed=latent_seed)
    x = (latent @ normal(10, d, seed=seed + 1) + normal(n, d, seed=seed + 2)) * torch.arange(1, d + 1) ** -0.5
    direction = normal(d, seed=seed + 3)
    return x + ratio * x.var(0).sum().sqrt() * direction / direction.norm()


def with_rogue_features(x: torch.Tensor, sigmas: float) -> torch.Tensor:
    """Four features whose mean is so many standard deviations away, as large language models have them."""
    x = x.clone()
    x[:, :4] += sigmas * x[:, :4].std(0)
    return x


def cka_in_long_double(x: torch.Tensor, y: torch.Tensor, estimator: str = "unbiased") -> float:
    """CKA of the numbers as they are given, by the definition on n x n matrices, in extended precision."""

    def gram(z):
        z = z.to(torch.float64).numpy().astype(np.longdouble)
        z = z - z.mean(0)
        k = z @ z.T
        if estimator == "unbiased":
            np.fill_diagonal(k, 0)
        return k

    def hsic(k, m):
        n = np.longdouble(len(k))
        if estimator == "biased":
            return ((k * m).sum() - 2 / n * (k.sum(0) @ m.sum(0)) + k.sum() * m.sum() / n**2) / (n - 1) ** 2
        total = k.sum() * m.sum() / ((n - 1) * (n - 2))
        return ((k * m).sum() + total - 2 / (n - 2) * (k.sum(0) @ m.sum(0))) / (n * (n - 3))

    k, m = gram(x), gram(y)
    return float(hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m)))
