"""The document as Markdown: the same sentences, tables and captions; figures are the files beside it."""

import re

from xbridge.report.document import (
    Block,
    Bullets,
    Code,
    Details,
    Document,
    Figure,
    Heading,
    Link,
    Listing,
    Paragraph,
    Strong,
    Table,
    Text,
)

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#])")


def page(document: Document) -> str:
    """The whole report as GitHub-flavoured Markdown."""
    parts = [f"# {_escape(document.title)}", _escape(document.subtitle)]
    parts.append("\n".join(f"- {_escape(label)}: {_escape(value)}" for label, value in document.facts))
    for index, section in enumerate(document.sections, start=1):
        parts.append(f"## {index}. {_escape(section.title)}")
        parts.extend(_block(block) for block in section.blocks)
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(block: Block) -> str:
    if isinstance(block, Paragraph):
        text = _text(block.text)
        return f"**{text}**" if block.role == "lead" and isinstance(block.text, str) else text
    if isinstance(block, Bullets):
        return "\n".join(f"- {_text(item)}" for item in block.items)
    if isinstance(block, Heading):
        return f"### {_escape(block.text)}"
    if isinstance(block, Listing):
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", block.text)), default=0))
        return f"{fence}\n{block.text.rstrip()}\n{fence}"
    if isinstance(block, Table):
        return f"{_text(block.caption)}\n\n{_table(block)}\n\nData: [data/{block.name}.csv](data/{block.name}.csv)"
    if isinstance(block, Figure):
        image = f"![{_escape(block.title)}](figures/{block.name}.svg)"
        return f"{image}\n\n*{_escape(block.title)}.* {_text(block.caption)}\n\n" + (
            f"Data: [data/{block.name}.csv](data/{block.name}.csv)"
        )
    assert isinstance(block, Details)
    inside = "\n\n".join(_block(inner) for inner in block.blocks)
    return f"<details><summary>{_escape(block.summary)}</summary>\n\n{inside}\n\n</details>"


def _table(table: Table) -> str:
    lines = [
        _line([_escape(column.label) for column in table.columns]),
        _line(["---:" if column.is_number else ":---" for column in table.columns]),
    ]
    for name, rows in table.groups():
        if name:
            lines.append(_line([f"**{_escape(name)}**", *[""] * (len(table.columns) - 1)]))
        lines.extend(_line([_escape(c.show(row.get(c.key))) for c in table.columns]) for row in rows)
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(text: Text) -> str:
    if isinstance(text, str):
        return _escape(text)
    parts = []
    for part in text:
        if isinstance(part, Strong):
            parts.append(f"**{_escape(part.text)}**")
        elif isinstance(part, Code):
            parts.append(f"`{part.text}`")
        elif isinstance(part, Link):
            parts.append(f"[{_escape(part.text)}]({part.url})")
        else:
            parts.append(_escape(part))
    return "".join(parts)


def _escape(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", " ".join(text.split("\n")))
