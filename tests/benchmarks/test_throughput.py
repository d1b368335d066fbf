"""The speed benchmarks: counts against closed forms and the Trainer's own sampler, and small runs."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def benchmarks_can_be_imported():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        yield


def module(name):
    return importlib.import_module(f"benchmarks.{name}")


def lengths(n=6000):
    """Source and target lengths like a corpus's: skewed, and alike within a pair."""
    generator = np.random.default_rng(0)
    source = 3 + generator.geometric(0.15, n).clip(max=20)
    return source, (source + generator.integers(-2, 3, n)).clip(3)


def test_flops_of_a_layer_are_those_of_its_products_counted_one_by_one():
    shape = module("speed.shapes").Shape(layers=1, d_model=4, ffn=8, heads=2)
    s, t, d, f, words = 5, 3, 4, 8, 10
    products = [(s, d, d)] * 4 + [(s, s, d)] * 2 + [(s, d, f), (s, f, d)]  # encoder: q k v o, scores, mix, ffn
    products += [(t, d, d)] * 4 + [(t, t, d)] * 2 + [(t, d, f), (t, f, d)]
    products += [(t, d, d)] * 2 + [(s, d, d)] * 2 + [(t, s, d)] * 2  # cross-attention: q o, k v, scores, mix
    products += [(t - 1, d, words)]
    expected = 3 * sum(2 * m * k * n for m, k, n in products) / (s + t)
    assert shape.flops_per_token(np.asarray([s]), np.asarray([t]), words) == pytest.approx(expected, rel=1e-12)


def test_the_trainers_batches_are_foreseen_as_its_own_sampler_makes_them():
    from transformers.trainer_pt_utils import get_length_grouped_indices

    prepare = module("speed.prepare")
    source, target = lengths()
    keys, rows = source + target, 20
    order = get_length_grouped_indices(keys.tolist(), rows, generator=torch.Generator().manual_seed(0))
    padded = [rows * (source[batch].max() + target[batch].max()) for batch in np.asarray(order).reshape(-1, rows)]
    assert prepare.mean_padded(source, target, keys, rows, 1) == pytest.approx(np.mean(padded), rel=0.02)  # its shuffle


def test_the_trainer_gets_as_many_padded_tokens_per_update():
    prepare = module("speed.prepare")
    source, target = lengths()
    rows, group_by = prepare.equal_rows(prepare.Lengths(source, target, target), 500.0, 1)
    keys = {"source_length": source, "both_length": source + target}[group_by]
    assert prepare.mean_padded(source, target, keys, rows, 1) <= 500
    assert prepare.mean_padded(source, target, keys, rows + 1, 1) > 500


def test_a_plain_loss_that_was_not_run_whole_is_put_on_the_line_through_the_sizes_that_were():
    loss_memory = module("loss_memory")
    plain = {rows: [{"extra_bytes": 100 + 3 * rows}] for rows in (2, 4)}
    runs = {"plain": plain, "xbridge": {10: [{"extra_bytes": 13}]}, "torch": {10: [{"extra_bytes": 26}]}}
    found = loss_memory.of_all_rows(runs, 10)
    assert (found["plain_bytes"], found["xbridge_share"], found["torch_share"]) == (130, 0.1, 0.2)
    assert "straight line" in found["plain_is"]


@pytest.mark.parametrize("name", ["xbridge", "torch"])
def test_every_loss_that_is_measured_is_the_same_loss(name):
    loss_memory = module("loss_memory")
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(6, 4, generator=generator), torch.randn(9, 4, generator=generator)
    labels = torch.arange(6)
    expected = loss_memory.plain(hidden, weight, labels)
    torch.testing.assert_close(loss_memory.METHODS[name](hidden, weight, labels), expected)


@pytest.mark.slow
def test_both_sides_are_timed_on_the_same_text(toy_corpus, toy_tokenizer_folder, tmp_path):
    command = [sys.executable, "-m", "benchmarks.throughput", "--model", "tiny", "--repeats", "1", "--updates", "4"]
    command += ["--warmup", "2", "--batch-tokens", "120", "--max-tokens", "8", "--no-write"]
    command += ["--corpus", toy_corpus, "--tokenizer", toy_tokenizer_folder, "--cache", tmp_path]
    done = subprocess.run(
        [str(word) for word in command], cwd=ROOT, capture_output=True, text=True, env={**os.environ}, check=True
    )
    result = json.loads(done.stdout)
    assert set(result["sides"]) == {"xbridge", "trainer"}
    padded = [side["padded_tokens_per_update"] for side in result["sides"].values()]
    assert max(padded) < 1.3 * min(padded)  # four updates of batches that are only alike on average
    assert all(0 < side["mfu"] < 1 and side["peak_bytes"] > 0 for side in result["sides"].values())
    assert result["nonpad_ratio_same_tokens_per_update"]["x1"]["median"] > 0


@pytest.mark.slow
def test_the_loss_of_a_large_vocabulary_takes_less_memory_than_the_plain_one():
    command = "-m benchmarks.loss_memory --rows 512 --plain-rows 256,512 --words 20000 --width 64 --no-write"
    done = subprocess.run(
        [sys.executable, *command.split()], cwd=ROOT, capture_output=True, text=True, env={**os.environ}, check=True
    )
    assert json.loads(done.stdout)["of_all_rows"]["xbridge_share"] < 0.4


def test_the_page_quotes_the_results():
    page = (ROOT / "docs" / "explanation" / "throughput.md").read_text(encoding="utf-8")
    results = ROOT / "benchmarks" / "results"
    for path in results.glob("throughput-quickstart-*-cpu.json"):
        found = json.loads(path.read_text())
        for side in found["sides"].values():
            assert f"{side['nonpad_tokens_per_second']['median']:,.0f}" in page
            assert f"{side['padding_share']:.1%}" in page
        ratio = found["nonpad_ratio_same_tokens_per_update"]["x1"]
        assert f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})" in page
    for path in results.glob("loss-memory-*.json"):
        assert f"{json.loads(path.read_text())['of_all_rows']['xbridge_share']:.1%}" in page
