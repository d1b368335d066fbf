"""Fine-tuning and evaluation on toy data: heads learn, probes leave the model alone, bad input is named."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

from xbridge.activations.encoder import Encoder, model_folder
from xbridge.core.config import parse
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import read_rows, read_table
from xbridge.models.heads import load_head
from xbridge.models.loading import load_backbone
from xbridge.tasks import evaluate, finetune
from xbridge.training.metrics_log import read_metrics

FAST = {"epochs": 40, "batch_size": 4, "optim": {"lr": 3e-3, "warmup_steps": 5, "schedule": "linear"}}


def train(model, data, out, **settings):
    config = parse(finetune.Config, {"task": "classification", **FAST, **settings})
    finetune.run(config, finetune.Inputs(model=model, data=data), out)
    return out


def score(model, data, out, **settings):
    config = parse(evaluate.Config, settings)
    evaluate.run(config, evaluate.Inputs(model=model, data=data), out)
    return {
        (row["metric"], row["predictor"], row["target_lang"], row["site"]): row["value"]
        for row in read_rows(out / "scores.parquet")
    }


HEADS = {
    "classification, mean": {"task": {"type": "classification"}},
    "classification, first": {"task": {"type": "classification", "features": "first"}},
    "classification, decoder end": {"task": {"type": "classification", "features": "decoder_end"}},
    "classification, hidden units": {"head": {"hidden_units": 16, "dropout": 0.0}},
    "tagging, first piece": {"task": "tagging"},
    "tagging, last piece": {"task": {"type": "tagging", "subword": "last"}},
}


@pytest.mark.parametrize("settings", HEADS.values(), ids=HEADS)
def test_every_head_learns_nine_examples_by_heart(tiny_model, toy_data, tmp_path, settings):
    tuned = train(tiny_model, toy_data, tmp_path / "tuned", **settings)
    scores = score(tuned, toy_data, tmp_path / "scores", languages=["eng_Latn"])  # test repeats train in the toy data
    metric = "span_f1_strict" if "tagging" in str(settings) else "macro_accuracy"
    assert scores[metric, "model", "eng_Latn", ""] == 1.0
    assert scores[metric, "constant", "eng_Latn", ""] < 0.5


def test_scores_have_every_language_and_the_constant_predictor_by_hand(tiny_model, toy_data, tmp_path):
    tuned = train(tiny_model, toy_data, tmp_path / "tuned", epochs=1)
    score(tuned, toy_data, tmp_path / "scores")
    rows = read_rows(tmp_path / "scores" / "scores.parquet")
    assert {row["target_lang"] for row in rows} == {"eng_Latn", "deu_Latn", "zho_Hans"}
    assert {(row["source_lang"], row["site"], row["n"], row["task"]) for row in rows} == {
        ("eng_Latn", "", 9, "classification")
    }
    constant = {(row["metric"], row["value"]) for row in rows if row["predictor"] == "constant"}
    assert constant == {("accuracy", 1 / 3), ("macro_accuracy", 1 / 3)}
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text(encoding="utf-8"))
    assert summary["languages"]["deu_Latn"] == {"constant": "ask"}


@pytest.mark.parametrize("task", ["classification", "tagging"])
def test_predictions_do_not_depend_on_the_batch_size(tiny_model, toy_data, tmp_path, task):
    tuned = train(tiny_model, toy_data, tmp_path / "tuned", task=task, epochs=3)
    for size in (1, 4, 100):
        score(tuned, toy_data, tmp_path / str(size), batch_size=size)
    for lang in ("eng_Latn", "deu_Latn", "zho_Hans"):
        first, *others = (read_table(tmp_path / str(s) / "predictions" / f"{lang}.parquet") for s in (1, 4, 100))
        assert all(other.equals(first) for other in others)


@pytest.mark.parametrize("freeze", [False, True])
def test_a_second_run_gives_identical_weights_and_scores(tiny_model, toy_data, tmp_path, freeze):
    torch.manual_seed(1)
    first = train(tiny_model, toy_data, tmp_path / "1", epochs=3, freeze=freeze)
    torch.manual_seed(2)
    second = train(tiny_model, toy_data, tmp_path / "2", epochs=3, freeze=freeze)
    assert score(first, toy_data, tmp_path / "3") == score(second, toy_data, tmp_path / "4")
    ours, theirs = load_head(first / "model")[0].state_dict(), load_head(second / "model")[0].state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_seeds_differ(tiny_model, toy_data, tmp_path):
    heads = [load_head(train(tiny_model, toy_data, tmp_path / str(s), epochs=1, seed=s) / "model")[0] for s in (0, 1)]
    assert not torch.equal(heads[0].layers[0].weight, heads[1].layers[0].weight)


def test_a_probe_leaves_the_model_as_it_was_and_fine_tuning_does_not(tiny_model, toy_data, tmp_path):
    before = load_backbone(tiny_model).state_dict()
    probe = load_backbone(train(tiny_model, toy_data, tmp_path / "p", epochs=3, freeze=True)).state_dict()
    tuned = load_backbone(train(tiny_model, toy_data, tmp_path / "t", epochs=3)).state_dict()
    assert all(torch.equal(before[name], probe[name]) for name in before)
    changed = {name for name in before if not torch.equal(before[name], tuned[name])}
    assert "model.encoder.layers.0.fc1.weight" in changed
    assert not any(name.startswith("model.decoder.layers") for name in changed)


def test_a_probe_learns_on_frozen_features(tiny_model, toy_data, tmp_path):
    settings = {"epochs": 150, "batch_size": 9, "optim": {"lr": 3e-2, "warmup_steps": 5, "schedule": "linear"}}
    probe = train(tiny_model, toy_data, tmp_path / "p", freeze=True, head={"dropout": 0.0}, **settings)
    scores = score(probe, toy_data, tmp_path / "s", languages=["eng_Latn"])
    assert scores["accuracy", "model", "eng_Latn", ""] == 1.0


def test_an_interrupted_folder_is_run_again_to_the_same_end(tiny_model, toy_data, tmp_path):
    whole = train(tiny_model, toy_data, tmp_path / "1", epochs=2)
    halfway = tmp_path / "2"
    (halfway / "model").mkdir(parents=True)
    shutil.copy(whole / "metrics.jsonl", halfway)
    (halfway / "model" / "head.json").write_text("{", encoding="utf-8")
    again = train(tiny_model, toy_data, halfway, epochs=2)
    assert score(again, toy_data, tmp_path / "3") == score(whole, toy_data, tmp_path / "4")
    assert len((again / "metrics.jsonl").read_text().splitlines()) == len(
        (whole / "metrics.jsonl").read_text().splitlines()
    )


def test_macro_scores_are_those_of_the_stored_predictions(tiny_model, toy_data, tmp_path):
    tuned = train(tiny_model, toy_data, tmp_path / "t", epochs=6)
    scores = score(tuned, toy_data, tmp_path / "s")
    rows = read_rows(tmp_path / "s" / "predictions" / "deu_Latn.parquet")
    assert [row["id"] for row in rows] == [f"test-{t}-{c}" for t in range(3) for c in range(3)]
    right = sum(row["gold"] == row["prediction"] for row in rows)
    assert scores["accuracy", "model", "deu_Latn", ""] == pytest.approx(right / 9)


BAD_TRAINING = {
    "no examples in the source language": (
        {"source_lang": "fra_Latn"},
        r"has no examples in fra_Latn; it has deu_Latn",
    ),
    "no training split": ({"source_lang": "deu_Latn"}, r"split 'train' has no examples in deu_Latn; there are: test"),
}


@pytest.mark.parametrize(("settings", "message"), BAD_TRAINING.values(), ids=BAD_TRAINING)
def test_missing_training_examples_are_named(tiny_model, toy_data, tmp_path, settings, message):
    with pytest.raises(UserError, match=rf"examples\.parquet: {message}"):
        train(tiny_model, toy_data, tmp_path / "t", **settings)


def test_an_example_without_label_is_named(tiny_model, tmp_path, write_toy):
    data = write_toy(lambda row: {**row, "label": None if row["id"] == "train-1-0" else row["label"]})
    with pytest.raises(UserError, match=r"example 'train-1-0' \(eng_Latn\) has no label"):
        train(tiny_model, data, tmp_path / "t")


def test_tags_that_do_not_fit_the_words_are_named(tiny_model, tmp_path, write_toy):
    data = write_toy(lambda row: {**row, "tags": row["tags"][:2]} if row["id"] == "test-1-0" else row)
    with pytest.raises(UserError, match=r"example 'test-1-0' \(eng_Latn\) has 5 words and 2 tags"):
        train(tiny_model, data, tmp_path / "t", task="tagging")


def test_an_id_that_occurs_twice_is_named(tiny_model, tmp_path, write_toy):
    data = write_toy(lambda row: {**row, "id": "same"} if row["split"] == "train" else row)
    with pytest.raises(UserError, match="id 'same' occurs twice in train of eng_Latn"):
        train(tiny_model, data, tmp_path / "t")


def test_a_single_label_cannot_be_learnt(tiny_model, tmp_path, write_toy):
    data = write_toy(lambda row: {**row, "label": "on"})
    with pytest.raises(UserError, match="have one label only, 'on'"):
        train(tiny_model, data, tmp_path / "t")


def test_unknown_gold_labels_stop_or_count_as_errors(tiny_model, toy_data, tmp_path, write_toy):
    tuned = train(tiny_model, toy_data, tmp_path / "t")
    data = write_toy(lambda row: {**row, "label": "dim" if row["id"].startswith("test-1") else row["label"]})
    with pytest.raises(UserError, match=r"eng_Latn has 1 labels that the head does not know \(dim\)"):
        score(tuned, data, tmp_path / "s")
    scores = score(tuned, data, tmp_path / "s", unknown_labels="wrong")
    assert scores["macro_accuracy", "model", "eng_Latn", ""] == pytest.approx(2 / 3)


def test_data_of_another_label_set_is_refused_even_when_unknown_labels_are_allowed(
    tiny_model, toy_data, tmp_path, write_toy
):
    tuned = train(tiny_model, toy_data, tmp_path / "t", epochs=1)
    data = write_toy(lambda row: {**row, "label": f"other-{row['label']}"})
    with pytest.raises(UserError, match="3 labels that the head does not know"):
        score(tuned, data, tmp_path / "s", unknown_labels="wrong")


def test_a_language_without_examples_is_named_before_anything_is_scored(tiny_model, toy_data, tmp_path):
    tuned = train(tiny_model, toy_data, tmp_path / "t", epochs=1)
    with pytest.raises(UserError, match=r"examples\.parquet: has no examples in hun_Latn"):
        score(tuned, toy_data, tmp_path / "s", languages=["deu_Latn", "hun_Latn"])
    assert not (tmp_path / "s").exists()


def test_a_head_of_another_task_and_a_model_without_head_are_refused(tiny_model, toy_data, tmp_path):
    tuned = train(tiny_model, toy_data, tmp_path / "t", epochs=1)
    with pytest.raises(ConfigError, match=r"task\.type: .* was fine-tuned for classification, .* on tagging"):
        score(tuned, toy_data, tmp_path / "s", task="tagging")
    with pytest.raises(UserError, match="not a fine-tuned model"):
        score(tiny_model, toy_data, tmp_path / "s", task="classification")


def test_a_language_that_the_tokenizer_lacks_is_named_before_anything_is_scored(
    tiny_model, toy_data, tmp_path, write_toy
):
    tuned = train(tiny_model, toy_data, tmp_path / "t", epochs=1)
    data = write_toy(lambda row: {**row, "lang": row["lang"].replace("zho_Hans", "hun_Latn")})
    with pytest.raises(UserError, match="hun_Latn: the tokenizer has no token for this language"):
        score(tuned, data, tmp_path / "s")
    assert not (tmp_path / "s").exists()


OWN_TASK = """
from xbridge.tasks.classification import *
from xbridge.tasks.metrics import Score

def score(gold, predicted):
    return [Score("errors", float(sum(g != p for g, p in zip(gold, predicted))), len(gold))]
"""


def test_a_task_kind_of_the_users_own_is_found_by_its_dotted_name(tiny_model, toy_data, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").touch()
    (tmp_path / "mine" / "counting.py").write_text(OWN_TASK, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    tuned = train(tiny_model, toy_data, tmp_path / "t", task="mine.counting")
    scores = score(tuned, toy_data, tmp_path / "s", languages=["eng_Latn"])
    assert scores == {("errors", "model", "eng_Latn", ""): 0.0, ("errors", "constant", "eng_Latn", ""): 6.0}


def test_a_task_without_head_cannot_be_fine_tuned():
    with pytest.raises(ConfigError, match=r"^task\.type: sentence_retrieval needs no head"):
        parse(finetune.Config, {"task": "sentence_retrieval"})


def test_words_of_an_unspaced_language_are_found_inside_pieces(tiny_model):
    encoder = Encoder.open(model_folder(tiny_model))
    rows, spans = encoder.word_rows([["打", "开", "红", "灯"]], "zho_Hans")
    pieces = encoder.tokenizer.convert_ids_to_tokens(rows[0].tokens)
    text = "".join(pieces[rows[0].start : rows[0].stop]).replace("▁", "")
    assert text == "打开红灯"
    for number, word in enumerate("打开红灯"):
        assert word in pieces[spans[0][number][0]]


def test_words_that_are_cut_off_get_the_commonest_tag(tiny_model, tmp_path, write_toy):
    def lengthen(row):
        return {**row, "words": row["words"] + ["light"] * 40, "tags": row["tags"] + ["O"] * 40}

    data = write_toy(lengthen)
    tuned = train(tiny_model, data, tmp_path / "t", task="tagging", epochs=2)
    score(tuned, data, tmp_path / "s")
    for row in read_rows(tmp_path / "s" / "predictions" / "eng_Latn.parquet"):
        assert len(row["prediction"]) == len(row["gold"])
        assert row["prediction"][-1] == "O"


@pytest.mark.parametrize("data", [{"hidden_units": -1}, {"dropout": 1.0}])
def test_impossible_settings_name_their_key(data):
    with pytest.raises(ConfigError, match=rf"^{next(iter(data))}: must"):
        parse(finetune.HeadConfig, data)


TWO_RANKS = """
import sys
from pathlib import Path
from xbridge.core.config import parse
from xbridge.tasks import finetune
model, data, out = map(Path, sys.argv[1:])
config = parse(finetune.Config, {"task": "tagging", "epochs": 3, "batch_size": 4, "head": {"dropout": 0.0}})
finetune.run(config, finetune.Inputs(model=model, data=data), out)
"""


@pytest.mark.slow
def test_two_ranks_fine_tune_with_the_losses_and_scores_of_one(tiny_model, toy_data, tmp_path):
    script = tmp_path / "tune.py"
    script.write_text(TWO_RANKS, encoding="utf-8")
    for ranks in ("1", "2"):
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            ranks,
            str(script),
        ]
        subprocess.run([*command, str(tiny_model), str(toy_data), str(tmp_path / ranks)], check=True, timeout=200)
    losses = [[line["loss"] for line in read_metrics(tmp_path / ranks / "metrics.jsonl")] for ranks in ("1", "2")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)  # Adam blows up the rounding of gradients that are near zero
    scores = [score(tmp_path / ranks, toy_data, tmp_path / f"s{ranks}") for ranks in ("1", "2")]
    assert scores[0] == scores[1]
