"""What a report is made of: sections of blocks that `html` and `markdown` both write out.

Text is plain and is escaped by whoever writes it; emphasis, code and links are parts of a text, never markup in it.
A table and a figure carry their rows, which also become their CSV file, so what is read is what can be recomputed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from xbridge.report.format import text_of

Row = dict[str, Any]


@dataclass(frozen=True)
class Strong:
    """Emphasised text."""

    text: str


@dataclass(frozen=True)
class Code:
    """A name or value as it stands in a file."""

    text: str


@dataclass(frozen=True)
class Link:
    """A link in the text; the only way out of the page."""

    text: str
    url: str


Inline = str | Strong | Code | Link
Text = str | Sequence[Inline]


@dataclass(frozen=True)
class Paragraph:
    """One paragraph; `role` is "", "lead" (the verdict's first sentence) or "note" (an aside)."""

    text: Text
    role: str = ""


@dataclass(frozen=True)
class Bullets:
    """An unordered list."""

    items: Sequence[Text]


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    text: str


@dataclass(frozen=True)
class Listing:
    """Preformatted text, such as a configuration."""

    text: str


@dataclass(frozen=True)
class Column:
    """One column: `key` in the rows, a label (which may have a line break), and how its values are written."""

    key: str
    label: str
    show: Callable[[Any], str] = text_of
    is_number: bool = True
    hint: str = ""
    is_row_header: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under columns. Rows with equal `group` stand together below one line that names it."""

    name: str
    caption: Text
    columns: Sequence[Column]
    rows: Sequence[Row]
    group: str = ""
    data: Sequence[Row] | None = None
    """Rows of the CSV file where they differ from what is shown (long format); None = `rows`."""

    def groups(self) -> Iterator[tuple[str, list[Row]]]:
        """(name of the group, its rows) in the order of first appearance; one unnamed group without `group`."""
        names = list(dict.fromkeys(str(row[self.group]) for row in self.rows)) if self.group else [""]
        for name in names:
            yield name, [row for row in self.rows if not self.group or str(row[self.group]) == name]


@dataclass(frozen=True)
class LegendEntry:
    """One line of a legend: a label and the style that draws it."""

    label: str
    color: str
    marker: str = "o"
    dash: str = "-"


@dataclass(frozen=True)
class Panel:
    """One small plot. `draw` is called with matplotlib axes; sizes are in inches."""

    title: str
    description: str
    draw: Callable[[Any], None]
    width: float = 3.2
    height: float = 2.4
    group: str = ""
    """Panels of one group stand together below its name."""


@dataclass(frozen=True)
class Figure:
    """Panels that wrap with the page's width, one legend, one caption, and the rows that are drawn."""

    name: str
    title: str
    caption: Text
    panels: Sequence[Panel]
    rows: Sequence[Row]
    legend: Sequence[LegendEntry] = ()
    scale: tuple[str, float, float] | None = None
    """(label, low, high) of the colour scale of heat maps."""


@dataclass(frozen=True)
class Details:
    """Blocks that stay folded until they are asked for."""

    summary: str
    blocks: "Sequence[Block]"


Block = Paragraph | Bullets | Heading | Listing | Table | Figure | Details


@dataclass(frozen=True)
class Section:
    """A numbered part of the report; `name` is its anchor."""

    name: str
    title: str
    blocks: Sequence[Block] = field(default_factory=list)


@dataclass(frozen=True)
class Document:
    """The whole report."""

    title: str
    subtitle: str
    facts: Sequence[tuple[str, str]]
    """Short (label, value) pairs under the title."""
    sections: Sequence[Section]


def walk(blocks: Sequence[Block]) -> Iterator[Block]:
    """All blocks in reading order, folded ones too."""
    for block in blocks:
        yield block
        if isinstance(block, Details):
            yield from walk(block.blocks)


def plain(text: Text) -> str:
    """The words of a text without emphasis or links."""
    return text if isinstance(text, str) else "".join(part if isinstance(part, str) else part.text for part in text)
