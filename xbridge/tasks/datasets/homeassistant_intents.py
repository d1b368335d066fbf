"""Commands to a smart home in 60 languages, with intents and slots: the templates of `home-assistant-intents`.

Templates are written by people for each language; sentences are drawn from them with a seed (`_templates`) and their
open slots filled from the corpus (`_slot_values`). English is split by template, so a test sentence never shares its
template with a training one; other languages are test data only. Licence of the templates: Apache-2.0.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xbridge.core.console import progress
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.runtime import derive_seed, rng
from xbridge.data.cleaning import normalise
from xbridge.data.languages import Language, from_tag, language
from xbridge.data.words import tag_words, word_spans
from xbridge.tasks.datasets import Sentence
from xbridge.tasks.datasets._slot_values import load_slot_values
from xbridge.tasks.datasets._templates import Grammar, Template

PACKAGE = "home-assistant-intents"
_MIN_TEMPLATES_TO_SPLIT = 4
_DRAWS_PER_SENTENCE = 6
"""Draws spent per sentence wanted: intents of few expansions run dry before their share is full."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """How many sentences to draw from which release."""

    version: str = "2026.10.27"
    """Release of the package; another installed one is refused, its templates differ."""
    train_per_intent: int = 60
    """Training sentences per intent of the source language, fewer where its templates have fewer expansions."""
    test_per_intent: int = 20
    """Test sentences per intent and language."""
    dev_per_intent: int = 6
    """Development sentences per intent of the source language."""
    min_intents: int = 20
    """A language with fewer intents is refused: its macro average would not be comparable."""
    lowercase: bool = True
    """Fold case, so that a capital letter does not give a device name away."""
    seed: int = 0
    """Draws the sentences and the templates' splits."""

    def __post_init__(self) -> None:
        for name in ("train_per_intent", "test_per_intent", "dev_per_intent", "min_intents"):
            if getattr(self, name) < 1:
                raise ConfigError(name, "must be at least 1")


def read(config: Config, languages: tuple[str, ...], source_lang: str, corpus: Path | None) -> Iterator[Sentence]:
    """Sentences of every language, by intent. Both `label` (the intent) and `words` with BIO `tags` (the slots)."""
    if corpus is None:
        raise UserError(
            "corpus: homeassistant_intents fills its slots from a corpus of the homeassistant source; name one"
        )
    files = _files(config.version)
    templates = {code: _load(files, language(code), config.min_intents) for code in languages}
    values = load_slot_values(corpus, languages)
    with progress("sample", total=len(languages), unit="language") as bar:
        for code, data in templates.items():
            where = f"{PACKAGE} {config.version}, {code}"
            grammar = Grammar(data["expansion_rules"], data["lists"], values[code], where)
            for intent in sorted(data["intents"]):
                yield from _sentences(
                    config, grammar, language(code), intent, data["intents"][intent], code == source_lang
                )
            bar.update()


def describe(config: Config) -> dict[str, Any]:
    """Kind, licence and version, for the card."""
    return {"kind": "homeassistant_intents", "licence": "Apache-2.0", "version": config.version}


def _files(version: str) -> dict[str, Path]:
    """{language code: file} of the installed package, whose version must be the one asked for."""
    from importlib import metadata, util

    remedy = f"pip install '{PACKAGE}=={version}' (it is in the extra xbridge-mt[study])"
    try:
        installed = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        raise UserError(f"{PACKAGE} is not installed; {remedy}") from None
    if installed != version:
        raise UserError(f"{PACKAGE} {installed} is installed, the config asks for {version}; {remedy}")
    spec = util.find_spec("home_assistant_intents")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "data"
    found = {path: from_tag(path.stem) for path in sorted(folder.glob("*.json"))}
    return {known.code: path for path, known in found.items() if known is not None}


def _load(files: dict[str, Path], lang: Language, min_intents: int) -> dict[str, Any]:
    if lang.code not in files:
        raise UserError(
            f"languages: {PACKAGE} has no templates in {lang.code} ({lang.name}); it has {', '.join(files)}"
        )
    data: dict[str, Any] = json.loads(files[lang.code].read_text(encoding="utf-8"))
    if len(data["intents"]) < min_intents:
        raise UserError(
            f"languages: {PACKAGE} has {len(data['intents'])} intents in {lang.code} ({lang.name}), min_intents is "
            f"{min_intents}; leave the language out or lower it"
        )
    return data


def _sentences(
    config: Config, grammar: Grammar, lang: Language, intent: str, data: dict[str, Any], is_source: bool
) -> Iterator[Sentence]:
    templates = _templates(intent, data)
    quotas = {"test": config.test_per_intent}
    if is_source:
        quotas = {"train": config.train_per_intent, "dev": config.dev_per_intent, "test": config.test_per_intent}
    splits = _split_templates(templates, config.seed) if is_source else {"test": templates}
    seen: set[str] = set()
    for split, quota in quotas.items():
        drawn = _draw(grammar, splits[split], lang, config, (split, intent), quota, seen)
        for number, sentence in enumerate(drawn):
            yield sentence._replace(id=f"{lang.code}-{split}-{intent}-{number:03d}", split=split, label=intent)


def _templates(intent: str, data: dict[str, Any]) -> list[Template]:
    """The intent's distinct templates in the file's order."""
    found: dict[str, Template] = {}
    for block in data["data"]:
        domains = (block.get("requires_context") or {}).get("domain") or ()
        fitting = (domains,) if isinstance(domains, str) else tuple(map(str, domains))
        for text in block["sentences"]:
            found.setdefault(text, Template(f"{intent}/{len(found)}", text, fitting))
    return list(found.values())


def _split_templates(templates: list[Template], seed: int) -> dict[str, list[Template]]:
    """About 70, 10 and 20 % of an intent's templates by a hash of their text; too few to split are all training."""
    order = sorted(templates, key=lambda t: derive_seed(seed, "split", t.text))
    if len(order) < _MIN_TEMPLATES_TO_SPLIT:
        return {"train": order, "dev": [], "test": []}
    num_test, num_dev = max(1, round(0.2 * len(order))), max(1, round(0.1 * len(order)))
    return {
        "test": order[:num_test],
        "dev": order[num_test : num_test + num_dev],
        "train": order[num_test + num_dev :],
    }


def _draw(
    grammar: Grammar,
    templates: list[Template],
    lang: Language,
    config: Config,
    purpose: tuple[str, str],
    quota: int,
    seen: set[str],
) -> list[Sentence]:
    """Up to `quota` sentences, one template after the other in turn, none alike (digits and case aside)."""
    draw = rng(config.seed, lang.code, *purpose)
    sentences: list[Sentence] = []
    for attempt in range(quota * _DRAWS_PER_SENTENCE if templates else 0):
        if len(sentences) == quota:
            break
        template = templates[attempt % len(templates)]
        text, slots = grammar.draw(template, lang, draw)
        if config.lowercase:
            text = _lower(text)
        form = normalise(text)
        if not form or form in seen:
            continue
        seen.add(form)
        spans = word_spans(text, lang)
        words = tuple(text[start:end] for start, end in spans)
        sentences.append(
            Sentence(
                "", "", lang.code, text, None, words, tuple(tag_words(spans, slots)), f"{lang.code}/{template.name}"
            )
        )
    return sentences


def _lower(text: str) -> str:
    """Lower case that keeps the length, so that slot spans stay true (only `İ` becomes two characters)."""
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
