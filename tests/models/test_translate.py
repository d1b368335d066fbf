"""Batches of a search worked out by hand; translations that do not depend on their neighbours; ranks as processes."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from xbridge.core.errors import UserError
from xbridge.models.families import conventions_of
from xbridge.models.generation import Request, Search, batches_of, translate
from xbridge.models.loading import new_mbart, save_model

SCRIPT = Path(__file__).with_name("translate_on_ranks.py")


@pytest.fixture(scope="module")
def model(toy_tokenizer):
    return new_mbart(
        toy_tokenizer, seed=0, layers=2, d_model=16, ffn=32, heads=2, init_std=0.2, max_positions=16, dropout=0.1
    )


REQUESTS = [
    Request("one two three four", "eng_Latn", "deu_Latn"),
    Request("fünf", "deu_Latn", "spa_Latn"),
    Request("six seven", "eng_Latn", "spa_Latn"),
    Request("uno dos tres cuatro cinco", "spa_Latn", "eng_Latn"),
    Request("", "eng_Latn", "deu_Latn"),
]


def test_batches_fill_the_token_budget_from_the_longest_down():
    search = Search(max_new_tokens=4, batch_tokens=24)
    # longest 8: 12 a row, 2 rows; then 4: 8 a row, 3 rows; then 2: 6 a row, 4 rows
    assert batches_of([2, 8, 4, 4, 8, 1, 4, 2], search) == [[1, 4], [2, 3, 6], [0, 7, 5]]
    assert batches_of([8, 8], Search(max_new_tokens=4, num_beams=2, batch_tokens=24)) == [[0], [1]]
    assert batches_of([30, 1], search) == [[0], [1]]  # one row at least
    assert batches_of([], search) == []


@pytest.mark.parametrize("num_beams", [1, 3])
def test_translations_keep_the_order_of_the_sentences_and_do_not_depend_on_their_neighbours(
    model, toy_tokenizer, num_beams
):
    conventions = conventions_of("mbart", toy_tokenizer)
    search = Search(max_new_tokens=5, num_beams=num_beams, batch_tokens=24)
    together = translate(model, toy_tokenizer, conventions, REQUESTS, search)
    alone = [translate(model, toy_tokenizer, conventions, [request], search)[0] for request in REQUESTS]
    assert together == alone
    assert not any("_Latn" in text or "</s>" in text for text in together)


def test_the_model_is_left_in_the_mode_that_it_was_in(model, toy_tokenizer):
    conventions = conventions_of("mbart", toy_tokenizer)
    for mode in (True, False):
        model.train(mode)
        translate(model, toy_tokenizer, conventions, REQUESTS[:1], Search(max_new_tokens=2))
        assert model.training is mode


def test_between_two_batches_a_run_can_be_stopped(model, toy_tokenizer):
    calls = []

    def stop():
        calls.append(None)
        if len(calls) == 2:
            raise InterruptedError

    model.train()
    with pytest.raises(InterruptedError):
        translate(
            model, toy_tokenizer, conventions_of("mbart", toy_tokenizer), REQUESTS,
            Search(max_new_tokens=2, batch_tokens=1), between=stop,
        )  # fmt: skip
    assert len(calls) == 2
    assert model.training


def test_a_model_without_an_encoder_and_a_decoder_is_refused(toy_tokenizer):
    from transformers import RobertaConfig, RobertaModel

    encoder = RobertaModel(RobertaConfig(vocab_size=32, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    with pytest.raises(UserError, match="'roberta' has no encoder and decoder"):
        translate(encoder, toy_tokenizer, conventions_of("mbart", toy_tokenizer), REQUESTS, Search(max_new_tokens=2))


@pytest.fixture(scope="module")
def folder(model, toy_tokenizer, tmp_path_factory):
    """The model with a bias at `</s>`, so that some translations end early and some never."""
    folder = tmp_path_factory.mktemp("saved")
    model.final_logits_bias[0, 2] = 1.5
    save_model(model, toy_tokenizer, folder)
    model.final_logits_bias[0, 2] = 0.0
    return folder


def on_ranks(folder, out, *, ranks, stage):
    """Translations by `ranks` processes; the same list must come from every one of them."""
    out.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={ranks}", f"--master_port={port}"]
    command += [str(SCRIPT), str(stage), str(folder), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads((out / f"{rank}.json").read_text()) for rank in range(ranks)]
    assert all(texts == found[0] for texts in found)
    return found[0]


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory):
    """What one process finds."""
    texts = on_ranks(folder, tmp_path_factory.mktemp("alone") / "out", ranks=1, stage=0)
    lengths = {len(text.split()) for text in texts}
    assert len(lengths) > 2
    return texts


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "stage"), [(2, 0), (3, 0), (2, 3), (3, 3)])
def test_any_number_of_ranks_finds_the_same_translations_also_sharded(folder, alone, tmp_path, ranks, stage):
    if stage and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    assert on_ranks(folder, tmp_path / "out", ranks=ranks, stage=stage) == alone
