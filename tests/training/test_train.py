"""The train stage as a whole, in one process."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_training import TINY, config, lines, updates

from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import read_json
from xbridge.data.sampling import Examples
from xbridge.models.families import conventions_of
from xbridge.models.generation import Request, Search, translate
from xbridge.models.loading import load_backbone, load_tokenizer
from xbridge.training import train


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_two_runs_are_identical(inputs, base, tmp_path):
    train.run(config(), inputs, tmp_path)
    assert lines(tmp_path) == lines(base)
    assert equal(weights(tmp_path), weights(base))


def test_activations_that_are_computed_again_give_the_same_numbers(inputs, base, tmp_path):
    train.run(config(activation_checkpointing=True), inputs, tmp_path)
    assert lines(tmp_path) == lines(base)
    assert equal(weights(tmp_path), weights(base))


@pytest.mark.slow
def test_a_compiled_training_has_the_losses_of_a_plain_one(inputs, tmp_path):
    for name, compile in (("plain", False), ("compiled", True)):
        train.run(config(scratch={**TINY, "dropout": 0.0}, compile=compile), inputs, tmp_path / name)
    for one, two in zip(updates(tmp_path / "compiled"), updates(tmp_path / "plain"), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
        assert one["batch_digest"] == two["batch_digest"]


def test_every_checkpoint_and_the_best_weights_load_as_models(inputs, tmp_path):
    train.run(config(keep_after=9, keep_checkpoints=9, keep_best=True), inputs, tmp_path)
    folders = [*sorted((tmp_path / "checkpoints").glob("step-*")), tmp_path / "best"]
    assert [folder.name for folder in folders] == ["step-000004", "step-000008", "best"]
    for folder in folders:
        stored = load_file(folder / "model.safetensors")
        loaded = dict(load_backbone(folder).named_parameters())
        assert all(torch.equal(loaded[name], tensor) for name, tensor in stored.items() if name in loaded)
        assert len(load_tokenizer(folder)) == loaded["model.shared.weight"].shape[0]


def test_a_mixture_draws_from_all_its_objectives(inputs, tmp_path):
    components = [{"objective": "translation"}, {"objective": "denoising"}]
    train.run(config(objective={"type": "mixture", "components": components}), inputs, tmp_path)
    drawn = {name: entry["examples"] for name, entry in read_json(tmp_path / "summary.json")["ledger"].items()}
    shares = [sum(n for name, n in drawn.items() if name.startswith(kind)) for kind in ("translation", "denoising")]
    assert min(shares) > 50


def test_the_stage_leaves_a_model_a_log_and_a_summary_and_no_checkpoints(base):
    assert sorted(path.name for path in base.iterdir()) == ["checkpoints", "metrics.jsonl", "model", "summary.json"]
    assert not list((base / "checkpoints").glob("*step-*"))
    summary = read_json(base / "summary.json")
    assert summary["steps"] == 10
    assert set(summary["validation"]) == {"eng_Latn", "deu_Latn", "spa_Latn"}
    assert summary["tokens"]["nonpad"] == updates(base)[-1]["total_nonpad_tokens"]
    drawn = sum(part["examples"] for part in summary["ledger"].values())
    assert drawn == pytest.approx(summary["tokens"]["nonpad"] / 11, rel=0.5)  # strings of about 4 words
    model = load_backbone(base)
    assert model.generation_config.decoder_start_token_id == 2
    assert load_tokenizer(base / "model").convert_tokens_to_ids("deu_Latn") == 30


def test_checkpoints_can_be_kept(inputs, tmp_path):
    train.run(config(keep_after=1), inputs, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").glob("step-*")] == ["step-000008"]


def test_no_steps_saves_the_initial_model(inputs, base, tmp_path):
    train.run(config(budget={"amount": 0}), inputs, tmp_path)
    assert read_json(tmp_path / "summary.json")["loss"] is None
    assert lines(tmp_path)[-1]["validation"] == lines(base)[0]["validation"]
    assert not equal(weights(tmp_path), weights(base))


def test_the_budget_counts_the_tokens_it_names(inputs, tmp_path):
    train.run(config(budget={"unit": "supervised_tokens", "amount": 900}), inputs, tmp_path)
    totals = [line["total_tokens"] for line in updates(tmp_path)]
    assert totals[-2] < 900 <= totals[-1]


def test_a_continued_training_starts_from_its_parent_and_sees_other_batches(inputs, base, tmp_path):
    fork = replace(inputs, init=base)
    train.run(config(scratch=None), fork, tmp_path / "fork")
    assert lines(tmp_path / "fork")[0]["validation"] == lines(base)[-1]["validation"]
    assert not {line["batch_digest"] for line in updates(base)} & {
        line["batch_digest"] for line in updates(tmp_path / "fork")
    }
    train.run(config(scratch=None, budget={"amount": 0}), fork, tmp_path / "copy")
    assert equal(weights(tmp_path / "copy"), weights(base))


def test_a_pretrained_folder_brings_its_own_tokenizer(inputs, base, tmp_path):
    few = config(scratch=None, pretrained={"model": str(base / "model")}, budget={"unit": "steps", "amount": 1})
    train.run(few, replace(inputs, tokenizer=None), tmp_path)
    assert lines(tmp_path)[0]["validation"] == lines(base)[-1]["validation"]


def test_the_random_control_of_a_pretrained_model_has_its_shape_and_other_weights(inputs, base, tmp_path):
    source = {"model": str(base / "model"), "random_weights": True}
    for name in "xy":
        control = config(scratch=None, pretrained=source, seed=5, budget={"unit": "steps", "amount": 0})
        train.run(control, replace(inputs, tokenizer=None), tmp_path / name)
    x, y, original = weights(tmp_path / "x"), weights(tmp_path / "y"), weights(base)
    assert equal(x, y)
    assert {key: value.shape for key, value in x.items()} == {key: value.shape for key, value in original.items()}
    matrix = "model.encoder.layers.0.fc1.weight"
    assert abs(torch.corrcoef(torch.stack([x[matrix].flatten(), original[matrix].flatten()]))[0, 1]) < 0.2


def test_accumulation_does_not_change_the_run(inputs, tmp_path):
    still = {**TINY, "dropout": 0.0}
    train.run(config(scratch=still), inputs, tmp_path / "one")
    train.run(config(scratch=still, accumulation=5), inputs, tmp_path / "many")
    for one, many in zip(updates(tmp_path / "one"), updates(tmp_path / "many"), strict=True):
        assert many["loss"] == pytest.approx(one["loss"], rel=1e-5)  # float32 sums in another order
        assert many["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
        assert many["batch_digest"] == one["batch_digest"]


def test_a_finished_stage_is_not_run_again_and_another_config_starts_anew(inputs, tmp_path):
    short = {"unit": "steps", "amount": 2}
    train.run(config(budget=short), inputs, tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    train.run(config(budget=short), inputs, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    train.run(config(budget=short, seed=4), inputs, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() != before


def test_bfloat16_trains_near_the_float32_run(inputs, base, tmp_path):
    train.run(config(precision="bf16", budget={"unit": "steps", "amount": 2}), inputs, tmp_path)
    full, narrow = updates(base)[0], updates(tmp_path)[0]
    assert narrow["loss"] == pytest.approx(full["loss"], rel=2e-2)
    assert narrow["loss"] != full["loss"]
    assert all(tensor.dtype == torch.float32 for tensor in weights(tmp_path).values())


def test_a_denoising_base_that_has_not_learned_to_copy_is_pointed_out(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "WARN_LOSS", 0.5)
    train.run(config(budget={"unit": "steps", "amount": 2}), inputs, tmp_path)
    assert "above 0.5: the model has hardly learned to copy" in read_json(tmp_path / "summary.json")["warnings"][0]


def test_eight_pairs_in_four_directions_are_learned_by_heart(inputs, tmp_path, toy_tokenizer):
    from xbridge.core.files import read_rows, write_table

    rows = read_rows(inputs.corpus / "bitext.parquet")
    few = [row for row in rows if int(row["id"].split("-")[0]) < 8]
    write_table(tmp_path / "few" / "bitext.parquet", few)
    shape = {**TINY, "d_model": 48, "ffn": 96, "dropout": 0.0, "init_std": 0.15}
    settings = config(
        objective="translation", scratch=shape, budget={"unit": "steps", "amount": 300}, batch_tokens=300,
        optim={"lr": 5e-3, "warmup_steps": 20, "schedule": "linear"}, validation_rows=0, save_every=0,
    )  # fmt: skip
    train.run(settings, replace(inputs, corpus=tmp_path / "few"), tmp_path / "out")
    model, conventions = load_backbone(tmp_path / "out"), conventions_of("mbart", toy_tokenizer)
    sides = [(row, *pair) for row in few for pair in (("source", "target"), ("target", "source"))]
    requests = [Request(row[source], row[f"{source}_lang"], row[f"{target}_lang"]) for row, source, target in sides]
    found = translate(model, toy_tokenizer, conventions, requests, Search(max_new_tokens=10))
    assert found == [row[target] for row, _, target in sides]


def test_a_model_starts_from_exactly_one_place(inputs, tmp_path):
    with pytest.raises(ConfigError, match=r"scratch: give exactly one of .* found none"):
        train.run(config(scratch=None), inputs, tmp_path)
    with pytest.raises(ConfigError, match=r"found scratch and inputs\.init"):
        train.run(config(), replace(inputs, init=tmp_path), tmp_path / "out")


def test_strings_longer_than_the_models_positions_are_refused(inputs, tmp_path):
    with pytest.raises(ConfigError, match=r"max_tokens: 30 gives sequences of up to 32 tokens .* has 16 positions"):
        train.run(config(max_tokens=30), inputs, tmp_path)


def test_a_parent_with_another_vocabulary_is_refused_with_both_sizes(inputs, base, tmp_path):
    longer = load_tokenizer(inputs.tokenizer)
    longer.add_tokens(["new"])
    longer.save_pretrained(tmp_path / "other" / "tokenizer")
    fork = train.Inputs(corpus=inputs.corpus, tokenizer=tmp_path / "other", init=base)
    with pytest.raises(UserError, match="the model has 32 embeddings, the tokenizer 33 tokens"):
        train.run(config(scratch=None), fork, tmp_path / "fork")


def test_validation_is_on_the_same_examples_every_time(inputs, tmp_path):
    from xbridge.training.validation import Validation

    class Lengths:
        """Counts what it is asked to collate."""

        def __init__(self, objective):
            self.objective, self.parts, self.seen = objective, objective.parts, []

        def lengths(self, examples):
            return self.objective.lengths(examples)

        def collate(self, examples):
            self.seen.append(Examples(*map(np.copy, examples)))
            return examples

    from xbridge.objectives.base import Material
    from xbridge.objectives.denoising import Config, build

    tokenizer = load_tokenizer(inputs.tokenizer)
    material = Material(corpus=inputs.corpus, split="dev", tokenizer=tokenizer, max_tokens=8, seed=0,
                        conventions=conventions_of("mbart", tokenizer))  # fmt: skip
    first, second = Lengths(build(Config(), material)), Lengths(build(Config(), material))
    Validation(first, rows=5, batch_tokens=50)
    Validation(second, rows=5, batch_tokens=50)
    assert sum(len(batch.row) for batch in first.seen) == 15
    assert all(np.array_equal(a, b) for a, b in zip(map(np.stack, first.seen), map(np.stack, second.seen), strict=True))
