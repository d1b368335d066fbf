"""Stage: train a head, and the model under it, on one task in one source language.

With `freeze` the model stays as it is: features are computed once and only the head is trained (a probe).
"""

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from xbridge.core.config import Plugin, canonical, undigested
from xbridge.core.console import log, progress
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.runtime import derive_seed
from xbridge.tasks.base import IGNORED, Encoded, HeadTask
from xbridge.tasks.epochs import EpochPlan, batches_by_length
from xbridge.tasks.examples import Example, load_examples, require
from xbridge.training.optim import OptimConfig

if TYPE_CHECKING:
    from torch import Tensor

    from xbridge.activations.encoder import Encoder
    from xbridge.models.heads import Head
    from xbridge.training.trainer import Trainer

VERSION = 1
MODEL = "model"  # folder of the model, in a train folder as in this stage's


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Shape of a task head."""

    hidden_units: int = 0
    """GELU units of a hidden layer; 0 = a linear head."""
    dropout: float = 0.1
    """Share of feature entries (and of hidden units) set to zero in training."""

    def __post_init__(self) -> None:
        if self.hidden_units < 0:
            raise ConfigError("hidden_units", "must be 0 (linear) or more")
        if not 0 <= self.dropout < 1:
            raise ConfigError("dropout", "must be at least 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class FinetuneOptim(OptimConfig):
    """The optimiser's settings with the defaults of a short fine-tuning of a small model."""

    lr: float = 2e-3
    """Peak learning rate. A linear probe wants more (1e-2), a large pretrained model far less (1e-5 to 5e-5)."""
    warmup_steps: int = 20
    """Steps of linear warm-up from lr / warmup_steps to lr."""
    schedule: Literal["constant", "linear", "cosine", "inverse_sqrt"] = "linear"
    """Course of the rate after the warm-up."""


OPTIM = FinetuneOptim()
HEAD = HeadConfig()


@dataclass(frozen=True, kw_only=True)
class Config:
    """One fine-tuning or probe."""

    task: Annotated[Plugin, "xbridge.tasks"]
    """Task kind, classification or tagging, and its settings."""
    source_lang: str = "eng_Latn"
    """Language of the training examples."""
    freeze: bool = False
    """Leave the model as it is and train the head alone."""
    seed: int = 0
    """Seed of the head's weights, of the order of examples and of dropout."""
    epochs: int = 3
    """Passes over the training examples."""
    batch_size: int = 64
    """Examples per update, over all ranks."""
    optim: FinetuneOptim = OPTIM
    """Optimiser."""
    head: HeadConfig = HEAD
    """Shape of the head."""
    selection: Literal["last"] = "last"
    """Which weights are kept: last = those after the last update (no development set is looked at)."""
    max_examples: int | None = None
    """Train on a seeded sample of so many examples; null = all."""
    micro_batch_size: int | None = undigested(None)
    """Examples per forward pass on a rank; null = a rank's whole share."""
    save_every: int = undigested(0)
    """Updates between checkpoints; 0 = only when a signal stops the run."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "max_examples", "micro_batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(name, f"must be at least 1, got {value}")
        if not hasattr(self.task.load(), "encode"):
            raise ConfigError("task.type", f"{self.task.type} needs no head, so there is nothing to fine-tune")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the stage reads."""

    model: Path
    """A train folder."""
    data: Path
    """A taskdata folder."""


def run(config: Config, inputs: Inputs, out: Path) -> None:
    """Write `out`/model (backbone, tokenizer, head.safetensors, head.json) and `out`/metrics.jsonl."""
    import torch

    from xbridge.activations.encoder import Encoder
    from xbridge.models.heads import Head, save_head

    task = cast(HeadTask, config.task.load())
    examples = sample(load_examples(inputs.data, "train", config.source_lang), config.max_examples, config.seed)
    require(examples, task.NEEDS, inputs.data)
    counts = Counter(label for example in examples for label in task.labels(task.gold(example)))
    labels = sorted(counts)
    if len(labels) < 2:
        raise UserError(f"{inputs.data}: the {config.source_lang} training examples have one label only, {labels[0]!r}")

    encoder = Encoder.open(inputs.model)
    encoded = task.encode(examples, encoder, {label: i for i, label in enumerate(labels)}, config.task.config)
    encoded = [e for e in encoded if any(t != IGNORED for t in e.targets)]
    features = task.features(config.task.config)
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "head"))
    head = Head(
        encoder.dim,
        len(labels),
        hidden_units=config.head.hidden_units,
        dropout=config.head.dropout,
        generator=generator,
    )
    prepare = prepare_probe if config.freeze else prepare_whole
    trainer = prepare(config, encoder, head, encoded, features, out)
    trainer.run()
    record = {
        "task": config.task.type,
        "task_config": canonical(config.task.config),
        "features": features,
        "source_lang": config.source_lang,
        "labels": labels,
        "counts": [counts[label] for label in labels],
        "freeze": config.freeze,
        "selection": config.selection,
    }
    if trainer.is_main:
        if config.freeze:
            link_model(encoder.folder, out / MODEL)
        else:
            encoder.save(out / MODEL)
        save_head(head, out / MODEL, record)
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    trainer.wait()
    log("fine-tuned", examples=len(encoded), labels=len(labels), features=features, frozen=config.freeze)


def prepare_whole(
    config: Config, encoder: "Encoder", head: "Head", encoded: Sequence[Encoded], features: str, out: Path
) -> "Trainer":
    """A trainer of the backbone and the head together."""
    from xbridge.tasks.features import TaskModel, collate, freeze_unused, task_loss
    from xbridge.training.trainer import Trainer

    freeze_unused(encoder, features)
    plan = make_plan(
        config, encoded, lambda numbers, silent: collate(encoder, [encoded[i] for i in numbers], silent=silent)
    )
    model = TaskModel(encoder, head, features)
    return Trainer(model, task_loss, plan, config.optim, out, seed=config.seed, save_every=config.save_every)


def prepare_probe(
    config: Config, encoder: "Encoder", head: "Head", encoded: Sequence[Encoded], features: str, out: Path
) -> "Trainer":
    """Compute the features once; a trainer of the head on them."""
    import torch

    from xbridge.tasks.features import FeatureBatch, probe_loss
    from xbridge.training.trainer import Trainer

    rows = compute_features(encoder, encoded, features, config.batch_size)
    targets = [torch.tensor(e.targets, dtype=torch.int64) for e in encoded]

    def collate(numbers: Sequence[int], silent: bool) -> FeatureBatch:
        target_N = torch.cat([targets[i] for i in numbers])
        return FeatureBatch(torch.cat([rows[i] for i in numbers]), target_N.fill_(IGNORED) if silent else target_N)

    plan = make_plan(config, encoded, collate)
    return Trainer(head, probe_loss, plan, config.optim, out, seed=config.seed, save_every=config.save_every)


def compute_features(encoder: "Encoder", encoded: Sequence[Encoded], features: str, batch_size: int) -> "list[Tensor]":
    """Feature rows of each example, (rows, d) each, without gradients; batches of like length."""
    import torch

    from xbridge.tasks.features import collate, feature_rows

    found: dict[int, Tensor] = {}
    encoder.model.eval()
    with torch.inference_mode(), progress("encode", total=len(encoded), unit="example") as bar:
        for numbers in batches_by_length([len(e.row.tokens) for e in encoded], batch_size):
            batch = [encoded[i] for i in numbers]
            rows_ND = feature_rows(encoder, collate(encoder, batch), features).cpu()
            found.update(zip(numbers, torch.split(rows_ND, [len(e.targets) for e in batch]), strict=True))
            bar.update(len(numbers))
    return [found[i].clone() for i in range(len(encoded))]


def make_plan(config: Config, encoded: Sequence[Encoded], collate: Any) -> EpochPlan:
    """The order of examples; a unit is a label or a tagged word."""
    return EpochPlan(
        [e.id for e in encoded],
        [len(e.row.tokens) for e in encoded],
        [sum(t != IGNORED for t in e.targets) for e in encoded],
        collate,
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=config.seed,
        micro_batch_size=config.micro_batch_size,
    )


def sample(examples: Sequence[Example], max_examples: int | None, seed: int) -> list[Example]:
    """A seeded sample in file order; all of them without `max_examples`."""
    if max_examples is None or max_examples >= len(examples):
        return list(examples)
    chosen = {e.id for e in sorted(examples, key=lambda e: derive_seed(seed, "sample", e.id))[:max_examples]}
    return [e for e in examples if e.id in chosen]


def link_model(source: Path, target: Path) -> None:
    """Give the unchanged model's files a second name (hard links), or copy them where the file system has no links."""
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(p for p in source.iterdir() if p.is_file()):
        (target / file.name).unlink(missing_ok=True)
        try:
            os.link(file, target / file.name)
        except OSError:
            shutil.copyfile(file, target / file.name)
