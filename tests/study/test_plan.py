"""The graph of a study: what is in it, what its digests depend on, and that every preset in configs/ is one."""

from pathlib import Path

import pytest

from xbridge.core.errors import ConfigError
from xbridge.study.config import load_study
from xbridge.study.plan import Plan

STUDIES = Path(__file__).parents[2] / "configs" / "studies"


def plan(name, *overrides):
    study, data = load_study(STUDIES / f"{name}.yaml", overrides)
    return Plan(study, data, Path("runs") / study.study)


def digests(of):
    return {node.id: node.artifact.digest for node in of.nodes.values()}


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_preset_is_a_valid_study_named_after_its_file(path):
    of = plan(path.stem)
    assert of.study.study == path.stem
    assert list(of.nodes)[-1] == "report/report"


def test_parents_come_before_children_and_the_report_reads_everything_that_ends_a_chain():
    of = plan("quickstart")
    seen = set()
    for node in of.nodes.values():
        assert set(node.parents) <= seen
        seen.add(node.id)
    read = {parent for node in of.nodes.values() for parent in node.parents}
    assert set(of.nodes) - read == {"report/report"}


def test_the_quickstart_has_every_arm_seed_control_and_task():
    of = plan("quickstart")
    trainings = {i.removeprefix("train/") for i in of.nodes if i.startswith("train/")}
    arms = {f"{arm}-s{seed}" for arm in ("denoise", "mt", "mt_shuffled") for seed in (0, 1)}
    assert trainings == {"base", "random"} | arms
    for model in trainings:
        for seed in range(3):
            for kind in ("intents-finetune", "intents-probe", "slots-finetune"):
                assert f"evaluate/{kind}-{model}-f{seed}" in of.nodes
        assert f"evaluate/retrieval-{model}" in of.nodes
        assert (f"evaluate/translation-{model}" in of.nodes) == (model != "random")


def test_all_arms_start_from_the_same_base_with_the_same_budget():
    of = plan("quickstart")
    arms = [of.nodes[f"train/{arm}-s0"] for arm in ("denoise", "mt", "mt_shuffled")]
    assert len({node.parents["train/base"] for node in arms}) == 1
    assert len({str(node.config.budget) for node in arms}) == 1
    assert len({str(node.config.optim) for node in arms}) == 1
    assert arms[0].config.seed == 0


def test_the_random_control_has_the_shape_of_the_base_and_no_training():
    of = plan("quickstart")
    random, base = of.nodes["train/random"].config, of.nodes["train/base"].config
    assert random.scratch == base.scratch
    assert random.budget.amount == 0


def test_a_pretrained_base_is_scored_beside_its_own_architecture_with_new_weights():
    of = plan("quickstart", "base.scratch=null", "base.pretrained={model: some/mbart, revision: abc}")
    random, base = of.nodes["train/random"].config, of.nodes["train/base"].config
    assert (base.pretrained.random_weights, random.pretrained.random_weights) == (False, True)
    assert random.pretrained.model == base.pretrained.model == "some/mbart"


def test_labels_say_what_each_node_is():
    of = plan("quickstart")
    assert of.nodes["evaluate/intents-probe-mt-s1-f2"].artifact.labels == {
        "model": "mt-s1",
        "arm": "mt",
        "train_seed": 1,
        "task": "intents",
        "mode": "probe",
        "finetune_seed": 2,
    }


def test_a_setting_changes_the_digests_of_what_depends_on_it_and_no_others():
    before = digests(plan("quickstart"))
    after = digests(plan("quickstart", "arms.mt.objective.label_smoothing=0.1"))
    changed = {i for i in before if before[i] != after[i]}
    assert all("mt-s" in i or i in ("compare/models", "transfer/transfer", "report/report") for i in changed)
    assert {"train/mt-s0", "train/mt-s1", "report/report"} <= changed


def test_another_question_writes_the_report_again_and_nothing_else():
    before = digests(plan("quickstart"))
    after = digests(plan("quickstart", "question=Why?"))
    assert {i for i in before if before[i] != after[i]} == {"report/report"}


def test_settings_that_cannot_change_results_change_no_digest():
    before = digests(plan("quickstart"))
    after = digests(plan("quickstart", "workers=1", "threads=2", "train.save_every=7", "train.accumulation=2"))
    assert before == after


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.optim.lrr=1", "train.optim.lrr: unknown key; did you mean 'lr'?"),
        ("continued.optim.schedule=linea", 'continued.optim.schedule: "linea" is not one of'),
        ("arms.mt.objectives=x", "arms.mt.objectives: unknown key; did you mean 'objective'?"),
        ("base.scratch.heads=5", "base.scratch.heads: 5 does not divide"),
        ("languages.1=no", "languages.1: unknown language 'no'; did you mean nob_Latn"),
        ("corpus.languages=[eng_Latn, no]", "corpus.languages.1: unknown language 'no'"),
        ("tasks.intents.finetune.task=classificaton", "tasks.intents.finetune.task.type: no module"),
        ("data.assistant.source.type=intents", "data.assistant.source.type: no module"),
        ("analysis.compare={measures: [ckka]}", "analysis.compare.measures.0: no measure 'ckka'"),
    ],
)
def test_a_mistake_is_named_where_it_was_written(override, message):
    with pytest.raises(ConfigError) as error:
        plan("quickstart", override)
    assert str(error.value).startswith(message)
