"""The command line: help, exit codes, and one line for every mistake."""

from dataclasses import dataclass

import pytest
import yaml

from xbridge.cli import main
from xbridge.study.keys import keys_of


def outcome(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_doctor_gives_a_reason_for_everything(capsys):
    code, out, _ = outcome(capsys, "doctor")
    rows = out.splitlines()
    assert code == 0
    assert rows[0].split() == ["what", "usable", "detail"]
    assert all(len(row.split(maxsplit=2)) == 3 for row in rows)
    assert any(row.startswith("torch ") for row in rows)


def test_config_show_prints_yaml_that_resolves_to_itself(capsys, tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("stage: transfer\nreference: base\n", encoding="utf-8")
    code, first, _ = outcome(capsys, "config", "show", file)
    assert code == 0
    assert yaml.safe_load(first) == {"reference": "base", "num_resamples": 2000, "seed": 0}
    file.write_text("stage: transfer\n" + first, encoding="utf-8")
    assert outcome(capsys, "config", "show", file)[1] == first


def test_overrides_may_follow_options(capsys, tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("inputs: {evaluations: {}}\n", encoding="utf-8")
    code, out, _ = outcome(capsys, "transfer", file, "--dry-run", "reference=base")
    assert code == 0
    assert "reference: base" in out
    assert "# digest" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("study", "run", "absent.yaml"), "xbridge: absent.yaml: no such config file"),
        (("config", "keys", "nothing"), "xbridge: nothing: give study, a stage"),
        (("config", "keys", "xbridge.objectives.nothing"), "no module of this name with a Config"),
    ],
)
def test_mistakes_are_one_line_with_exit_code_2(capsys, arguments, message):
    code, _, err = outcome(capsys, *arguments)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_study_given_to_a_stage_and_a_file_for_another_stage_are_told_apart(capsys, tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("study: x\n", encoding="utf-8")
    assert "this is a study; use `xbridge study run`" in outcome(capsys, "train", file)[2]
    file.write_text("stage: spectra\n", encoding="utf-8")
    assert "stage: this file is for `xbridge spectra`" in outcome(capsys, "train", file)[2]
    file.write_text("inputs: {model: /nowhere}\n", encoding="utf-8")
    assert "inputs.model: /nowhere: no such folder" in outcome(capsys, "spectra", file)[2]


def test_a_finished_stage_of_other_settings_is_not_overwritten(capsys, tmp_path):
    file, out = tmp_path / "a.yaml", tmp_path / "out"
    file.write_text("inputs: {evaluations: {}}\n", encoding="utf-8")
    out.mkdir()
    (out / "manifest.json").write_text('{"digest": "of another config"}', encoding="utf-8")
    code, _, err = outcome(capsys, "transfer", file, "--out", out)
    assert code == 2
    assert "holds a finished stage of other settings" in err
    assert "of another config" in (out / "manifest.json").read_text(encoding="utf-8")


def test_an_unknown_option_is_refused():
    with pytest.raises(SystemExit) as error:
        main(["study", "run", "a.yaml", "--fast"])
    assert error.value.code == 2


def test_deepspeed_s_local_rank_is_accepted_and_ignored(capsys):
    assert outcome(capsys, "--local_rank=1", "config", "keys", "transfer")[0] == 0


@pytest.mark.parametrize("stage", ["study", "corpus", "tokenizer", "train", "finetune", "evaluate", "report"])
def test_every_key_is_explained(capsys, stage):
    code, out, _ = outcome(capsys, "config", "keys", stage)
    assert code == 0
    lines = out.splitlines()
    keys = [i for i, line in enumerate(lines) if line and not line.startswith(" ")]
    unexplained = [lines[i] for i in keys if i + 1 == len(lines) or not lines[i + 1].startswith(" ")]
    assert not unexplained


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A section."""

    lr: float = 0.1
    """Rate."""


@dataclass(frozen=True, kw_only=True)
class Outer:
    """A config whose section has another default than the section's own class."""

    inner: Inner = Inner(lr=0.5)
    """Section."""
    steps: int
    """Updates."""


def test_keys_show_the_defaults_that_hold_in_their_place():
    assert [(k.path, k.type, k.default, k.text) for k in keys_of(Outer)] == [
        ("inner", "section", "", "Section."),
        ("inner.lr", "number", "0.5", "Rate."),
        ("steps", "whole number", "required", "Updates."),
    ]
