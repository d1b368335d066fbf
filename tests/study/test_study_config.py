"""Study files: inheritance, and mistakes that are named where they were written."""

import pytest

from xbridge.core.errors import ConfigError, UserError
from xbridge.study.config import is_study, load_study, merge

MINIMAL = """
study: s
languages: [eng_Latn, deu_Latn]
corpus: {sources: []}
base: {}
arms: {denoise: {}, mt: {}}
reference: denoise
"""


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_merge_is_deep_replaces_lists_and_keeps_both_originals():
    under = {"a": {"b": 1, "c": [1, 2]}, "d": 1}
    over = {"a": {"c": [3]}, "e": 2}
    assert merge(under, over) == {"a": {"b": 1, "c": [3]}, "d": 1, "e": 2}
    assert under == {"a": {"b": 1, "c": [1, 2]}, "d": 1}


def test_another_type_of_plug_in_replaces_the_whole_mapping():
    assert merge({"model": {"type": "mbart", "layers": 3}}, {"model": {"type": "pretrained", "name": "x"}}) == {
        "model": {"type": "pretrained", "name": "x"}
    }
    assert merge({"model": {"type": "mbart", "layers": 3}}, {"model": {"type": "mbart", "width": 8}})["model"] == {
        "type": "mbart",
        "layers": 3,
        "width": 8,
    }


def test_extends_changes_a_study_and_null_takes_entries_out(tmp_path):
    write(tmp_path / "parent.yaml", MINIMAL + "tasks: {retrieval: {}, slots: {}}\n")
    child = write(
        tmp_path / "child.yaml", "extends: parent.yaml\nstudy: t\nseeds: [7]\ntasks: {slots: null}\narms: {mt: null}\n"
    )
    study, data = load_study(child, ["finetune_seeds=[5]"])
    assert (study.study, study.seeds, study.finetune_seeds) == ("t", (7,), (5,))
    assert list(study.tasks) == ["retrieval"]
    assert list(study.arms) == ["denoise"]
    assert "extends" not in data
    assert is_study(tmp_path / "parent.yaml")


def test_a_study_cannot_extend_itself(tmp_path):
    write(tmp_path / "a.yaml", "extends: b.yaml\n")
    write(tmp_path / "b.yaml", "extends: a.yaml\n")
    with pytest.raises(UserError, match="extends itself"):
        load_study(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("arm={}", "arm: unknown key; did you mean 'arms'"),
        ("reference=mtt", "reference: 'mtt' is not an arm; arms: denoise, mt"),
        ("languages=[eng_Latn]", "languages: give the source language and at least one target"),
        ("languages=[eng_Latn, eng_Latn]", "languages: a language is given twice"),
        ("arms.base={}", "arms.base: this name is the study's own"),
        ("study=../up", "study: '../up': use letters"),
        ("seeds=[]", "seeds: must be at least one"),
        ("workers=0", "workers: must be at least one"),
        ("tasks.x.data=none", "tasks.x.data: 'none' is not an entry of data"),
        ("tasks.x.arms=[mtt]", "tasks.x.arms: 'mtt' is not one of base, denoise, mt, random"),
        ("analysis.label_data=none", "analysis.label_data: 'none' is not an entry of data"),
        ("seeds=3", "seeds: expected a list, got 3"),
    ],
)
def test_mistakes_in_a_study_are_named(tmp_path, override, message):
    path = write(tmp_path / "study.yaml", MINIMAL)
    with pytest.raises(ConfigError) as error:
        load_study(path, [override])
    assert str(error.value).startswith(message)
