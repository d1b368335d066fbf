"""What a training says of the data it has seen."""

import pytest
from tiny_training import config, lines

from xbridge.core.files import read_json
from xbridge.training import train
from xbridge.training.train import Inputs


@pytest.fixture(scope="module")
def trained(toy_corpus, toy_tokenizer_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    temperature = [{"until": 0.5, "value": 1}, {"until": 1, "value": 5}]
    inputs = Inputs(corpus=toy_corpus, tokenizer=toy_tokenizer_folder / "tokenizer")
    train.run(config(objective="translation", temperature=temperature), inputs, folder)
    return folder


def test_the_lines_of_validations_and_the_summary_hold_the_ledger(trained):
    updates = [line for line in lines(trained) if "loss" in line]
    for line in lines(trained):
        if "validation" in line:
            so_far = updates[line["step"] - 1] if line["step"] else {"total_nonpad_tokens": 0, "total_tokens": 0}
            parts = line["ledger"].values()
            assert sum(part["tokens"] for part in parts) == so_far["total_nonpad_tokens"]
            assert sum(part["supervised_tokens"] for part in parts) == so_far["total_tokens"]
    summary = read_json(trained / "summary.json")
    assert summary["ledger"] == line["ledger"]
    nonpad, padded = (sum(line[f"num_{kind}_tokens"] for line in updates) for kind in ("nonpad", "padded"))
    assert summary["padding_share"] == pytest.approx(1 - nonpad / padded, abs=1e-4)


def test_a_training_over_two_corpora_names_them_in_its_ledger(toy_corpus, toy_tokenizer_folder, tmp_path):
    inputs = Inputs(corpus={"one": toy_corpus, "two": toy_corpus}, tokenizer=toy_tokenizer_folder / "tokenizer")
    settings = config(budget={"unit": "steps", "amount": 4}, corpora={"weights": {"one": 3, "two": 1}})
    train.run(settings, inputs, tmp_path / "train")
    ledger = read_json(tmp_path / "train" / "summary.json")["ledger"]
    drawn = {
        name: sum(row["examples"] for part, row in ledger.items() if part.startswith(name)) for name in ("one", "two")
    }
    assert drawn["one"] > 2 * drawn["two"] > 0
    (store,) = (tmp_path / "tokens").iterdir()  # of one content, so one store
    assert store.is_dir()
