"""The stress sets: pairs of activation matrices with the properties that real ones have and toy ones do not.

"states" mimic an encoder's layer: features share a latent code with a power-law spectrum and sit on a common offset of
`ratio` times the root of the total variance, |mean| / sqrt(tr cov). Anisotropic encoders whose mean cosine is 0.96,
0.99 and 0.998 have a ratio of 5, 10 and 20.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class StressSet:
    """`make()` gives x: (n, d) and y: (n, d), row i the same example, as an activation file would hold them."""

    name: str
    make: Callable[[], Pair]


def gauss(n: int, d: int, *, seed: int = 0) -> Pair:
    """x standard normal, y a random linear map of x plus as much noise: float64."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, dtype=torch.float64, generator=generator)
    mixing = torch.randn(d, d, dtype=torch.float64, generator=generator) / d**0.5
    return x, x @ mixing + torch.randn(n, d, dtype=torch.float64, generator=generator)


def independent(n: int, d: int, *, seed: int = 1) -> Pair:
    """Two independent standard normal matrices: float64."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, n, d, dtype=torch.float64, generator=generator)
    return x, y


def states(n: int, d: int, *, ratio: float, seed: int = 2) -> Pair:
    """Two neighbouring layers of an anisotropic encoder: float64, total variance d / 16, offset `ratio`."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    spectrum_D = torch.arange(1, d + 1, dtype=torch.float64) ** -0.6
    spectrum_D *= (d / 16 / spectrum_D.square().sum()).sqrt()
    latent_ND = normal(n, d)

    def layer(code_ND: Tensor) -> Tensor:
        rotation_DD = torch.linalg.qr(normal(d, d)).Q
        offset_D = normal(d)
        offset_D *= ratio * (d / 16) ** 0.5 / offset_D.norm()
        rows_ND: Tensor = (code_ND * spectrum_D) @ rotation_DD + offset_D
        return rows_ND

    return layer(latent_ND), layer(0.9 * latent_ND + 0.45 * normal(n, d))


def with_rogue_features(pair: Pair) -> Pair:
    """Three features of each side far out (100, 200 and 300 typical standard deviations) and ten times as spread."""

    def spoil(x: Tensor) -> Tensor:
        x = x.clone()
        typical = x.std(dim=0).mean()
        for feature, distance in ((3, 100.0), (17, 200.0), (40, 300.0)):
            x[:, feature] = (x[:, feature] - x[:, feature].mean()) * 10 + distance * typical
        return x

    return spoil(pair[0]), spoil(pair[1])


def cast(pair: Pair, dtype: torch.dtype, *, scale: float = 1.0, shift: float = 0.0) -> Pair:
    """x * scale + shift, rounded to `dtype`; what is then exact is the similarity of the rounded numbers."""
    x, y = ((z * scale + shift).to(dtype) for z in pair)
    return x, y


def _states_at(ratio: float, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Callable[[], Pair]:
    return lambda: cast(states(1024, 768, ratio=ratio), dtype, scale=scale)


STRESS_SETS = (
    StressSet("normal, 512 x 64", lambda: cast(gauss(512, 64), torch.float32)),
    StressSet("normal + 1000, 512 x 64", lambda: cast(gauss(512, 64), torch.float32, shift=1000.0)),
    StressSet("independent, 256 x 4096 (D/N = 16)", lambda: cast(independent(256, 4096), torch.float32)),
    StressSet("related, 256 x 4096 (D/N = 16)", lambda: cast(states(256, 4096, ratio=1.0), torch.float32)),
    StressSet("normal, 3200 x 32 (D/N = 1/100)", lambda: cast(gauss(3200, 32), torch.float32)),
    StressSet("states, offset 1.7", _states_at(1.7)),
    StressSet("states, offset 5", _states_at(5.0)),
    StressSet("states, offset 10", _states_at(10.0)),
    StressSet("states, offset 20", _states_at(20.0)),
    StressSet("states, offset 50", _states_at(50.0)),
    StressSet("states, offset 400", _states_at(400.0)),
    StressSet("states, offset 1.7, times 1e-6", _states_at(1.7, scale=1e-6)),
    StressSet("states, offset 1.7, times 1e-3", _states_at(1.7, scale=1e-3)),
    StressSet("states, offset 1.7, times 1e6", _states_at(1.7, scale=1e6)),
    StressSet(
        "states, rogue features",
        lambda: cast(with_rogue_features(states(1024, 768, ratio=1.7)), torch.float32),
    ),
    StressSet("states, offset 1.7, bfloat16", _states_at(1.7, torch.bfloat16)),
    StressSet("states, offset 5, bfloat16", _states_at(5.0, torch.bfloat16)),
    StressSet("states, offset 1.7, float16", _states_at(1.7, torch.float16)),
    StressSet("states, offset 1.7, times 1e3, float16", _states_at(1.7, torch.float16, scale=1e3)),
)
