"""Study -> graph of stages, each with its digest and folder.

corpus -> tokenizer -> train base -> train arms -+-> [finetune ->] evaluate -> transfer -+
                    -> train random -------------+-> extract -> compare, separability ---+-> report
                                                 +-> spectra ----------------------------+
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xbridge.core.artifact import Artifact, folder_name
from xbridge.core.config import canonical, parse
from xbridge.core.errors import ConfigError
from xbridge.core.files import write_json
from xbridge.study.config import Study, TaskSpec, merge
from xbridge.study.stages import Node, load_stage, stage_digest

REPORT_FOLDER = "report"


class Plan:
    """The nodes of a study in an order in which each comes after its parents."""

    def __init__(self, study: Study, data: Mapping[str, Any], folder: Path):
        self.study = study
        self.data = data
        self.folder = folder
        self.nodes: dict[str, Node] = {}
        _Builder(self).build()

    def write_lock(self) -> None:
        """Write the resolved graph to study.lock.json, which the report reads."""
        write_json(
            self.folder / "study.lock.json",
            {
                "study": self.study.study,
                "question": self.study.question,
                "languages": list(self.study.languages),
                "arms": canonical(self.study.arms),
                "seeds": list(self.study.seeds),
                "finetune_seeds": list(self.study.finetune_seeds),
                "reference": self.study.reference,
                "config": self.data,
                "nodes": [
                    {
                        "id": node.id,
                        "stage": node.stage,
                        "name": node.artifact.name,
                        "digest": node.artifact.digest,
                        "labels": dict(node.artifact.labels),
                        "parents": sorted(node.parents),
                    }
                    for node in self.nodes.values()
                ],
            },
        )


class _Builder:
    """Adds the nodes of one study to a plan, parents first."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.study = plan.study

    def build(self) -> None:
        study = self.study
        self.corpus = self.add("corpus", "corpus", study.corpus, {})
        self.tokenizer = self.add("tokenizer", "tokenizer", study.tokenizer, {"corpus": self.corpus})
        models = self.add_models()
        data = {
            name: self.add("taskdata", name, settings, {"corpus": self.corpus}, path=f"data.{name}")
            for name, settings in study.data.items()
        }
        evaluations: dict[str, str] = {}
        for name, task in study.tasks.items():
            evaluations.update(self.add_task(name, task, models, data))
        self.add_analysis(models, data, evaluations)

    def add_models(self) -> dict[str, str]:
        """Base, random control and every arm and seed: model name -> node id."""
        study = self.study
        common = {"corpus": self.corpus, "tokenizer": self.tokenizer}
        base = merge(study.train, study.base)
        models: dict[str, str] = {}
        if study.random_control:
            control = {**base, "budget": {"unit": "steps", "amount": 0}}
            if isinstance(base.get("pretrained"), Mapping):
                control["pretrained"] = {**base["pretrained"], "random_weights": True}
            models["random"] = self.add_training("random", "random", control, common, 0, "base")
        models["base"] = self.add_training("base", "base", base, common, 0, "base")
        for seed in study.seeds:
            for arm, settings in study.arms.items():
                config = merge(merge(study.train, study.continued), settings)
                inputs = {**common, "init": models["base"]}
                models[f"{arm}-s{seed}"] = self.add_training(f"{arm}-s{seed}", arm, config, inputs, seed, f"arms.{arm}")
        return models

    def add_training(
        self, model: str, arm: str, config: Mapping[str, Any], inputs: Mapping[str, str], seed: int, path: str
    ) -> str:
        labels: dict[str, str | int] = {"model": model, "arm": arm, "train_seed": seed}
        return self.add("train", model, {"seed": seed, **config}, inputs, labels=labels, path=path)

    def add_task(self, name: str, task: TaskSpec, models: Mapping[str, str], data: Mapping[str, str]) -> dict[str, str]:
        """Fine-tunings and evaluations of one task on every model: evaluation name -> node id."""
        source = data[task.data] if task.data is not None else self.corpus
        modes = {"finetune": task.finetune, "probe": task.probe}
        evaluations: dict[str, str] = {}
        for model, trained in models.items():
            labels = self.labels_of(trained)
            if task.arms is not None and labels["arm"] not in task.arms:
                continue
            if task.finetune is None and task.probe is None:
                evaluations[f"{name}-{model}"] = self.add_evaluation(
                    f"{name}-{model}", task, {"model": trained, "data": source},
                    {**labels, "task": name, "mode": "zeroshot"}, f"tasks.{name}.evaluate",
                )  # fmt: skip
            for mode, settings in modes.items():
                if settings is None:
                    continue
                for seed in self.study.finetune_seeds if task.finetune_seeds is None else task.finetune_seeds:
                    both = {**labels, "task": name, "mode": mode, "finetune_seed": seed}
                    stage_name = f"{name}-{mode}-{model}-f{seed}"
                    config = {"seed": seed, **settings, **({"freeze": True} if mode == "probe" else {})}
                    tuned = self.add(
                        "finetune", stage_name, config, {"model": trained, "data": source},
                        labels=both, path=f"tasks.{name}.{mode}",
                    )  # fmt: skip
                    evaluation = merge({"task": settings["task"]} if "task" in settings else {}, task.evaluate)
                    evaluations[stage_name] = self.add_evaluation(
                        stage_name, dataclasses.replace(task, evaluate=evaluation), {"model": tuned, "data": source},
                        both, f"tasks.{name}.evaluate",
                    )  # fmt: skip
        return evaluations

    def add_evaluation(
        self, name: str, task: TaskSpec, inputs: Mapping[str, str], labels: Mapping[str, str | int], path: str
    ) -> str:
        return self.add("evaluate", name, task.evaluate, inputs, labels=labels, path=path)

    def add_analysis(self, models: Mapping[str, str], data: Mapping[str, str], evaluations: Mapping[str, str]) -> None:
        analysis = self.study.analysis
        nway, labelled, separability, spectra = {}, {}, {}, {}
        for model, trained in models.items():
            labels = self.labels_of(trained)
            if analysis.extract is not None:
                nway[model] = self.add(
                    "extract", f"nway-{model}", {**analysis.extract, "table": "nway"},
                    {"model": trained, "sentences": self.corpus}, labels=labels, path="analysis.extract",
                )  # fmt: skip
            if analysis.extract is not None and analysis.label_data is not None:
                labelled[model] = self.add(
                    "extract", f"examples-{model}", {**analysis.extract, "table": "examples"},
                    {"model": trained, "sentences": data[analysis.label_data]}, labels=labels, path="analysis.extract",
                )  # fmt: skip
            if analysis.separability is not None and model in nway:
                separability[model] = self.add(
                    "separability", model, analysis.separability,
                    {"nway": nway[model], "examples": labelled.get(model)}, labels=labels, path="analysis.separability",
                )  # fmt: skip
            if analysis.spectra is not None:
                base = None if model in ("base", "random") else models["base"]
                spectra[model] = self.add(
                    "spectra", model, analysis.spectra, {"model": trained, "base": base},
                    labels=labels, path="analysis.spectra",
                )  # fmt: skip
        comparison = transfer = None
        if analysis.compare is not None and nway:
            comparison = self.add("compare", "models", analysis.compare, {"activations": nway}, path="analysis.compare")
        if analysis.transfer is not None and evaluations:
            transfer = self.add(
                "transfer", "transfer", {**analysis.transfer, "reference": self.study.reference},
                {"evaluations": evaluations, "separability": separability}, path="analysis.transfer",
            )  # fmt: skip
        self.add(
            "report", "report", self.study.report,
            {
                "study": str(self.plan.folder), "trainings": models, "evaluations": evaluations,
                "comparison": comparison, "spectra": spectra, "separability": separability, "transfer": transfer,
                "corpus": self.corpus, "tokenizer": self.tokenizer, "taskdata": data,
            },
            path="report", folder=self.plan.folder / REPORT_FOLDER, facts={"question": self.study.question},
        )  # fmt: skip

    def labels_of(self, node_id: str) -> Mapping[str, str | int]:
        return self.plan.nodes[node_id].artifact.labels

    def add(
        self,
        stage: str,
        name: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Any],
        *,
        labels: Mapping[str, str | int] | None = None,
        path: str | None = None,
        folder: Path | None = None,
        facts: Mapping[str, str] | None = None,
    ) -> str:
        """Add a stage; `inputs` holds node ids where the stage's Inputs hold folders. Returns the node's id.

        `facts` are what the stage reads of the study itself; they enter its digest.
        """
        module = load_stage(stage)
        config = self.parse_settings(module.Config, settings, stage if path is None else path)
        folders, parents = self.resolve(inputs)
        digests = {key: parent.artifact.digest for key, parent in parents.items()}
        digest = stage_digest(stage, config, {**digests, **(facts or {})})
        node = Node(
            id=f"{stage}/{name}",
            artifact=Artifact(
                stage=stage, name=name, digest=digest, labels=dict(labels or {}),
                path=folder or self.plan.folder / stage / folder_name(name, digest),
            ),
            config=config,
            inputs={key: value for key, value in folders.items() if key in _field_names(module.Inputs)},
            parents={parent.id: parent.artifact.digest for parent in parents.values()},
        )  # fmt: skip
        assert node.id not in self.plan.nodes, node.id
        self.plan.nodes[node.id] = node
        return node.id

    def parse_settings(self, cls: type[Any], settings: Mapping[str, Any], path: str) -> Any:
        """Parse a section, giving it the study's languages where it has a place for them and says nothing itself."""
        languages = self.study.languages
        given = {"languages": list(languages), "source_lang": languages[0], "pivot": languages[0]}
        fields = _field_names(cls)
        filled = {**{key: value for key, value in given.items() if key in fields}, **settings}
        try:
            return parse(cls, filled, path)
        except ConfigError as error:
            where = self.where_written(error.path, path)
            if error.path.startswith(f"{path}.languages") and "languages" not in settings:
                where = error.path.removeprefix(f"{path}.")  # they are the study's own
            raise ConfigError(where, str(error).removeprefix(f"{error.path}: ")) from None

    def where_written(self, error_path: str, path: str) -> str:
        """The path where the user wrote the value: an arm's setting may stand in `train` or `continued`."""
        tail = error_path.removeprefix(path).lstrip(".").split(".")[0]
        own = {"base": self.study.base, **{f"arms.{arm}": s for arm, s in self.study.arms.items()}}.get(path)
        if own is None or tail in own:
            return error_path
        shared = {"continued": self.study.continued, "train": self.study.train}
        for section in ("train",) if path == "base" else ("continued", "train"):
            if tail in shared[section]:
                return section + error_path.removeprefix(path)
        return error_path

    def resolve(self, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Node]]:
        """Node ids -> folders, and the parents by input name (`field` or `field.key`). Other values pass unchanged."""
        folders: dict[str, Any] = {}
        parents: dict[str, Node] = {}
        for field, value in inputs.items():
            if isinstance(value, Mapping):
                folders[field] = {key: str(self.plan.nodes[i].artifact.path) for key, i in value.items()}
                parents.update({f"{field}.{key}": self.plan.nodes[i] for key, i in value.items()})
            elif value in self.plan.nodes:
                folders[field] = str(self.plan.nodes[value].artifact.path)
                parents[field] = self.plan.nodes[value]
            else:
                folders[field] = value
        return folders, parents


def _field_names(cls: type[Any]) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)}
