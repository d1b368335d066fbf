"""`xbridge cka` as it is typed."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from xbridge.cli import main
from xbridge.similarity import cka, cka_matrix


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(80, 6, generator=generator)
    y = x[:, :4] + torch.randn(80, 4, generator=generator)
    np.save("x.npy", x.numpy())
    save_file({"encoder.0": y, "encoder.1": x * 2 + 1, "bias": torch.zeros(3)}, "y.safetensors")
    return x, y


def test_a_pair_is_one_line_with_its_error_and_p_value(files, capsys):
    x, y = files
    assert main(["cka", "x.npy", "y.safetensors:encoder.0", "--stderr", "--permutations", "19"]) == 0
    value, error = cka(x, y, return_stderr=True)
    assert capsys.readouterr().out == f"{value:.4f} ± {error:.4f}, p = 0.05  (linear CKA, unbiased, n = 80)\n"


def test_json_holds_every_pair_of_layers(files, capsys):
    x, y = files
    assert (
        main(
            [
                "cka",
                "y.safetensors",
                "x.npy",
                "--kernel",
                "rbf",
                "--bandwidth",
                "2.5",
                "--estimator",
                "biased",
                "--json",
            ]
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert (found["a"], found["b"], found["n"]) == (["encoder.0", "encoder.1"], ["x"], 80)
    expected = cka_matrix([y, x * 2 + 1], [x], kernel="rbf", bandwidth=2.5, estimator="biased")
    assert np.allclose(found["cka"], expected)


def test_one_file_is_compared_with_itself_in_a_table(files, capsys):
    assert main(["cka", "y.safetensors"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["encoder.0", "encoder.1"]
    assert lines[2].split()[:2] == ["encoder.0", "1.0000"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("x.npy none.npy", "none.npy: no such file"),
        ("x.npy y.safetensors:decoder.0", "no matrix 'decoder.0'; it has encoder.0, encoder.1"),
        ("x.npy y.safetensors --bandwidth wide", "--bandwidth must be median or a number"),
        ("x.npy y.safetensors --batch-size 8", 'batch_size is for engine="minibatch"'),
        ("x.npy short.npy", "short.npy has 7 rows, x.npy has 80"),
        ("nan.npy", "nan: row 2 holds NaN or infinity"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(files, capsys, arguments, message):
    np.save("short.npy", np.ones((7, 2)))
    broken = np.random.default_rng(0).normal(size=(9, 2))
    broken[2, 1] = np.nan
    np.save("nan.npy", broken)
    assert main(["cka", *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
