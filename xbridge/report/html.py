"""The document as one HTML page that needs nothing else: style and figures are inside, and no script."""

import html as escaping
from collections.abc import Mapping, Sequence
from importlib import resources

from xbridge.report import svg
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
    Section,
    Strong,
    Table,
    Text,
)
from xbridge.report.svg import Drawing

# On a phone small panels stand two by two and wide ones take the whole width.
_SMALL_INCHES, _WIDE_INCHES = 2.4, 2.9


def page(document: Document, drawings: Mapping[str, Sequence[Drawing]]) -> str:
    """The whole page. `drawings`: the panels of each figure by the figure's name."""
    style = resources.files("xbridge.report").joinpath("theme", "style.css").read_text(encoding="utf-8")
    writer = _Writer(drawings)
    body = "\n".join(writer.section(section, index) for index, section in enumerate(document.sections, start=1))
    facts = "".join(f"<div><dt>{_escape(a)}</dt><dd>{_escape(b)}</dd></div>" for a, b in document.facts)
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{_escape(document.title)}</title>",
            f"<style>\n{svg.variables()}\n{style}</style>",
            "</head>",
            "<body>",
            '<a class="skip" href="#content">Skip to the report</a>',
            '<div class="layout">',
            _contents(document),
            '<main id="content">',
            f"<header><h1>{_escape(document.title)}</h1>",
            f'<p class="subtitle">{_escape(document.subtitle)}</p>',
            f'<dl class="facts">{facts}</dl></header>',
            body,
            "</main>",
            "</div>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _contents(document: Document) -> str:
    items = "".join(f'<li><a href="#{s.name}">{_escape(s.title)}</a></li>' for s in document.sections)
    return f'<nav class="contents" aria-label="Contents"><p>Contents</p><ol>{items}</ol></nav>'


class _Writer:
    """Writes blocks in reading order, numbering tables and figures."""

    def __init__(self, drawings: Mapping[str, Sequence[Drawing]]) -> None:
        self._drawings = drawings
        self._last = {"Table": 0, "Figure": 0}

    def section(self, section: Section, index: int) -> str:
        blocks = "\n".join(self.block(block) for block in section.blocks)
        head = f'<h2><span class="number">{index}</span>{_escape(section.title)}</h2>'
        return f'<section id="{section.name}">\n{head}\n{blocks}\n</section>'

    def block(self, block: Block) -> str:
        if isinstance(block, Paragraph):
            role = f' class="{block.role}"' if block.role else ""
            return f"<p{role}>{_text(block.text)}</p>"
        if isinstance(block, Bullets):
            return "<ul>" + "".join(f"<li>{_text(item)}</li>" for item in block.items) + "</ul>"
        if isinstance(block, Heading):
            return f"<h3>{_escape(block.text)}</h3>"
        if isinstance(block, Listing):
            return f'<pre tabindex="0"><code>{_escape(block.text)}</code></pre>'
        if isinstance(block, Table):
            return _table(block, self._number("Table"))
        if isinstance(block, Figure):
            return _figure(block, self._drawings[block.name], self._number("Figure"))
        assert isinstance(block, Details)
        inside = "\n".join(self.block(inner) for inner in block.blocks)
        return f"<details><summary>{_escape(block.summary)}</summary>\n{inside}\n</details>"

    def _number(self, kind: str) -> str:
        self._last[kind] += 1
        return f"{kind} {self._last[kind]}"


def _table(table: Table, number: str) -> str:
    head = "".join(f'<th scope="col"{_class(c.is_number)}{_hint(c.hint)}>{_label(c.label)}</th>' for c in table.columns)
    bodies = []
    for name, rows in table.groups():
        lines = []
        if name:
            span = len(table.columns)
            lines.append(
                f'<tr class="group"><th scope="rowgroup" colspan="{span}"><span>{_escape(name)}</span></th></tr>'
            )
        for row in rows:
            cells = []
            for c in table.columns:
                value = _escape(c.show(row.get(c.key)))
                tag = 'th scope="row"' if c.is_row_header else "td"
                cells.append(f"<{tag}{_class(c.is_number)}>{value}</{tag.split()[0]}>")
            lines.append(f"<tr>{''.join(cells)}</tr>")
        bodies.append(f"<tbody>{''.join(lines)}</tbody>")
    return (
        f'<figure class="table" id="table-{table.name}"><figcaption><b>{number}.</b> {_text(table.caption)}'
        f"{_source(table.name)}</figcaption>\n"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_escape(number)}">'
        f"<table><thead><tr>{head}</tr></thead>{''.join(bodies)}</table></div></figure>"
    )


def _figure(figure: Figure, drawings: Sequence[Drawing], number: str) -> str:
    panels = []
    group = ""
    for panel, drawing in zip(figure.panels, drawings, strict=True):
        if panel.group != group:
            group = panel.group
            panels.append(f'<p class="group">{_escape(group)}</p>')
        kind = " small" if panel.width <= _SMALL_INCHES else " wide" if panel.width >= _WIDE_INCHES else ""
        panels.append(f'<div class="panel{kind}" style="width:{panel.width * 96:.0f}px">{drawing.tag()}</div>')
    return (
        f'<figure class="plot" id="figure-{figure.name}">{_legend(figure)}'
        f'<div class="panels">{"".join(panels)}</div>\n'
        f"<figcaption><b>{number}.</b> <b>{_escape(figure.title)}.</b> {_text(figure.caption)}"
        f"{_source(figure.name)}</figcaption></figure>"
    )


def _legend(figure: Figure) -> str:
    if figure.scale is not None:
        label, low, high = figure.scale
        stops = ",".join(svg.scale_colors(9))
        return (
            f'<p class="legend"><span>{_escape(label)}</span><span>{low:g}</span>'
            f'<span class="ramp" style="background:linear-gradient(90deg,{stops})"></span><span>{high:g}</span></p>'
        )
    if not figure.legend:
        return ""
    items = "".join(
        f"<li>{svg.mark(entry, f'{figure.name}-key{index}').tag()}{_escape(entry.label)}</li>"
        for index, entry in enumerate(figure.legend, start=1)
    )
    return f'<ul class="legend">{items}</ul>'


def _source(name: str) -> str:
    return f' <span class="source">Data: data/{_escape(name)}.csv</span>'


def _label(label: str) -> str:
    """A column's label; a line break in it is kept."""
    return _escape(label).replace("\n", "<br>")


def _class(is_number: bool) -> str:
    return ' class="n"' if is_number else ""


def _hint(hint: str) -> str:
    return f' title="{_escape(hint)}"' if hint else ""


def _text(text: Text) -> str:
    if isinstance(text, str):
        return _escape(text)
    parts = []
    for part in text:
        if isinstance(part, Strong):
            parts.append(f"<strong>{_escape(part.text)}</strong>")
        elif isinstance(part, Code):
            parts.append(f"<code>{_escape(part.text)}</code>")
        elif isinstance(part, Link):
            parts.append(f'<a href="{_escape(part.url)}">{_escape(part.text)}</a>')
        else:
            parts.append(_escape(part))
    return "".join(parts)


def _escape(text: str) -> str:
    return escaping.escape(text, quote=True)
