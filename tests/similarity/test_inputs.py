"""What `cka_matrix` takes: arrays, memory maps, files, iterators; and which engine it chooses."""

import numpy as np
import pytest
import torch
from cka_layers import normal, related
from safetensors.torch import save_file

from xbridge.analysis.files import open_layers
from xbridge.core.errors import UserError
from xbridge.similarity import GramSums, SecondMoments, cka, cka_matrix
from xbridge.similarity.engines import choose_engine


def chunks(layers, sizes):
    start = 0
    for size in sizes:
        yield [x[start : start + size] for x in layers]
        start += size


def test_arrays_memory_maps_and_files_give_what_tensors_give(tmp_path):
    layers = related(60, 4, 30)
    expected = cka_matrix(layers)
    assert np.array_equal(cka_matrix([x.numpy() for x in layers]), expected)
    for i, x in enumerate(layers):
        np.save(tmp_path / f"{i}.npy", x.numpy())
    maps = [np.load(tmp_path / f"{i}.npy", mmap_mode="r") for i in range(2)]
    save_file({str(i): x for i, x in enumerate(layers)}, tmp_path / "layers.safetensors")
    for engine in ("moments", "gram"):
        assert np.allclose(cka_matrix(maps, engine=engine), expected, rtol=0, atol=1e-12)
        stored = open_layers(str(tmp_path / "layers.safetensors"))
        assert np.allclose(cka_matrix(stored, engine=engine), expected, rtol=0, atol=1e-12)
    assert cka(maps[0], stored["1"]) == pytest.approx(expected[0, 1], abs=1e-12)


@pytest.mark.parametrize("kernel", ["linear", "cosine"])
def test_iterators_of_chunks_give_the_exact_matrix_in_one_pass(kernel):
    a, b = related(90, 4, 30), related(90, 6, seed=3)
    expected = cka_matrix(a, b, kernel=kernel)
    found = cka_matrix(chunks(a, [1, 50, 39]), chunks(b, [1, 50, 39]), kernel=kernel)
    assert np.allclose(found, expected, rtol=0, atol=1e-12)
    own = cka_matrix(chunks(a, [90]), kernel=kernel)
    assert np.allclose(own, cka_matrix(a, kernel=kernel), rtol=0, atol=1e-12)


def test_an_iterator_with_a_general_kernel_or_an_error_is_estimated_from_batches():
    a = related(90, 4, 30)
    value, error = cka_matrix(chunks(a, [40, 50]), kernel="rbf", bandwidth=3.0, batch_size=30, return_stderr=True,
                              engine="minibatch")  # fmt: skip
    expected = cka_matrix(a, kernel="rbf", bandwidth=3.0, engine="minibatch", batch_size=30, return_stderr=True)
    assert np.allclose(value, expected[0])
    assert np.allclose(error, expected[1])
    with pytest.raises(ValueError, match="b has 1 chunks, a has more"):
        cka_matrix(chunks(a, [40, 50]), chunks(a, [40]))
    with pytest.raises(ValueError, match="read once"):
        cka_matrix(chunks(a, [90]), engine="gram")
    with pytest.raises(ValueError, match="holds no chunks"):
        cka_matrix(iter([]))


def test_layers_of_one_name_on_both_sides_stay_apart():
    a, b = related(40, 5, 5), related(40, 5, 5, seed=7)
    named = cka_matrix({"encoder.0": a[0]}, {"encoder.0": b[0], "encoder.1": b[1]})
    assert np.array_equal(named, cka_matrix(a[:1], b))
    b[0][3, 0] = float("nan")
    with pytest.raises(ValueError, match=r"encoder\.0 of b: row 3 holds NaN"):
        cka_matrix({"encoder.0": a[0]}, {"encoder.0": b[0]})


@pytest.mark.parametrize("kernel", ["linear", "rbf", "laplacian", "cosine"])
@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_gram_sums_of_chunks_merge_and_survive_a_file(tmp_path, kernel, estimator):
    a = [x.float() for x in related(70, 4, 30)]
    expected = cka_matrix(a, kernel=kernel, estimator=estimator, engine="gram")
    first, second = GramSums([4, 30], kernel=kernel), GramSums([4, 30], kernel=kernel)
    for chunk in chunks(a, [10, 30]):
        first.update(chunk)
    second.update([x[40:] for x in a])
    first.merge(second)
    first.save(tmp_path / "rows.safetensors")
    loaded = GramSums.load(tmp_path / "rows.safetensors")
    for sums in (first, loaded):
        assert sums.num_examples == 70
        assert np.allclose(sums.cka(estimator), expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="holds no SecondMoments"):
        SecondMoments.load(tmp_path / "rows.safetensors")


def test_the_crossover_is_near_layers_times_width_not_width():
    options = {"kernel": "linear", "precision": "float32", "return_stderr": False, "grouped": False}
    twelve = [256] * 12
    for fast_grams in (True, False):
        options["fast_grams"] = fast_grams
        assert choose_engine("auto", n=512, dims=twelve, split=None, **options) == "gram"
        assert choose_engine("auto", n=16_384, dims=twelve, split=None, **options) == "moments"
        assert choose_engine("auto", n=40_000, dims=[768] * 26, split=13, **options) == "moments"
        assert choose_engine("auto", n=10**6, dims=twelve, split=None, **{**options, "kernel": "rbf"}) == "gram"
    options["fast_grams"] = True
    assert choose_engine("auto", n=8192, dims=[768] * 26, split=13, **options) == "gram"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npy", b"nothing", "not a .npy matrix"),
        ("x.txt", b"1 2", "expected .npy, .safetensors or an extract folder"),
        ("x.safetensors", b"junk", "cannot be read"),
    ],
)
def test_files_that_hold_no_matrix_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_layers(str(tmp_path / name))


def test_a_file_of_python_objects_is_refused(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"objects\.npy"):
        open_layers(str(tmp_path / "objects.npy"))


def test_whole_numbers_and_foreign_byte_order_are_read():
    x = (normal(30, 4) * 10).round()
    expected = cka(x, x[:, :2])
    assert cka(x.long(), x[:, :2].numpy().astype(">f8")) == pytest.approx(expected, abs=1e-12)
    assert torch.equal(x, x.round())


def test_options_that_an_iterator_or_an_engine_cannot_honour_are_refused():
    a = related(40, 4, 6)
    with pytest.raises(ValueError, match="b must be one too"):
        cka_matrix(chunks(a, [40]), a)
    with pytest.raises(ValueError, match="estimator must be unbiased or biased"):
        cka_matrix(chunks(a, [40]), estimator="debiased")
    with pytest.raises(ValueError, match='batch_size is for engine="minibatch"'):
        cka_matrix(chunks(a, [40]), batch_size=8)
    with pytest.raises(ValueError, match='backend triton has kernels for engine="gram"'):
        cka_matrix(a, engine="moments", backend="triton")
    a[1][5, 0] = float("nan")
    with pytest.raises(ValueError, match="layer 0 of b: row 5"):
        cka_matrix(chunks(a[:1], [40]), chunks(a[1:], [40]))
