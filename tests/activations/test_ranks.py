"""Several processes, and processes that are killed: the rows are those of one process that was not."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from xbridge.activations import extract
from xbridge.activations.ranks import BLOCK, Ranks
from xbridge.activations.store import ActivationStore
from xbridge.core.config import parse
from xbridge.core.files import read_json, write_table

SCRIPT = Path(__file__).with_name("run_extract.py")
EXACT = 1e-9  # sums in another order, float64


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 16])
@pytest.mark.parametrize("sizes", [{"a": 1000}, {"a": 2500, "b": 1}, {"a": 1024, "b": 2048, "c": 3000}])
def test_shares_are_runs_of_whole_blocks_that_cover_every_sentence_once(sizes, world_size):
    shares = [Ranks(rank, world_size).shares(sizes) for rank in range(world_size)]
    for lang, size in sizes.items():
        runs = [share[lang] for share in shares if lang in share]
        assert runs[0][0] == 0
        assert runs[-1][1] == size
        assert all(stop == start for (_, stop), (start, _) in itertools.pairwise(runs))
        assert all(start % BLOCK == 0 for start, _ in runs)


def test_one_block_languages_are_spread_over_the_ranks():
    sizes = dict.fromkeys(("a", "b", "c", "d"), 900)
    assert [list(Ranks(rank, 2).shares(sizes)) for rank in range(2)] == [["a", "b"], ["c", "d"]]


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    """2,300 English and 900 German sentences of two to five words: three blocks and one."""
    words = ["turn", "on", "the", "light", "open", "door", "please", "no", "is", "kitchen", "window", "now"]
    numbers = np.random.default_rng(0).integers(0, len(words), size=(3200, 5))
    rows = [
        {"id": f"{lang}-{i:04}", "lang": lang, "text": " ".join(words[n] for n in numbers[j][: 2 + j % 4])}
        for lang, count, shift in (("eng_Latn", 2300, 0), ("deu_Latn", 900, 2300))
        for i in range(count)
        for j in (i + shift,)
    ]
    folder = tmp_path_factory.mktemp("many")
    write_table(folder / "nway.parquet", rows)
    return folder


def start(model, sentences, out, *, ranks=1, other=None, **settings):
    """Start an extraction in its own process group, under torchrun where it has several ranks."""
    out.parent.mkdir(parents=True, exist_ok=True)
    config = out.with_suffix(".json")
    config.write_text(json.dumps({"sites": ["encoder.*"], "batch_size": 256, **settings}))
    command = [sys.executable]
    if ranks > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command += ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}", f"--master_port={port}"]
    command += [
        str(SCRIPT),
        str(config),
        str(model),
        str(sentences),
        str(out),
        *([] if other is None else [str(other)]),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2])}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


def run(model, sentences, out, **options):
    process = start(model, sentences, out, **options)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return ActivationStore(out)


def run_here(model, sentences, out, *, other=None, **settings):
    """The same in this process."""
    config = parse(extract.Config, {"sites": ["encoder.*"], "batch_size": 256, **settings})
    extract.run(config, extract.Inputs(model=model, sentences=sentences, other=other), out)
    return ActivationStore(out)


def assert_same_rows(one, two):
    assert (one.sites, one.languages) == (two.sites, two.languages)
    for lang in one.languages:
        assert one.ids(lang) == two.ids(lang)
        for site in one.sites:
            assert torch.equal(one.load(lang, site), two.load(lang, site)), (lang, site)


@pytest.fixture(scope="module")
def alone(tiny_model, sentences, tmp_path_factory):
    return {
        kind: run_here(tiny_model, sentences, tmp_path_factory.mktemp("alone") / kind, pooling=kind)
        for kind in ("mean", "words")
    }


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "pooling"), [(2, "mean"), (3, "words")])
def test_the_rows_of_several_ranks_are_bit_for_bit_those_of_one(tiny_model, sentences, alone, tmp_path, ranks, pooling):
    store = run(tiny_model, sentences, tmp_path / "out", ranks=ranks, pooling=pooling)
    assert_same_rows(store, alone[pooling])
    assert len(store.load("eng_Latn", "encoder.1")) > BLOCK
    assert len(list((tmp_path / "out" / "eng_Latn").glob("encoder.1*"))) == ranks
    assert not (tmp_path / "out" / "resume.json").exists()


@pytest.mark.slow
def test_moments_of_several_ranks_give_the_cka_of_one(tiny_model, tiny_roberta, sentences, tmp_path):
    options = {"keep": "moments", "pooling": "words", "other": tiny_roberta}
    one = run_here(tiny_model, sentences, tmp_path / "one", **options)
    several = run(tiny_model, sentences, tmp_path / "several", ranks=3, **options)
    assert several.moment_layers == one.moment_layers
    for lang in one.languages:
        a, b = one.moments(lang), several.moments(lang)
        assert a.num_examples == b.num_examples > 900
        np.testing.assert_allclose(b.cka(), a.cka(), atol=EXACT, rtol=0)


def wait_for(path):
    for _ in range(2400):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} did not come")


@pytest.mark.slow
def test_a_killed_extraction_goes_on_after_the_shards_that_were_finished(tiny_model, sentences, alone, tmp_path):
    out, options = tmp_path / "out", {"shard_rows": 1024, "batch_size": 2}
    process = start(tiny_model, sentences, out, **options)
    first = out / "eng_Latn" / "encoder.2.safetensors"
    wait_for(first)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (out / "index.json").exists()
    written = first.stat().st_mtime_ns
    store = run_here(tiny_model, sentences, out, **options)
    assert first.stat().st_mtime_ns == written
    assert read_json(out / "index.json")["shards"]["eng_Latn"] == [[0, 1024], [1024, 1024], [2048, 252]]
    for lang in store.languages:
        for site in store.sites:
            assert (store.load(lang, site) - alone["mean"].load(lang, site)).abs().max() <= 1e-6  # other batches
    assert not [path for path in out.rglob("*") if path.suffix == ".tmp" or path.name == "resume.json"]


@pytest.mark.slow
def test_more_ranks_may_finish_what_one_began(tiny_model, sentences, alone, tmp_path):
    out = tmp_path / "out"
    process = start(tiny_model, sentences, out, shard_rows=1024)
    wait_for(out / "eng_Latn" / "encoder.2.safetensors")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert_same_rows(run(tiny_model, sentences, out, ranks=2), alone["mean"])
