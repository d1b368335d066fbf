"""Stage: similarity of representations between all layers of all models, and between languages inside each model.

Row i of every model's states of a language is one sentence, or one word of it. Words are compared where all models have
them, within a language. Languages are compared on the sentences whose ids both have: all of them in an n-way table, and
with the pivot only where the corpus is made of pairs. The standard error is over sentences: a sentence is left out with
all its translations, or words. Folders of second moments hold the linear CKA between their own layers, without error.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import pyarrow as pa
import torch
from torch import Tensor

from xbridge.activations.store import ActivationStore, TakenLayer
from xbridge.activations.store import Layer as StoredLayer
from xbridge.analysis.measures import Measure, resolve
from xbridge.core.config import undigested
from xbridge.core.console import progress
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import write_table

VERSION = 1
ALL_LANGUAGES = "all"
States: TypeAlias = Tensor | StoredLayer | TakenLayer  # (n, d)
STREAMING = ("cka",)  # measures that take layers on disk; others, and users' own, are given tensors
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
    backend: Literal["auto", "reference", "native", "triton"] = undigested("auto")
    """For measures that have several; auto: float64 for small work, the fastest there is for large (within 1e-7)."""
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
    """Extract folders by model name, of states or of moments."""


class Layer(NamedTuple):
    """Whose states a matrix holds."""

    model: str
    site: str
    language: str

    def __str__(self) -> str:
        return f"{self.model} {self.site} {self.language}"


def run(config: Config, inputs: Inputs, out: Path) -> None:
    """Write similarity.parquet: one row per measure and unordered pair of layers, a layer with itself included."""
    every = {model: ActivationStore(path) for model, path in inputs.activations.items()}
    if not every:
        raise UserError("compare: no activations; give at least one extract folder under inputs.activations")
    rows = [
        row for model, store in every.items() if store.keeps == "moments" for row in moment_rows(model, store, config)
    ]
    stores = {model: store for model, store in every.items() if store.keeps == "states"}
    if stores:
        rows += _state_rows(config, stores)
    write_table(out / "similarity.parquet", rows, SCHEMA)


def _state_rows(config: Config, stores: Mapping[str, ActivationStore]) -> list[dict[str, Any]]:
    """Rows of all measures on stored states."""
    languages = check_rows(stores, config)
    measures = [resolve(name, f"measures.{index}") for index, name in enumerate(config.measures)]
    jobs = list(_jobs(config, stores, languages))
    pivot = languages[0] if config.between_languages == "pivot" else None
    rows: list[dict[str, Any]] = []
    with progress("compare", total=len(jobs) * len(measures), unit="matrix") as bar:
        for layers in jobs:
            states, groups = _load(stores, layers, languages)
            loaded: dict[Layer, States] = {}
            for measure in measures:
                if measure.name not in STREAMING and not loaded:
                    loaded = {layer: x if isinstance(x, Tensor) else x[:].float() for layer, x in states.items()}
                rows += list(_rows(measure, config, states if measure.name in STREAMING else loaded, groups, pivot))
                bar.update(1)
    return rows


def moment_rows(model: str, store: ActivationStore, config: Config) -> Iterator[dict[str, Any]]:
    """Linear CKA between all layers of a folder of second moments; its second model is called `MODEL/other`.

    `UserError` for anything else that the config asks for, and for a layer whose rows are all equal.
    """
    if config.measures != ("cka",):
        raise UserError(f"{store.path}: holds moments, which give linear CKA only; set measures: [cka]")
    languages = config.languages or store.languages
    if config.pooled or (config.between_languages != "none" and len(languages) > 1):
        raise UserError(
            f"{store.path}: holds each language's moments alone; set pooled: false and between_languages: none"
        )
    wanted = config.sites or store.sites
    for site in wanted:
        if site not in store.sites:
            raise UserError(f"{store.path}: no site {site!r}; it has {', '.join(store.sites)}")
    names = {"model": model, "other": f"{model}/other"}
    for language in languages:
        moments = store.moments(language)
        try:
            values = moments.cka(config.estimator)
        except ValueError as error:
            raise UserError(f"{store.path}: {language}: {error}") from None
        kept = [
            (i, Layer(names[name], site, language))
            for i, (name, site) in enumerate(store.moment_layers)
            if site in wanted
        ]
        for i, layer in kept:
            if math.isnan(values[i, i]):
                raise UserError(f"cka: {layer}: similarity is undefined, its rows are equal or equally far apart")
        for (i, a), (j, b) in combinations_with_replacement(kept, 2):
            yield _row("cka", config.estimator, a, b, float(values[i, j]), None, moments.num_examples, "reference")


def check_rows(stores: Mapping[str, ActivationStore], config: Config) -> list[str]:
    """The languages to compare. UserError unless rows of all models (pooled: and languages) can stand side by side."""
    (first_name, first), *others = stores.items()
    languages = list(config.languages or first.languages)
    for _, store in others:
        if store.pooling != first.pooling and not (store.has_row_per_sentence and first.has_row_per_sentence):
            raise UserError(
                f"{store.path}: its rows are {store.pooling}, those of model {first_name} {first.pooling}; "
                "extract both with one pooling"
            )
    for language in languages:
        for _, store in others:
            if first.pooling == "words":
                if not set(store.ids(language)) & set(first.ids(language)):
                    raise UserError(f"{store.path}: {language} has no word that model {first_name} has")
            elif store.ids(language) != first.ids(language):
                kind = "sentences" if first.has_row_per_sentence else "tokens"
                advice = "extract both from one table" if first.has_row_per_sentence else "pool words"
                raise UserError(f"{store.path}: {language} has other {kind} than model {first_name}; {advice}")
        if config.pooled and first.ids(language) != first.ids(languages[0]):
            raise UserError(
                f"{first.path}: the rows of {language} do not translate those of {languages[0]}; set pooled: false"
            )
    if not first.has_row_per_sentence and len(languages) > 1 and (config.pooled or config.between_languages != "none"):
        raise UserError(
            f"{first.path}: {first.pooling} of two languages are not aligned; "
            "set pooled: false and between_languages: none"
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
) -> tuple[dict[Layer, States], Tensor | None]:
    """States of the layers, (n, d) each, and which rows belong to one sentence (None: each is one of its own).

    Row i is the same sentence or word in all of them. Nothing is read before it is needed where rows keep their order.
    """
    if layers[0].language == ALL_LANGUAGES:
        pooled: dict[Layer, States] = {
            a: torch.cat([stores[a.model].load(lang, a.site) for lang in languages]) for a in layers
        }
        n = len(stores[layers[0].model].ids(languages[0]))
        return pooled, torch.arange(n).repeat(len(languages))  # translations share a sentence
    ids = {(a.model, a.language): stores[a.model].ids(a.language) for a in layers}
    stored = {a: stores[a.model].layer(a.language, a.site) for a in layers}
    states: dict[Layer, States] = {**stored}
    first, *others = ids.values()
    if any(own != first for own in others):
        shared = set(first).intersection(*others)
        order = [id_ for id_ in first if id_ in shared]
        for key, own in ids.items():
            number = {id_: row for row, id_ in enumerate(own)}
            rows = [number[id_] for id_ in order]
            for layer in layers:
                if (layer.model, layer.language) == key:
                    states[layer] = _taken(stored[layer], rows)
        first = order
    if stores[layers[0].model].has_row_per_sentence:
        return states, None
    return states, _numbered([id_.rpartition(":")[0] for id_ in first])


def _taken(layer: StoredLayer, rows: Sequence[int]) -> States:
    """These rows: lazily where they ascend, as they do where both tables have one order."""
    if all(a < b for a, b in pairwise(rows)):
        return TakenLayer(layer, rows)
    return layer[:].float()[torch.tensor(rows)]


def _numbered(names: Sequence[str]) -> Tensor:
    """0, 1, ... for the distinct names, in order of their first appearance."""
    number: dict[str, int] = {}
    return torch.tensor([number.setdefault(name, len(number)) for name in names])


def _rows(
    measure: Measure, config: Config, states: Mapping[Layer, States], groups: Tensor | None, pivot: str | None
) -> Iterator[dict[str, Any]]:
    named: dict[str, Any] = {str(layer): x for layer, x in states.items()}
    options = {
        "estimator": config.estimator, "return_stderr": config.stderr, "groups": groups, "backend": config.backend,
    }  # fmt: skip
    matrix = measure.between(named, **options)
    layers, n = list(states), next(iter(states.values())).shape[0]
    estimator = config.estimator if measure.has_option("estimator") else ""
    backend = config.backend if measure.has_option("backend") else "reference"
    same_language = len({layer.language for layer in layers}) == 1
    pairs = combinations(range(len(layers)), 2)
    diagonal = ((i, i) for i in range(len(layers))) if same_language else ()
    for i, j in sorted([*pairs, *diagonal]):
        a, b = layers[i], layers[j]
        if a.language != b.language and pivot not in (None, a.language):
            continue
        stderr = None if matrix.stderr is None else float(matrix.stderr[i, j])
        yield _row(measure.name, estimator, a, b, float(matrix.value[i, j]), stderr, n, backend)


def _row(
    measure: str, estimator: str, a: Layer, b: Layer, value: float, stderr: float | None, n: int, backend: str
) -> dict[str, Any]:
    return {
        "measure": measure,
        "estimator": estimator,
        **{f"{field}_a": value for field, value in a._asdict().items()},
        **{f"{field}_b": value for field, value in b._asdict().items()},
        "value": value,
        "stderr": stderr,
        "n": n,
        "backend": backend,
    }
