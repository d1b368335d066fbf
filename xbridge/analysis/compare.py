"""Stage: similarity of representations between all layers of all models, and between languages inside each model.

Row i of every model's states of a language is one sentence. Languages are compared on the sentences whose ids both
have: all of them in an n-way table, and with the pivot only where the corpus is made of pairs. The standard error is
over sentences; where languages are pooled, a sentence is left out with all its translations.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from xbridge.activations.store import ActivationStore
from xbridge.analysis.measures import Measure, resolve
from xbridge.core.console import progress
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import write_table

VERSION = 1
ALL_LANGUAGES = "all"
BACKEND = "reference"
MIN_SHARED = 50  # two languages with fewer sentences in common are not compared
SCHEMA = pa.schema(
    [("measure", pa.string()), ("estimator", pa.string()),
     ("model_a", pa.string()), ("site_a", pa.string()), ("language_a", pa.string()),
     ("model_b", pa.string()), ("site_b", pa.string()), ("language_b", pa.string()),
     ("value", pa.float64()), ("stderr", pa.float64()), ("n", pa.int64()), ("backend", pa.string())]
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is compared, and how."""

    measures: tuple[str, ...] = ("cka", "mutual_knn")
    """Functions of `xbridge.similarity`, or `module.function` of your own: f(x, y) -> float on (n, d) rows."""
    estimator: Literal["unbiased", "biased"] = "unbiased"
    """Estimator of measures that have two."""
    stderr: bool = True
    """Give each value's standard error, where the measure has one."""
    sites: tuple[str, ...] | None = None
    """Layers, e.g. [encoder.0, encoder.3]; null = all."""
    languages: tuple[str, ...] | None = None
    """Languages, pivot first; null = all that the activations have, in their order."""
    per_language: bool = True
    """Compare models on each language's sentences alone."""
    pooled: bool = False
    """Compare models on the sentences of all languages together (language "all")."""
    between_languages: Literal["none", "pivot", "all"] = "all"
    """Inside each model, layer by layer: no languages, the pivot with each other, or all pairs."""

    def __post_init__(self) -> None:
        if not self.measures:
            raise ConfigError("measures", "give at least one measure")
        for index, name in enumerate(self.measures):
            resolve(name, f"measures.{index}")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the stage reads."""

    activations: dict[str, Path]
    """Extract folders by model name."""


class Layer(NamedTuple):
    """Whose states a matrix holds."""

    model: str
    site: str
    language: str

    def __str__(self) -> str:
        return f"{self.model} {self.site} {self.language}"


def run(config: Config, inputs: Inputs, out: Path) -> None:
    """Write similarity.parquet: one row per measure and unordered pair of layers, a layer with itself included."""
    stores = {model: ActivationStore(path) for model, path in inputs.activations.items()}
    if not stores:
        raise UserError("compare: no activations; give at least one extract folder under inputs.activations")
    languages = check_rows(stores, config)
    measures = [resolve(name, f"measures.{index}") for index, name in enumerate(config.measures)]
    jobs = list(_jobs(config, stores, languages))
    pivot = languages[0] if config.between_languages == "pivot" else None
    rows: list[dict[str, Any]] = []
    with progress("compare", total=len(jobs) * len(measures), unit="matrix") as bar:
        for layers in jobs:
            states = _load(stores, layers, languages)
            groups = _sentence_of_row(stores, languages) if layers[0].language == ALL_LANGUAGES else None
            for measure in measures:
                rows += list(_rows(measure, config, states, groups, pivot))
                bar.update(1)
    write_table(out / "similarity.parquet", rows, SCHEMA)


def check_rows(stores: Mapping[str, ActivationStore], config: Config) -> list[str]:
    """The languages to compare. UserError unless all models have the same sentences (pooled: all languages too)."""
    (first_name, first), *others = stores.items()
    languages = list(config.languages or first.languages)
    for language in languages:
        for _, store in others:
            if store.ids(language) != first.ids(language):
                raise UserError(
                    f"{store.path}: {language} has other sentences than model {first_name}; extract both from one table"
                )
        if config.pooled and first.ids(language) != first.ids(languages[0]):
            raise UserError(
                f"{first.path}: the rows of {language} do not translate those of {languages[0]}; set pooled: false"
            )
    return languages


def _jobs(config: Config, stores: Mapping[str, ActivationStore], languages: Sequence[str]) -> Iterator[list[Layer]]:
    """Sets of layers whose pairs are all compared: of one language or all pooled, or of one model and site."""
    sites = {model: config.sites or store.sites for model, store in stores.items()}
    together = [*(languages if config.per_language else ()), *([ALL_LANGUAGES] if config.pooled else ())]
    for language in together:
        yield [Layer(model, site, language) for model in stores for site in sites[model]]
    if config.between_languages != "none" and len(languages) > 1:
        for model, store in stores.items():
            for site in sites[model]:
                for group in _comparable(store, languages, config.between_languages):
                    yield [Layer(model, site, language) for language in group]


def _comparable(store: ActivationStore, languages: Sequence[str], between: str) -> list[tuple[str, ...]]:
    """All languages at once where they have the same sentences, otherwise the pairs that share enough of them."""
    ids = {language: set(store.ids(language)) for language in languages}
    if all(ids[language] == ids[languages[0]] for language in languages):
        return [tuple(languages)]
    pairs = [(a, b) for a, b in combinations(languages, 2) if between == "all" or a == languages[0]]
    return [(a, b) for a, b in pairs if len(ids[a] & ids[b]) >= MIN_SHARED]


def _load(
    stores: Mapping[str, ActivationStore], layers: Sequence[Layer], languages: Sequence[str]
) -> dict[Layer, Tensor]:
    """States of the layers, (n, d) each; row i is the same sentence in all of them."""
    states = {layer: _states(stores[layer.model], layer, languages) for layer in layers}
    ids = {layer.language: stores[layer.model].ids(layer.language) for layer in layers if layer.language in languages}
    if all(own == ids[layers[0].language] for own in ids.values()):
        return states
    shared = set.intersection(*map(set, ids.values()))
    rows = {
        language: torch.tensor([row for _, row in sorted((id_, row) for row, id_ in enumerate(own) if id_ in shared)])
        for language, own in ids.items()
    }
    return {layer: x[rows[layer.language]] for layer, x in states.items()}


def _states(store: ActivationStore, layer: Layer, languages: Sequence[str]) -> Tensor:
    if layer.language == ALL_LANGUAGES:
        return torch.cat([store.load(language, layer.site) for language in languages])
    return store.load(layer.language, layer.site)


def _sentence_of_row(stores: Mapping[str, ActivationStore], languages: Sequence[str]) -> Tensor:
    """The number of each pooled row's sentence: translations share it."""
    n = len(next(iter(stores.values())).ids(languages[0]))
    return torch.arange(n).repeat(len(languages))


def _rows(
    measure: Measure, config: Config, states: Mapping[Layer, Tensor], groups: Tensor | None, pivot: str | None
) -> Iterator[dict[str, Any]]:
    named = {str(layer): x for layer, x in states.items()}
    options = {"estimator": config.estimator, "return_stderr": config.stderr, "groups": groups}
    matrix = measure.between(named, **options)
    layers, n = list(states), len(next(iter(states.values())))
    same_language = len({layer.language for layer in layers}) == 1
    pairs = combinations(range(len(layers)), 2)
    diagonal = ((i, i) for i in range(len(layers))) if same_language else ()
    for i, j in sorted([*pairs, *diagonal]):
        a, b = layers[i], layers[j]
        if a.language != b.language and pivot not in (None, a.language):
            continue
        yield {
            "measure": measure.name,
            "estimator": config.estimator if measure.has_option("estimator") else "",
            **{f"{field}_a": value for field, value in a._asdict().items()},
            **{f"{field}_b": value for field, value in b._asdict().items()},
            "value": float(matrix.value[i, j]),
            "stderr": None if matrix.stderr is None else float(matrix.stderr[i, j]),
            "n": n,
            "backend": BACKEND,
        }
