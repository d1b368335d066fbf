"""The data card: what was read, kept and dropped, under which licence, and what still leaks."""

from collections.abc import Mapping
from typing import Any

from xbridge.report.document import Block, Code, Column, Details, Heading, Paragraph, Row, Section, Table
from xbridge.report.format import count, decimal, percent, text_of
from xbridge.report.load import Study
from xbridge.report.sections import not_run

_SPLITS = ("train", "dev", "test")


def section(study: Study) -> Section:
    """Data card."""
    title = "Data"
    if not study.corpus:
        return Section("data", title, [not_run("the corpus stage")])
    blocks: list[Block] = []
    languages = study.corpus.get("languages", {})
    sources = [("corpus", source) for source in study.corpus.get("sources", [])]
    sources += [(f"task data {name}", card["source"]) for name, card in study.taskdata.items() if _has_source(card)]
    if sources:
        blocks.append(_sources(sources))
    if languages:
        blocks.append(_counts(study, languages))
        if any(facts.get("dropped") for facts in languages.values()):
            blocks.append(_dropped(languages))
    if study.corpus.get("near_duplicates"):
        blocks += _near_duplicates(study)
    if study.tokenizer:
        blocks += [Heading("Tokenizer"), *_card(study, study.tokenizer, "tokenizer", "The tokenizer")]
    for name, card in study.taskdata.items():
        if card:
            blocks += [Heading(f"Task data: {name}"), *_card(study, card, f"taskdata-{name}", f"Task data {name}")]
    return Section("data", title, blocks)


def _has_source(card: Mapping[str, Any]) -> bool:
    return isinstance(card.get("source"), Mapping)


def _sources(sources: list[tuple[str, Mapping[str, Any]]]) -> Table:
    rows: list[Row] = []
    for use, source in sources:
        for file in source.get("files") or [{}]:
            rows.append(
                {
                    "use": use,
                    "kind": source.get("kind"),
                    "version": source.get("version"),
                    "licence": source.get("licence"),
                    "file": file.get("name"),
                    "sha256": file.get("sha256"),
                }
            )
    columns = [
        Column("use", "For", is_number=False, is_row_header=True),
        Column("kind", "Source", is_number=False),
        Column("version", "Version", is_number=False),
        Column("licence", "Licence", is_number=False),
        Column("file", "File", is_number=False),
        Column("sha256", "sha256", is_number=False),
    ]
    return Table("sources", "What the data were read from.", columns, rows)


def _counts(study: Study, languages: Mapping[str, Any]) -> Table:
    rows: list[Row] = []
    for code, facts in languages.items():
        row: Row = {
            "code": code,
            "name": facts.get("name"),
            "script": facts.get("script"),
            "family": facts.get("family"),
        }
        row |= {"read": facts.get("read"), "leaks": facts.get("leaks_removed"), "retrieval": facts.get("retrieval")}
        for kind in ("pairs", "mono"):
            row |= {f"{kind} {split}": facts.get(kind, {}).get(split) for split in _SPLITS}
        rows.append(row)
    columns = [
        Column("code", "Language", is_number=False, is_row_header=True),
        Column("name", "", is_number=False),
        Column("read", "Read", count, hint="entries read before cleaning"),
        *[Column(f"pairs {split}", f"Pairs\n{split}", count) for split in _SPLITS],
        *[Column(f"mono {split}", f"Text\n{split}", count) for split in _SPLITS],
        Column("leaks", "Leaks\nremoved", count, hint="held-out items whose target side is also in training"),
        Column("retrieval", "Retrieval\npairs", count),
    ]
    pivot = study.corpus.get("pivot", study.source_lang)
    nway = study.corpus.get("nway")
    every = f" {count(nway)} held-out strings exist in all languages." if nway is not None else ""
    caption = (
        f"Strings by language after cleaning. Pairs are with {pivot}; text is the monolingual side that denoising "
        "reads; splits go by a hash of the normalised pivot string, so that none is in two splits. Leaks: held-out "
        f"items removed because their target side also occurs in training.{every}"
    )
    return Table("corpus", caption, columns, rows)


def _dropped(languages: Mapping[str, Any]) -> Details:
    reasons = list(dict.fromkeys(reason for facts in languages.values() for reason in facts.get("dropped", {})))
    rows: list[Row] = [{"code": code, **facts.get("dropped", {})} for code, facts in languages.items()]
    columns = [
        Column("code", "Language", is_number=False, is_row_header=True),
        *[Column(reason, reason.replace("_", "\n", 1).replace("_", " "), count) for reason in reasons],
    ]
    table = Table("corpus-dropped", "Entries dropped by each filter.", columns, rows)
    return Details("What the filters dropped", [table])


def _near_duplicates(study: Study) -> list[Block]:
    facts = study.corpus["near_duplicates"]
    edges, counts = facts.get("edges", []), facts.get("counts", [])
    total = sum(counts) or 1
    last = len(counts) - 1
    rows: list[Row] = [
        {"range": f"{low:g} to {high:g}" if i == last else f"{low:g} to below {high:g}", "items": c, "share": c / total}
        for i, (low, high, c) in enumerate(zip(edges, edges[1:], counts, strict=False))
    ]
    columns = [
        Column("range", "Word Jaccard", is_number=False, is_row_header=True),
        Column("items", "Test strings", count),
        Column("share", "Share", percent),
    ]
    caption = (
        "Near-duplicates: highest word Jaccard of each held-out pivot string with any training string. Exact "
        "duplicates are removed; these stay, and flatter retrieval and translation."
    )
    blocks: list[Block] = [Table("near-duplicates", caption, columns, rows)]
    if study.corpus.get("retrieval_rule"):
        blocks.append(Paragraph(f"Retrieval pairs: {study.corpus['retrieval_rule']}."))
    return blocks


def _card(study: Study, card: Mapping[str, Any], name: str, title: str) -> list[Block]:
    """A card of any shape: single facts as a list, mappings of mappings (by language) as tables."""
    card = {key: value for key, value in card.items() if key != "source" or not isinstance(value, Mapping)}
    facts = {key: value for key, value in card.items() if not isinstance(value, Mapping | list)}
    blocks: list[Block] = []
    if facts:
        parts: list[Any] = []
        for key, value in facts.items():
            label = key.replace("num_", "number of ").replace("_", " ")
            parts += ["; " + label if parts else label[:1].upper() + label[1:], ": ", Code(_number(value))]
        blocks.append(Paragraph([*parts, "."]))
    by_key = {key: value for key, value in card.items() if isinstance(value, Mapping) and value}
    flat = {key: value for key, value in by_key.items() if not any(isinstance(v, Mapping) for v in value.values())}
    if flat:
        blocks.append(_flat_table(study, flat, name, title))
    for key, value in by_key.items():
        if key not in flat:
            blocks.append(_nested_table(value, f"{name}-{key}".replace("_", "-"), f"{title}: {key.replace('_', ' ')}."))
    for key, value in card.items():
        if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            keyed = {str(index): item for index, item in enumerate(value, start=1)}
            blocks.append(_nested_table(keyed, f"{name}-{key}".replace("_", "-"), f"{title}: {key.replace('_', ' ')}."))
    return blocks


def _flat_table(study: Study, flat: Mapping[str, Mapping[str, Any]], name: str, title: str) -> Table:
    """Mappings from languages (or other keys) to single values: one column each."""
    keys = list(dict.fromkeys(key for value in flat.values() for key in value))
    rows: list[Row] = [{"key": key, **{column: value.get(key) for column, value in flat.items()}} for key in keys]
    columns = [
        Column("key", "Language" if set(keys) & set(study.languages) else "", is_number=False, is_row_header=True),
        *[Column(column, column.replace("_", " "), _number) for column in flat],
    ]
    return Table(name, f"{title}.", columns, rows)


def _nested_table(value: Mapping[str, Any], name: str, caption: str) -> Table:
    rows: list[Row] = []
    for key, inner in value.items():
        rows.append({"key": key, **(_flatten(inner) if isinstance(inner, Mapping) else {"value": inner})})
    keys = list(dict.fromkeys(column for row in rows for column in row if column != "key"))
    is_number = {c: all(isinstance(r.get(c), int | float | None) for r in rows) for c in keys}
    columns = [
        Column("key", "", is_number=False, is_row_header=True),
        *[Column(c, c.replace("_", " "), _number, is_number=is_number[c]) for c in keys],
    ]
    return Table(name, caption, columns, rows)


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            found |= _flatten(inner, f"{prefix}{key} ")
        elif isinstance(inner, list):
            found[f"{prefix}{key}"] = ", ".join(text_of(item) for item in inner)
        else:
            found[f"{prefix}{key}"] = inner
    return found


def _number(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return text_of(value)
    return count(value) if isinstance(value, int) else decimal(value)
