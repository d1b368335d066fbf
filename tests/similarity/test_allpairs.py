"""All pairs of layers at once: the values of the pairwise functions, each layer prepared once."""

import numpy as np
import pytest
import torch

from xbridge import similarity
from xbridge.similarity.allpairs import pair_matrix

CASES = [
    ("cca", {}),
    ("svcca", {"variance": 0.8}),
    ("pwcca", {}),
    ("pwcca", {"weights": "y"}),
    ("procrustes", {}),
    ("linear_r2", {}),
    ("linear_r2", {"ridge": 0.3, "leave_one_out": True}),
    ("rsa", {}),
    ("rsa", {"distance": "cosine"}),
    ("rsa", {"distance": "euclidean"}),
]
CASES = [pytest.param(name, options, id=f"{name} {options}") for name, options in CASES]


def layers(*dims: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(30, 3, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    shapes = [(torch.randn(3, d, generator=generator), torch.randn(30, d, generator=generator)) for d in dims]
    return [latent @ weight.double() + noise.double() + 1 for weight, noise in shapes]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_matrices_hold_the_values_of_pairs(name, options):
    pair, matrix = getattr(similarity, name), getattr(similarity, f"{name}_matrix")
    a, b = layers(3, 5, 4), {"one": layers(6, seed=1)[0], "two": layers(2, seed=2)[0]}
    expected = [[pair(x, y, **options) for y in b.values()] for x in a]
    assert np.allclose(matrix(a, b, **options), expected, rtol=0, atol=1e-12)
    expected = [[pair(x, y, **options) for y in a] for x in a]
    assert np.allclose(matrix(a, **options), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_layer_that_is_wrong_is_named(name, options):
    matrix = getattr(similarity, f"{name}_matrix")
    a = dict(zip(("first", "last"), layers(3, 4), strict=True))
    with pytest.raises(ValueError, match="other has 29 rows, first has 30"):
        matrix(a, {"other": a["last"][1:]}, **options)
    with pytest.raises(ValueError, match="last: all 30 rows are equal"):
        matrix({**a, "last": torch.ones(30, 4)}, **options)
    broken = a["last"].clone()
    broken[7, 1] = torch.inf
    with pytest.raises(ValueError, match="last: row 7 holds NaN or infinity"):
        matrix({**a, "last": broken}, **options)


def test_every_layer_is_prepared_once_and_symmetric_pairs_are_computed_once():
    prepared, pairs = [], []

    def prepare(x: torch.Tensor, name: str) -> float:
        prepared.append(name)
        return float(x.sum())

    def pair(x: float, y: float) -> float:
        pairs.append((x, y))
        return x + y

    a = dict(zip("abc", layers(2, 3, 4), strict=True))
    matrix = pair_matrix(a, None, prepare, prepare, pair, symmetric=True)
    assert prepared == ["a", "b", "c"]
    assert len(pairs) == 6
    assert np.array_equal(matrix, matrix.T)


def test_a_target_wider_than_the_number_of_rows_can_be_predicted():
    x, wide = layers(3, 50)
    value = similarity.linear_r2(x, wide, leave_one_out=True)
    assert 0 < value < 1
