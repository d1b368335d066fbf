"""Streaming moments equal the whole, whatever the chunks and shifts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xbridge.similarity import SecondMoments, cka_matrix


def layers(n: int, offset: float = 0.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    latent = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return [
        (latent @ torch.randn(3, d, generator=generator, dtype=torch.float64)).tanh() * scale + offset
        for d, scale in ((4, 1.0), (9, 1e-3), (2, 1e3))
    ]


def streamed(data: list[torch.Tensor], edges: list[int]) -> SecondMoments:
    moments = SecondMoments([x.shape[1] for x in data])
    for start, stop in zip([0, *edges], [*edges, len(data[0])], strict=True):
        moments.update([x[start:stop] for x in data])
    return moments


@settings(max_examples=40, deadline=None)
@given(
    edges=st.lists(st.integers(0, 50), max_size=5).map(sorted),
    split=st.integers(1, 49),
    offset=st.sampled_from([0.0, 10.0, 1000.0]),
    estimator=st.sampled_from(["unbiased", "biased"]),
)
def test_any_chunks_and_any_merge_give_the_whole(edges, split, offset, estimator):
    data = layers(50, offset)
    expected = cka_matrix(data, estimator=estimator, engine="gram")
    assert np.allclose(streamed(data, edges).cka(estimator), expected, rtol=0, atol=1e-9)
    merged = streamed([x[:split] for x in data], [])
    merged.merge(streamed([x[split:] for x in data], []))
    assert merged.num_examples == 50
    assert np.allclose(merged.cka(estimator), expected, rtol=0, atol=1e-9)


def test_the_shift_does_not_matter_even_when_the_first_row_is_far_off():
    data = [x.clone() for x in layers(400)]
    for x in data:
        x[0] += 50 * x.std()
    moments = streamed(data, [1])
    assert np.allclose(moments.cka(), cka_matrix(data), rtol=0, atol=1e-9)
    assert torch.allclose(moments.mean(1), data[1].mean(0), atol=1e-12)
    assert torch.allclose(
        moments.covariance(0, 1), torch.cov(torch.cat(data[:2], 1).T, correction=0)[:4, 4:], atol=1e-12
    )


def test_saved_state_continues_as_if_never_stopped(tmp_path):
    data = layers(30)
    first = streamed([x[:11] for x in data], [])
    first.save(str(tmp_path / "moments.safetensors"))
    second = SecondMoments.load(str(tmp_path / "moments.safetensors"))
    second.update([x[11:] for x in data])
    assert np.array_equal(second.cka(), streamed(data, [11]).cka())


def test_errors_name_the_layer():
    moments = SecondMoments([2, 3])
    with pytest.raises(ValueError, match=r"layer 1: expected \(5, 3\), got \(5, 2\)"):
        moments.update([torch.ones(5, 2), torch.ones(5, 2)])
    with pytest.raises(ValueError, match="layer 0: row 4 holds NaN"):
        moments.update([torch.tensor([[0.0, 1]] * 4 + [[float("nan"), 0]]), torch.ones(5, 3)])
    with pytest.raises(ValueError, match="0 examples: the unbiased estimator needs at least 4"):
        moments.cka()
    moments.update([torch.randn(5, 2), torch.full((5, 3), 0.1)])
    moments.update([torch.randn(5, 2), torch.full((5, 3), 0.1)])
    with pytest.raises(ValueError, match="layer 1: all 10 rows are equal"):
        moments.cka()
    with pytest.raises(ValueError, match="layers differ"):
        moments.merge(SecondMoments([2]))


def test_rsa_of_streamed_moments_is_that_of_the_distances():
    data = layers(60)
    found = streamed([x + 300 for x in data], [7, 20]).rsa()
    i, j = torch.triu_indices(60, 60, offset=1)
    distances = torch.stack([torch.cdist(x, x)[i, j].square() for x in data])
    assert np.allclose(found, torch.corrcoef(distances), rtol=0, atol=1e-9)
