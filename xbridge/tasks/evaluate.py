"""Stage: score a model in every target language, zero-shot, and keep each example's prediction under its id.

Beside the model's scores stand those of a constant predictor (the commonest training label; chance for retrieval),
the floor that any number is to be read against.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import pyarrow as pa

from xbridge.core.config import Plugin, parse_plugin, undigested
from xbridge.core.console import progress
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import write_json, write_table
from xbridge.tasks.base import HeadTask, LanguageResult, ScoreRow, ZeroShotTask
from xbridge.tasks.examples import Example, check_known, languages_of, load_examples, require
from xbridge.tasks.metrics import most_frequent

VERSION = 1
OF_100 = ("chrf", "bleu", "spbleu")  # metrics of 0 to 100; the others are shares
SCORES = pa.schema(
    [("task", pa.string()), ("metric", pa.string()), ("predictor", pa.string()), ("source_lang", pa.string()),
     ("target_lang", pa.string()), ("site", pa.string()), ("value", pa.float64()), ("n", pa.int64())]
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is scored."""

    task: Annotated[Plugin, "xbridge.tasks"] | None = None
    """Task kind and settings. A fine-tuned model knows its own: leave it out, or name the same kind."""
    languages: tuple[str, ...] | None = None
    """Target languages; the source language may be among them. null = all that the data has."""
    split: Literal["dev", "test"] = "test"
    """Split of labelled examples. Retrieval and translation pairs are always held out."""
    unknown_labels: Literal["error", "wrong"] = "error"
    """What to do with gold labels (of tags: span types) that did not occur in training: stop, or count as errors."""
    batch_size: int = undigested(128)
    """Sentences per forward pass."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError("batch_size", "must be at least 1")
        if self.languages is not None and not self.languages:
            raise ConfigError("languages", "give at least one language, or null for all that the data has")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the stage reads."""

    model: Path
    """A finetune folder (tasks with a head) or a train folder (sentence_retrieval, generation)."""
    data: Path
    """A taskdata folder, or a corpus folder for sentence_retrieval and generation."""


def run(config: Config, inputs: Inputs, out: Path) -> None:
    """Write scores.parquet, predictions/<lang>.parquet and summary.json."""
    module = None if config.task is None else config.task.load()
    if config.task is not None and hasattr(module, "evaluate"):
        task, name = cast(ZeroShotTask, module), config.task.type
        results = task.evaluate(config.task.config, inputs.model, inputs.data, config.languages, config.batch_size)
    else:
        name, results = evaluate_head(config, inputs)
    rows: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    for result in results:
        write_table(out / "predictions" / f"{result.lang}.parquet", result.predictions)
        rows += [{"task": name, **score._asdict()} for score in result.scores]
        facts[result.lang] = result.facts
    write_table(out / "scores.parquet", rows, SCORES)
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    write_json(
        out / "summary.json",
        {
            "task": name,
            "metrics": {
                m: {"higher_is_better": True, "scale": 100 if m.startswith(("chrf", "bleu", "spbleu")) else 1}
                for m in metrics
            },
            "languages": facts,
        },
    )


def evaluate_head(config: Config, inputs: Inputs) -> tuple[str, Iterator[LanguageResult]]:
    """Name of the fine-tuned model's task, and its results by language."""
    from xbridge.activations.encoder import Encoder, model_folder
    from xbridge.models.heads import load_head

    head, record = load_head(model_folder(inputs.model))
    if config.task is not None and config.task.type != record["task"]:
        raise ConfigError(
            "task.type",
            f"{inputs.model} was fine-tuned for {record['task']}, it cannot be scored on {config.task.type}",
        )
    plugin = parse_plugin("xbridge.tasks", {"type": record["task"], **record["task_config"]}, "task")
    task = cast(HeadTask, plugin.load())
    languages = config.languages or languages_of(inputs.data, config.split)
    if not languages:
        raise UserError(f"{inputs.data}: split {config.split!r} has no examples")
    data = {lang: load_gold(task, inputs.data, config, lang, record["labels"]) for lang in languages}
    encoder = Encoder.open(inputs.model)
    encoder.check_languages(data)

    def results() -> Iterator[LanguageResult]:
        with progress("evaluate", total=len(languages), unit="language") as bar:
            for lang, examples in data.items():
                predicted = predict(task, plugin.config, examples, encoder, head, record, config.batch_size)
                yield score_language(task, examples, predicted, record, lang)
                bar.update(1, language=lang)

    return record["task"], results()


def load_gold(task: HeadTask, folder: Path, config: Config, lang: str, known: Sequence[str]) -> list[Example]:
    """The examples of one language; `UserError` for missing labels and for labels that the head does not know."""
    examples = load_examples(folder, config.split, lang)
    require(examples, task.NEEDS, folder)
    golds = {task.kind(label) for example in examples for label in task.labels(task.gold(example))}
    kinds = {task.kind(label) for label in known}
    if config.unknown_labels == "error" or not golds & kinds:
        check_known(golds, kinds, lang, folder)
    return examples


def predict(
    task: HeadTask, config: Any, examples: Sequence[Example], encoder: Any, head: Any, record: dict[str, Any],
    batch_size: int,
) -> list[Any]:  # fmt: skip
    """Predictions in the order of the examples. Batches hold sentences of like length; their size changes nothing."""
    import torch

    from xbridge.tasks.epochs import batches_by_length
    from xbridge.tasks.features import TaskModel, collate

    labels = record["labels"]
    default = most_frequent(dict(zip(labels, record["counts"], strict=True)))
    encoded = task.encode(examples, encoder, {label: i for i, label in enumerate(labels)}, config)
    model = TaskModel(encoder, head.to(encoder.device), record["features"]).eval()
    predicted: dict[int, Any] = {
        i: task.answer(examples[i], e, [], default) for i, e in enumerate(encoded) if not e.targets
    }
    with torch.inference_mode():
        for numbers in batches_by_length([len(e.row.tokens) for e in encoded], batch_size):
            numbers = [i for i in numbers if encoded[i].targets]
            if not numbers:
                continue
            best_N = model(collate(encoder, [encoded[i] for i in numbers])).argmax(dim=1).tolist()
            start = 0
            for i in numbers:
                stop = start + len(encoded[i].targets)
                said = [labels[best] for best in best_N[start:stop]]
                predicted[i], start = task.answer(examples[i], encoded[i], said, default), stop
    return [predicted[i] for i in range(len(examples))]


def score_language(
    task: HeadTask, examples: Sequence[Example], predicted: Sequence[Any], record: dict[str, Any], lang: str
) -> LanguageResult:
    """Scores of the model and of the constant predictor, and the table of predictions."""
    golds = [task.gold(example) for example in examples]
    commonest = most_frequent(dict(zip(record["labels"], record["counts"], strict=True)))
    answers = {"model": predicted, "constant": [task.constant(example, commonest) for example in examples]}
    scores = [
        ScoreRow(s.metric, predictor, record["source_lang"], lang, "", s.value, s.n)
        for predictor, said in answers.items()
        for s in task.score(golds, said)
    ]
    table = pa.table(
        {
            "id": pa.array([example.id for example in examples], pa.string()),
            "gold": pa.array(golds, task.ANSWER),
            "prediction": pa.array(list(predicted), task.ANSWER),
        }
    )
    return LanguageResult(lang, scores, table, {"constant": commonest})
