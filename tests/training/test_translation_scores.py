"""Translations scored while a model trains: which pairs, what is logged, early stopping, and resuming."""

import pytest
from tiny_training import TINY, config, lines

from xbridge.core.errors import ConfigError, Interrupted, UserError
from xbridge.core.files import read_json, read_rows, write_table
from xbridge.training import train
from xbridge.training.translation_metrics import score
from xbridge.training.translation_scores import directions_of, held_out_pairs
from xbridge.training.validation import Findings

SCORES = {"every": 5, "rows": 6, "max_new_tokens": 8, "directions": ["eng_Latn-deu_Latn", "deu_Latn-spa_Latn"]}


@pytest.fixture(scope="module")
def scored(inputs, tmp_path_factory):
    """Ten updates of translation, scored before, in the middle and after."""
    folder = tmp_path_factory.mktemp("scored")
    train.run(
        config(objective="translation", translation_scores={**SCORES, "scorers": ["own_scorers.length_ratio"]}),
        inputs,
        folder,
    )
    return folder


def corpus_of(folder, rows):
    names = ("id", "split", "source_lang", "target_lang", "source", "target")
    write_table(folder / "bitext.parquet", [dict(zip(names, row, strict=True)) for row in rows])
    return folder


def test_held_out_pairs_are_taken_as_they_are_turned_round_or_joined_on_the_pivot(tmp_path):
    corpus = corpus_of(
        tmp_path,
        [
            ("a", "dev", "eng_Latn", "deu_Latn", "red", "rot"),
            ("b", "dev", "eng_Latn", "deu_Latn", "blue", "blau"),
            ("c", "dev", "eng_Latn", "spa_Latn", "red", "rojo"),
            ("d", "train", "eng_Latn", "spa_Latn", "blue", "azul"),
        ],
    )
    found = held_out_pairs([corpus], ["eng_Latn-deu_Latn", "deu_Latn-eng_Latn", "deu_Latn-spa_Latn"], 9)
    assert found["eng_Latn-deu_Latn"] == (["a", "b"], ["red", "blue"], ["rot", "blau"])
    assert found["deu_Latn-eng_Latn"] == (["a", "b"], ["rot", "blau"], ["red", "blue"])
    assert found["deu_Latn-spa_Latn"] == (["a+c"], ["rot"], ["rojo"])
    assert len(held_out_pairs([corpus], ["eng_Latn-deu_Latn"], 1)["eng_Latn-deu_Latn"].ids) == 1
    with pytest.raises(UserError, match=r"no dev pairs for spa_Latn-hun_Latn in .*bitext\.parquet"):
        held_out_pairs([corpus], ["spa_Latn-hun_Latn"], 9)
    other = corpus_of(tmp_path / "other", [("x", "dev", "eng_Latn", "hun_Latn", "red", "piros"),
                                           ("y", "dev", "eng_Latn", "deu_Latn", "one", "eins")])  # fmt: skip
    both = held_out_pairs([corpus, other], ["eng_Latn-deu_Latn", "eng_Latn-hun_Latn"], 9)
    assert both["eng_Latn-deu_Latn"].ids == ["a", "b"]
    assert both["eng_Latn-hun_Latn"].ids == ["x"]
    with pytest.raises(UserError, match=r"has no bitext\.parquet to take held-out text from"):
        held_out_pairs([tmp_path / "elsewhere"], ["eng_Latn-deu_Latn"], 9)


def test_the_directions_are_those_given_or_those_that_are_trained():
    free = config(translation_scores={}).translation_scores
    assert directions_of(free, ["denoising/deu_Latn", "translation/eng_Latn-deu_Latn"]) == ["eng_Latn-deu_Latn"]
    given = config(translation_scores={"directions": ["spa_Latn-deu_Latn"]}).translation_scores
    assert directions_of(given, ["deu_Latn"]) == ["spa_Latn-deu_Latn"]
    with pytest.raises(ConfigError, match=r"translation_scores\.directions: the objective has no directions"):
        directions_of(free, ["deu_Latn", "eng_Latn"])


def test_scores_come_with_their_signatures_and_are_those_of_the_translations_kept(scored):
    found = [line for line in lines(scored) if "translation" in line]
    assert [line["step"] for line in found] == [0, 5, 10]
    for line in found:
        rows = read_rows(scored / "translations" / f"step-{line['step']:06d}.parquet")
        assert len({(row["id"], row["direction"]) for row in rows}) == len(rows) == 12
        for direction, scores in line["translation"].items():
            mine = [row for row in rows if row["direction"] == direction]
            said, wanted = [row["hypothesis"] for row in mine], [row["reference"] for row in mine]
            again = score("chrf++", said, wanted, direction.split("-")[1])
            assert scores["chrf++"] == pytest.approx(again.value)
            assert direction in line["signatures"]["chrf++"][again.signature]
            assert 0 <= scores["length_ratio"] <= 100
        assert line["signatures"]["length_ratio"] == {"scale:100": SCORES["directions"]}
    summary = read_json(scored / "summary.json")
    assert summary["translation"] == found[-1]["translation"]
    assert summary["macro"]["bleu"] == pytest.approx(
        sum(scores["bleu"] for scores in found[-1]["translation"].values()) / 2
    )
    assert summary["signatures"] == found[-1]["signatures"]


def test_scoring_does_not_change_what_is_learned(inputs, scored, tmp_path):
    train.run(config(objective="translation"), inputs, tmp_path)
    plain = [
        {key: line[key] for key in ("step", "validation", "ledger")} for line in lines(scored) if "validation" in line
    ]
    assert [line for line in lines(tmp_path) if "validation" in line] == plain
    assert [line for line in lines(tmp_path) if "loss" in line] == [line for line in lines(scored) if "loss" in line]


def test_a_denoising_arm_is_scored_on_the_directions_that_it_names(inputs, tmp_path):
    train.run(config(budget={"unit": "steps", "amount": 1}, translation_scores=SCORES), inputs, tmp_path)
    assert list(read_json(tmp_path / "summary.json")["translation"]) == SCORES["directions"]


@pytest.mark.parametrize(("metric", "better"), [("loss", min), ("macro_chrf++", max), ("deu_Latn-spa_Latn/bleu", max)])
def test_training_stops_early_where_the_watched_number_no_longer_improves(inputs, tmp_path, metric, better):
    settings = config(
        objective="translation", budget={"unit": "steps", "amount": 40}, validate_every=1, save_every=0,
        optim={"lr": 1e-9, "warmup_steps": 0}, translation_scores={**SCORES, "every": 1},
        early_stopping={"metric": metric, "patience": 3, "min_delta": 0.01},
    )  # fmt: skip
    train.run(settings, inputs, tmp_path)
    found = [line for line in lines(tmp_path) if "validation" in line]
    summary = read_json(tmp_path / "summary.json")
    assert summary["steps"] == found[-1]["step"] == 3
    values = [Findings.from_line(line).numbers()[metric] for line in found]
    assert summary["best"] == {"metric": metric, "value": pytest.approx(values[0]), "step": 0}
    assert better(values) == pytest.approx(values[0], abs=0.01)
    assert summary["stopped_early"].startswith(f"{metric} was best at step 0 (")
    assert sum(part["examples"] for part in summary["ledger"].values()) < 40 * 20
    assert (tmp_path / "model" / "config.json").exists()


def test_a_run_that_was_interrupted_stops_where_the_other_one_does(inputs, tmp_path):
    from xbridge.training.signals import StopSignals

    settings = config(
        objective="translation", budget={"unit": "steps", "amount": 40}, validate_every=2, save_every=0,
        optim={"lr": 1e-9, "warmup_steps": 0}, early_stopping={"patience": 4, "min_delta": 0.01},
    )  # fmt: skip
    train.run(settings, inputs, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        polls = iter(range(10_000))
        patch.setattr(StopSignals, "is_set", property(lambda self: next(polls) > 22))
        with pytest.raises(Interrupted):
            train.run(settings, inputs, tmp_path / "cut")
    assert 0 < len(lines(tmp_path / "cut")) < len(lines(tmp_path / "whole"))
    train.run(settings, inputs, tmp_path / "cut")
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    both = [read_json(tmp_path / name / "summary.json") for name in ("cut", "whole")]
    assert both[0]["stopped_early"] == both[1]["stopped_early"]
    assert both[0]["steps"] == both[1]["steps"] == 8


def test_what_cannot_be_watched_or_scored_is_refused_before_the_first_step(inputs, tmp_path):
    with pytest.raises(ConfigError, match=r"^early_stopping\.metric: 'macro_chrf' is none of loss, .*macro_chrf\+\+"):
        train.run(
            config(objective="translation", early_stopping={"metric": "macro_chrf"}, translation_scores=SCORES),
            inputs, tmp_path,
        )  # fmt: skip
    with pytest.raises(UserError, match=r"^hun_Latn: the tokenizer has no token|no dev pairs for eng_Latn-hun_Latn"):
        train.run(config(translation_scores={"directions": ["eng_Latn-hun_Latn"]}), inputs, tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"translation_scores": {"every": 7}}, r"translation_scores\.every: 7 is not a multiple of validate_every"),
        ({"translation_scores": {"metrics": []}}, r"translation_scores\.metrics: give at least one"),
        ({"translation_scores": {"directions": ["deu"]}}, r"translation_scores\.directions\.0: 'deu' is not like"),
        ({"early_stopping": {"patience": 2}, "validate_every": 0}, r"early_stopping\.patience: needs validations"),
        ({"early_stopping": {"patience": 2, "metric": "macro_bleu"}}, r"macro_bleu needs translation_scores\.every"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        config(**settings)


def test_a_shape_too_short_for_the_longest_translation_cuts_it(inputs, tmp_path):
    few = {**SCORES, "max_new_tokens": 99}
    shape = {**TINY, "max_positions": 12}
    train.run(config(scratch=shape, budget={"unit": "steps", "amount": 1}, translation_scores=few), inputs, tmp_path)
    assert (tmp_path / "translations" / "step-000001.parquet").exists()
