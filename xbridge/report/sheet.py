"""A whole figure as one SVG file that stands alone: legend, panels, both themes."""

import html as escaping
from collections.abc import Sequence

from xbridge.report import svg
from xbridge.report.document import Figure
from xbridge.report.svg import Drawing

_WIDTH = 11 * 72.0  # points
_GAP = 14.0
_MARGIN = 9.0
_LINE = 18.0
_CHARACTER = 5.6  # a generous mean width at 9 points: fonts differ between machines
_TEXT = "font-family: var(--sans); font-size: 9px; fill: var(--ink)"


def sheet(figure: Figure, drawings: Sequence[Drawing]) -> str:
    """The file's text. `drawings` are the figure's panels, drawn."""
    parts, height = _legend(figure)
    rows = _rows(figure, drawings)
    width = max([_WIDTH / 3, *(sum(d.width + _GAP for d in row) - _GAP for _, row in rows)])
    for group, row in rows:
        if group:
            parts.append(_text(0, height + 11, group, weight="bold"))
            height += _LINE
        x = 0.0
        for drawing in row:
            parts.append(drawing.tag(f'x="{x:g}" y="{height:g}" width="{drawing.width:g}" height="{drawing.height:g}"'))
            x += drawing.width + _GAP
        height += max(drawing.height for drawing in row) + _GAP
    outer, tall = width + 2 * _MARGIN, height + 2 * _MARGIN
    box = f"{-_MARGIN:g} {-_MARGIN:g} {outer:g} {tall:g}"
    size = f'viewBox="{box}" width="{outer * 96 / 72:.0f}" height="{tall * 96 / 72:.0f}"'
    paper = f'<rect x="{-_MARGIN:g}" y="{-_MARGIN:g}" width="{outer:g}" height="{tall:g}" fill="var(--paper)"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="{figure.name}-title">\n'
        f'<title id="{figure.name}-title">{escaping.escape(figure.title)}</title>\n'
        f"<style>{svg.variables()}</style>\n{paper}\n" + "\n".join(parts) + "\n</svg>\n"
    )


def _rows(figure: Figure, drawings: Sequence[Drawing]) -> list[tuple[str, list[Drawing]]]:
    """(group name where one begins, panels of the row): as many as fit, a new row for every group."""
    rows: list[tuple[str, list[Drawing]]] = []
    before = ""
    for panel, drawing in zip(figure.panels, drawings, strict=True):
        is_full = bool(rows) and sum(d.width + _GAP for d in rows[-1][1]) + drawing.width > _WIDTH
        if not rows or panel.group != before or is_full:
            rows.append((panel.group if panel.group != before else "", []))
        rows[-1][1].append(drawing)
        before = panel.group
    return rows


def _legend(figure: Figure) -> tuple[list[str], float]:
    """The legend's elements and the height that they take."""
    if figure.scale is not None:
        return _scale(*figure.scale), 2 * _LINE
    parts = []
    x, y = 0.0, 0.0
    for index, entry in enumerate(figure.legend, start=1):
        mark = svg.mark(entry, f"{figure.name}-key{index}")
        width = mark.width + 6 + len(entry.label) * _CHARACTER + _GAP
        if x and x + width > _WIDTH:
            x, y = 0.0, y + _LINE
        parts.append(mark.tag(f'x="{x:g}" y="{y + 2:g}" width="{mark.width:g}" height="{mark.height:g}"'))
        parts.append(_text(x + mark.width + 6, y + 10, entry.label))
        x += width
    return parts, y + _LINE * 1.5 if parts else 0.0


def _scale(label: str, low: float, high: float) -> list[str]:
    colors = svg.scale_colors(9)
    stops = "".join(f'<stop offset="{i / 8:g}" stop-color="{color}"/>' for i, color in enumerate(colors))
    start = len(label) * _CHARACTER + 30
    return [
        f'<linearGradient id="ramp">{stops}</linearGradient>',
        _text(0, 11, label),
        _text(start - 14, 11, f"{low:g}"),
        f'<rect x="{start:g}" y="3" width="90" height="9" fill="url(#ramp)"/>',
        _text(start + 98, 11, f"{high:g}"),
    ]


def _text(x: float, y: float, text: str, weight: str = "normal") -> str:
    return f'<text x="{x:g}" y="{y:g}" style="{_TEXT}; font-weight: {weight}">{escaping.escape(text)}</text>'
