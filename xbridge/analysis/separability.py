"""Stage: how well languages, and labels, are separated in a model's representations, layer by layer, held out.

Language: on sentences that all languages have; a discriminant is fitted on half of them and judged on the other half,
both ways, translations always on one side.

Label, on a task's sentences:
  * fisher_ratio, probe_accuracy: the discriminant is fitted on the source language and judged in each target language,
    which is what zero-shot transfer needs (in the source language itself: half against half, both ways);
  * in_language_fisher_ratio, in_language_probe_accuracy: fitted and judged within each language, half against half.

Measures and their chance levels: `xbridge.analysis.discriminant`; the Fisher ratio's is for independent sentences, and
lower where languages share them. Standard errors are over sentences, for the given fits: they do not hold what another
half would change in the fit.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from xbridge.analysis.discriminant import Measured, fit, judge, summarise
from xbridge.core.console import progress
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import write_table
from xbridge.core.runtime import derive_seed

if TYPE_CHECKING:
    from xbridge.activations.store import ActivationStore

VERSION = 1
ALL_LANGUAGES = "all"
SCHEMA = pa.schema(
    [("target", pa.string()), ("site", pa.string()), ("language", pa.string()), ("metric", pa.string()),
     ("value", pa.float64()), ("stderr", pa.float64()), ("n", pa.int64()), ("chance", pa.float64())]
)  # fmt: skip
Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Config:
    """How the discriminants are fitted."""

    source_lang: str = "eng_Latn"
    """Language whose labels are fitted."""
    languages: tuple[str, ...] | None = None
    """Languages; null = all that the activations have."""
    shrinkage: float = 0.1
    """Weight of the sphere in the within-class covariance, above 0 up to 1."""
    min_examples: int = 4
    """Labels with fewer examples in the language of the fit are left out."""
    num_resamples: int = 200
    """Bootstrap replicates for the standard error."""
    seed: int = 0
    """Seed of the halves and of the bootstrap."""

    def __post_init__(self) -> None:
        if not 0 < self.shrinkage <= 1:
            raise ConfigError("shrinkage", f"must be above 0 and at most 1, got {self.shrinkage}")
        if self.min_examples < 4:
            raise ConfigError("min_examples", f"must be at least 4 (two in each half), got {self.min_examples}")
        if self.num_resamples < 10:
            raise ConfigError("num_resamples", f"must be at least 10, got {self.num_resamples}")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the stage reads."""

    nway: Path
    """An extract folder of the table nway: the same sentences in every language."""
    examples: Path | None = None
    """An extract folder of the table examples: a task's sentences with labels; null = languages only."""


class Labelled(NamedTuple):
    """States of one language and the class number of each."""

    x: Array  # (n, d) float64
    y: Array  # (n,)
    ids: list[str]


def run(config: Config, inputs: Inputs, out: Path) -> None:
    """Write separability.parquet."""
    from xbridge.activations.store import ActivationStore

    nway = ActivationStore(inputs.nway)
    examples = None if inputs.examples is None else ActivationStore(inputs.examples)
    rows: list[dict[str, Any]] = []
    stores = [store for store in (nway, examples) if store is not None]
    with progress("separability", total=sum(len(store.sites) for store in stores), unit="site") as bar:
        for store, rows_of in zip(stores, (language_rows, label_rows), strict=False):
            for site in store.sites:
                rows += list(rows_of(store, site, config))
                bar.update(1, site=site)
    write_table(out / "separability.parquet", rows, SCHEMA)


def language_rows(store: "ActivationStore", site: str, config: Config) -> Iterator[dict[str, Any]]:
    """How well the language of a sentence can be read off its state."""
    languages = list(config.languages or store.languages)
    if len(languages) < 2:
        raise UserError(f"{store.path}: separability of languages needs at least two, it has {', '.join(languages)}")
    count = min(len(store.ids(language)) for language in languages)  # equally many of each, so that chance is 1 / L
    if count < 4:
        raise UserError(f"{store.path}: {count} sentences; separability of languages needs at least 4")
    ids = [id_ for language in languages for id_ in store.ids(language)[:count]]
    number = {id_: index for index, id_ in enumerate(dict.fromkeys(ids))}
    x = np.concatenate([_states(store, language, site)[:count] for language in languages])
    y = np.repeat(np.arange(len(languages)), count)
    unit = np.array([number[id_] for id_ in ids])  # translations are one unit: they fall into the same half
    half = _halves(list(number), [""] * len(number), config.seed)[unit]
    measured = cross_fit(x, y, unit, half, len(languages), config, f"{store.path}: {site}")
    yield from _measured_rows("language", site, ALL_LANGUAGES, measured, len(x), len(languages), folds=2)


def label_rows(store: "ActivationStore", site: str, config: Config) -> Iterator[dict[str, Any]]:
    """How well the label of a sentence can be read off its state, across languages and within each."""
    languages = list(config.languages or store.languages)
    classes = _classes(store, config.source_lang, config)
    source = _labelled(store, config.source_lang, site, classes)
    where = f"{store.path}: {site}"
    found = _fit(source.x, source.y, len(classes), config, where)
    for language in languages:
        inside = _in_language(store, language, site, config, where)
        if inside is not None:
            measured, n, num_classes = inside
            for prefix in ("", "in_language_") if language == config.source_lang else ("in_language_",):
                yield from _measured_rows("label", site, language, measured, n, num_classes, prefix=prefix, folds=2)
        if language != config.source_lang:
            target = _labelled(store, language, site, classes)
            if len(target.x) < 2:
                raise UserError(f"{store.path}: {language} has no examples of the labels of {config.source_lang}")
            held = judge(found, target.x, target.y, np.arange(len(target.x)))
            measured = summarise([held], len(target.x), config.num_resamples, _rng(config, site, language))
            present = len(np.unique(target.y))
            yield from _measured_rows("label", site, language, measured, len(target.x), present, guesses=len(classes))


def cross_fit(x: Array, y: Array, unit: Array, half: Array, num_classes: int, config: Config, where: str) -> Measured:
    """Fit on each half of the units, judge on the other. x: (n, d), y, unit, half: (n,)."""
    parts = []
    for side in (0, 1):
        fitted, judged = half == side, half != side
        found = _fit(x[fitted], y[fitted], num_classes, config, where)
        parts.append(judge(found, x[judged], y[judged], unit[judged]))
    return summarise(parts, int(unit.max()) + 1, config.num_resamples, _rng(config, where.rpartition(" ")[2]))


def _in_language(
    store: "ActivationStore", language: str, site: str, config: Config, where: str
) -> tuple[Measured, int, int] | None:
    """Cross-fit within one language; None where fewer than two labels have enough examples."""
    classes = _frequent(store, language, config)
    if len(classes) < 2:
        return None
    data = _labelled(store, language, site, classes)
    half = _halves(data.ids, [str(c) for c in data.y], config.seed)
    measured = cross_fit(data.x, data.y, np.arange(len(data.x)), half, len(classes), config, where)
    return measured, len(data.x), len(classes)


def _classes(store: "ActivationStore", language: str, config: Config) -> list[str]:
    classes = _frequent(store, language, config)
    if len(classes) < 2:
        raise UserError(
            f"{store.path}: {language} has {len(classes)} labels with at least {config.min_examples} examples; "
            "separability needs two"
        )
    return classes


def _frequent(store: "ActivationStore", language: str, config: Config) -> list[str]:
    labels = store.labels(language)
    if labels is None:
        raise UserError(f"{store.path}: its sentences have no labels; extract the examples table of a labelled task")
    return sorted(label for label, count in Counter(labels).items() if count >= config.min_examples)


def _labelled(store: "ActivationStore", language: str, site: str, classes: Sequence[str]) -> Labelled:
    """The examples of `classes`, numbered."""
    number = {label: index for index, label in enumerate(classes)}
    labels = store.labels(language) or []
    keep = [i for i, label in enumerate(labels) if label in number]
    ids = store.ids(language)
    x = _states(store, language, site)[keep]
    return Labelled(x, np.array([number[labels[i]] for i in keep], dtype=int), [ids[i] for i in keep])


def _states(store: "ActivationStore", language: str, site: str) -> Array:
    states: Array = store.load(language, site).double().numpy()
    bad = ~np.isfinite(states).all(1)
    if bad.any():
        raise UserError(f"{store.path}: {language} {site}: row {int(bad.argmax())} holds NaN or infinity")
    return states


def _fit(x: Array, y: Array, num_classes: int, config: Config, where: str) -> Any:
    try:
        return fit(x, y, num_classes, shrinkage=config.shrinkage)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _halves(ids: Sequence[str], strata: Sequence[str], seed: int) -> Array:
    """0 or 1 for each example: within each stratum in a fixed random order, alternately."""
    half = np.zeros(len(ids), dtype=int)
    seen: Counter[str] = Counter()
    for index in sorted(range(len(ids)), key=lambda i: (derive_seed("half", seed, ids[i]), i)):
        half[index] = seen[strata[index]] % 2
        seen[strata[index]] += 1
    return half


def _rng(config: Config, *parts: str) -> np.random.Generator:
    return np.random.default_rng(derive_seed("separability", config.seed, *parts))


def _measured_rows(
    target: str, site: str, language: str, measured: Measured, n: int, num_classes: int, *, prefix: str = "",
    guesses: int | None = None, folds: int = 1,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Rows of both measures over n held-out examples, in `folds` parts. `guesses`: labels that the probe knows."""
    chances = {
        "fisher_ratio": (num_classes - 1) / max(1, n - num_classes),
        "probe_accuracy": 1 / (guesses or num_classes),
    }
    for metric, chance in chances.items():
        value, stderr = getattr(measured, metric)
        yield {
            "target": target,
            "site": site,
            "language": language,
            "metric": f"{prefix}{metric}",
            "value": value,
            "stderr": stderr,
            "n": n,
            "chance": chance,
        }
