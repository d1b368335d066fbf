"""A stage is a module with `VERSION`, `Config`, `Inputs` and `run(config, inputs, out)`; here is how one is executed.

The study runner, the stage commands and the tests all come through `execute`.
"""

import dataclasses
import importlib
import time
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xbridge.core.artifact import MANIFEST, Artifact, read_manifest
from xbridge.core.config import canonical, digest_of, parse
from xbridge.core.errors import ConfigError, user_error_of
from xbridge.core.files import sha256_of_path
from xbridge.core.runtime import settle_environment

MODULES = {
    "corpus": "xbridge.data.corpus",
    "tokenizer": "xbridge.data.tokenizer",
    "train": "xbridge.training.train",
    "taskdata": "xbridge.tasks.taskdata",
    "finetune": "xbridge.tasks.finetune",
    "evaluate": "xbridge.tasks.evaluate",
    "extract": "xbridge.activations.extract",
    "compare": "xbridge.analysis.compare",
    "spectra": "xbridge.analysis.spectra",
    "separability": "xbridge.analysis.separability",
    "transfer": "xbridge.analysis.transfer",
    "report": "xbridge.report.page",
}
SUMMARIES = {
    "corpus": "read, clean, deduplicate and split a parallel corpus; write its data card",
    "tokenizer": "train a sentencepiece tokenizer on a corpus, or adopt a pretrained one",
    "train": "train a model, or continue one, on weighted objectives",
    "taskdata": "make or read the labelled examples of a task",
    "finetune": "train a task head (and the model under it) in the source language",
    "evaluate": "score every target language, zero-shot",
    "extract": "write the representations of held-out sentences, every layer",
    "compare": "similarity between all layers of all models, and between languages",
    "spectra": "singular values of every weight matrix and of its change",
    "separability": "how separable languages and labels are, layer by layer",
    "transfer": "differences between arms with intervals and tests",
    "report": "one page with the verdict, tables and figures",
}


@dataclass(frozen=True, kw_only=True)
class Node:
    """One stage to be run: where, from what, and under which name.

    `inputs` has the fields of the stage's `Inputs`: a folder, a mapping of names to folders, or None.
    `parents` maps the id of each parent node to its digest.
    """

    id: str
    artifact: Artifact
    config: Any
    inputs: Mapping[str, Any]
    parents: Mapping[str, str]

    @property
    def stage(self) -> str:
        return self.artifact.stage


def load_stage(stage: str) -> types.ModuleType:
    """Import the module of a stage."""
    return importlib.import_module(MODULES[stage])


def stage_digest(stage: str, config: Any, parents: Mapping[str, str]) -> str:
    """Digest of what a stage will produce; `parents` maps input names to the parents' digests."""
    return digest_of(stage, load_stage(stage).VERSION, config, dict(parents))


def digest_of_input(path: Path) -> str:
    """Digest of a folder that a stage reads: its manifest's, or for a foreign file or folder its content's."""
    if path.is_dir() and (path / MANIFEST).exists():
        return str(read_manifest(path)["digest"])
    return sha256_of_path(path)


def parse_inputs(stage: str, data: Mapping[str, Any]) -> tuple[Any, dict[str, str]]:
    """Build a stage's `Inputs` from plain data, checking that each folder exists; return it with the digests."""
    inputs = parse(load_stage(stage).Inputs, data, "inputs")
    digests: dict[str, str] = {}
    for field in dataclasses.fields(inputs):
        value = getattr(inputs, field.name)
        named = value.items() if isinstance(value, Mapping) else [("", value)]
        for key, path in named:
            if path is None:
                continue
            name = f"{field.name}.{key}" if key else field.name
            if not path.exists():
                raise ConfigError(f"inputs.{name}", f"{path}: no such folder")
            digests[name] = digest_of_input(path)
    return inputs, digests


def execute(node: Node) -> float:
    """Run one stage and write its manifest; return the wall seconds. Does nothing where it is complete.

    Under a launcher every rank comes here; rank 0 writes what is the folder's own, the stage sees to the rest.
    """
    if node.artifact.is_complete():
        return 0.0
    module = load_stage(node.stage)
    inputs = parse(module.Inputs, node.inputs, "inputs")
    is_main = settle_environment().rank == 0
    started, cpu_started = time.monotonic(), time.process_time()
    try:
        if is_main:
            node.artifact.begin(canonical(node.config), canonical(node.inputs))
        module.run(node.config, inputs, node.artifact.path)
        seconds = time.monotonic() - started
        if is_main:
            node.artifact.finish(seconds=seconds, cpu_seconds=time.process_time() - cpu_started, parents=node.parents)
    except OSError as error:
        raise user_error_of(error, str(node.artifact.path)) or error from None
    return seconds
