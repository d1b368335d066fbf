"""What both sides of the throughput benchmark read: corpus, tokenizer, weights, and the Trainer's rows.

Everything is made once and kept in the cache folder, so that a run's process only loads it.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.speed.shapes import SHAPES, Shape
from xbridge.core.config import digest_of, parse
from xbridge.data.batching import Budget, Lengths, TokenPlan
from xbridge.data.sampling import Examples, permutation
from xbridge.objectives import translation
from xbridge.objectives.base import Material
from xbridge.study.stages import digest_of_input

STUDY = Path(__file__).parents[2] / "configs" / "studies" / "quickstart.yaml"
SEED = 0
MEGABATCH = 50  # the Trainer sorts so many batches at a time, so that fewer updates are not like the rest
TRAINER_ROWS = 40_000  # at random; with more it spends minutes on reading their lengths before the first update


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One comparison: what is trained, on what, in which batches."""

    corpus: str
    tokenizer: str
    model: str
    rows: str
    """The Trainer's examples, a folder of `datasets`."""
    device: str
    precision: str
    max_tokens: int
    multiple_of: int
    flops_per_token: float
    batch_tokens: int
    """xbridge's budget of padded tokens per update."""
    mean_tokens: float
    """Padded tokens per update that its plan makes of it."""
    batch_rows: int
    """The Trainer's rows per update: as many padded tokens on average."""
    group_by: str
    """The lengths that the Trainer groups by: `source_length`, or `both_length` where that pads less."""
    updates: int
    warmup: int

    def to_json(self) -> str:
        """For a run's command line."""
        return json.dumps(asdict(self))

    def facts(self) -> dict[str, Any]:
        """What the result says of it."""
        return {key: value for key, value in asdict(self).items() if not isinstance(value, str) or "/" not in value}


def prepare(options: argparse.Namespace) -> dict[int, Setting]:
    """Build what is missing in the cache; a setting for each number of times the tokens per update."""
    from xbridge.models.loading import load_tokenizer

    corpus, tokenizer = options.corpus, options.tokenizer
    if corpus is None or tokenizer is None:
        built = quickstart_stages(options.cache)
        corpus, tokenizer = corpus or built[0], tokenizer or built[1]
    shape = SHAPES[options.model]
    if shape.words:
        tokenizer = filled_up(tokenizer, options.cache / f"tokenizer-{shape.words}", shape.words)
    words = len(load_tokenizer(tokenizer))
    key = digest_of(digest_of_input(corpus), digest_of_input(tokenizer), options.max_tokens)[:12]
    model = new_model(shape, options.cache / f"model-{options.model}-{key}", tokenizer, options.max_tokens)
    objective = translation_of(corpus, tokenizer, options.max_tokens)
    examples = all_examples(objective)
    lengths = objective.lengths(examples)
    some = permutation(SEED, len(examples.row))[:TRAINER_ROWS]
    some_lengths = Lengths(*(column[some] for column in lengths))
    rows = trainer_rows(options.cache / f"rows-{key}", objective, examples.take(some), some_lengths)
    multiple = 8 if options.device == "cuda" else 1
    settings = {}
    for times in (1, *options.sweep):
        tokens = options.batch_tokens * times
        plan = TokenPlan(
            objective, seed=SEED, budget=Budget(unit="steps", amount=512), batch_tokens=tokens,
            shares=objective.shares, multiple_of=multiple,
        )  # fmt: skip
        mean = plan.totals().padded / plan.num_steps
        batch_rows, group_by = equal_rows(some_lengths, mean, multiple)
        settings[times] = Setting(
            corpus=str(corpus),
            tokenizer=str(tokenizer),
            model=str(model),
            rows=str(rows),
            device=options.device,
            precision=options.precision,
            max_tokens=options.max_tokens,
            multiple_of=multiple,
            flops_per_token=shape.flops_per_token(lengths.source, lengths.target, words),
            batch_tokens=tokens,
            mean_tokens=round(mean, 1),
            batch_rows=batch_rows,
            group_by=group_by,
            updates=max(options.updates // times, min(MEGABATCH, options.updates)),
            warmup=options.warmup,
        )
    return settings


def quickstart_stages(cache: Path) -> tuple[Path, Path]:
    """Folders of the quickstart's corpus and tokenizer stages, run where they are not there yet."""
    from xbridge.study.config import load_study
    from xbridge.study.plan import Plan
    from xbridge.study.stages import execute

    plan = Plan(*load_study(STUDY), cache / "quickstart")
    nodes = [node for node in plan.nodes.values() if node.stage in ("corpus", "tokenizer")]
    for node in nodes:
        execute(node)
    corpus, tokenizer = (node.artifact.path for node in nodes)
    return corpus, tokenizer


def filled_up(tokenizer: Path, folder: Path, words: int) -> Path:
    """The tokenizer with unused tokens up to `words`: the output layer of a large vocabulary without its text."""
    from xbridge.models.loading import load_tokenizer

    if not folder.exists():
        whole = load_tokenizer(tokenizer)
        whole.add_tokens([f"<unused{number}>" for number in range(words - len(whole))])
        whole.save_pretrained(folder)
    return folder


def new_model(shape: Shape, folder: Path, tokenizer: Path, max_tokens: int) -> Path:
    """A `from_pretrained` folder of the shape with random weights."""
    from xbridge.models.loading import load_tokenizer, new_mbart, save_model

    if not folder.exists():
        whole = load_tokenizer(tokenizer)
        model = new_mbart(
            whole,
            seed=SEED,
            layers=shape.layers,
            d_model=shape.d_model,
            ffn=shape.ffn,
            heads=shape.heads,
            init_std=shape.d_model**-0.5,
            max_positions=max(64, max_tokens + 8),
            dropout=0.0,
        )
        save_model(model, whole, folder)
    return folder


def translation_of(corpus: Path, tokenizer: Path, max_tokens: int) -> translation.Translation:
    """Translation in every direction of the corpus."""
    from xbridge.models.families import conventions_of
    from xbridge.models.loading import load_tokenizer

    whole = load_tokenizer(tokenizer)
    return translation.build(
        parse(translation.Config, {}),
        Material(
            corpus=corpus,
            split="train",
            tokenizer=whole,
            conventions=conventions_of("mbart", whole),
            max_tokens=max_tokens,
            seed=SEED,
        ),
    )


def all_examples(objective: translation.Translation) -> Examples:
    """Every pair in every direction once."""
    part = np.repeat(np.arange(len(objective.parts)), [part.size for part in objective.parts])
    row = np.concatenate([np.arange(part.size) for part in objective.parts])
    return Examples(part, row, np.zeros_like(row))


def trainer_rows(folder: Path, objective: translation.Translation, examples: Examples, lengths: Lengths) -> Path:
    """Examples as a dataset for the Trainer: source and labels in mBART's layout, and their lengths."""
    import datasets

    if not folder.exists():
        columns: dict[str, list[Any]] = {"input_ids": [], "labels": []}
        for start in range(0, len(examples.row), 4096):
            here = slice(start, start + 4096)
            batch = objective.collate(examples.take(here))
            targets = batch.decoder_input_ids.numpy()
            last = batch.labels.numpy()
            for row, (s, t) in enumerate(zip(lengths.source[here], lengths.target[here], strict=True)):
                columns["input_ids"].append(batch.input_ids[row, :s].numpy())
                columns["labels"].append(np.append(targets[row, 1:t], last[row, t - 1]))  # its shift puts </s> first
        columns["source_length"] = lengths.source.tolist()
        columns["both_length"] = (lengths.source + lengths.target).tolist()
        datasets.disable_progress_bars()
        datasets.Dataset.from_dict(columns).save_to_disk(folder)
    return folder


def equal_rows(lengths: Lengths, mean_tokens: float, multiple: int) -> tuple[int, str]:
    """Rows per batch of the Trainer whose padded tokens are `mean_tokens` on average, and what it should group by."""
    source, target = lengths.source, lengths.target
    found = {}
    for name, keys in (("source_length", source), ("both_length", source + target)):
        low, high = 1, max(2, int(mean_tokens))
        while high - low > 1:
            middle = (low + high) // 2
            fits = mean_padded(source, target, keys, middle, multiple) <= mean_tokens
            low, high = (middle, high) if fits else (low, middle)
        found[name] = low
    group_by = max(found, key=lambda name: found[name])
    return found[group_by], group_by


def mean_padded(
    source: NDArray[np.int64], target: NDArray[np.int64], keys: NDArray[np.int64], rows: int, multiple: int
) -> float:
    """Mean padded source + target tokens of the Trainer's batches of `rows`, grouped by `keys`."""
    block = rows * MEGABATCH
    order = np.concatenate(
        [start + np.argsort(-keys[start : start + block], kind="stable") for start in range(0, len(keys), block)]
    )
    starts = np.arange(0, len(order) - rows + 1, rows)
    if not len(starts):
        return float("inf")
    whole = order[: starts[-1] + rows]
    widths: Sequence[Any] = [np.maximum.reduceat(side[whole], starts) for side in (source, target)]
    up = sum(-(-width // multiple) * multiple for width in widths)
    return float(rows * np.mean(up))
