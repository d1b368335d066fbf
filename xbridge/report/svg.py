"""Panels to SVG: drawn by matplotlib, then made small, themeable, accessible and the same on every run.

Text stays text, colours become CSS variables with the light theme as fallback, ids get the figure's name (several
drawings share a page), and nothing tells when or by which program a drawing was made.
"""

import html as escaping
import io
import re
from collections.abc import Sequence
from typing import Any

from xbridge.core.errors import UserError
from xbridge.report.document import Figure, LegendEntry, Panel
from xbridge.report.palette import TOKENS, color

SANS = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif"
_POINTS_PER_INCH = 72
_SHEET_WIDTH_INCHES = 11.0


def variables() -> str:
    """CSS that defines the colour variables of both themes."""
    light = "".join(f"--{name}:{values[1]};" for name, values in TOKENS.items())
    dark = "".join(f"--{name}:{values[2]};" for name, values in TOKENS.items())
    return (
        f":root{{{light}--sans:{SANS};}}\n"
        f"@media (prefers-color-scheme: dark){{:root{{{dark}}}}}\n"
        f"@media print{{:root{{{light}}}}}"
    )


def inline(panel: Panel, name: str) -> str:
    """One panel for the page: no size of its own, no namespace declarations."""
    drawing = _draw([panel], name, columns=1, legend=())
    return _finish(drawing, name, title=panel.title, description=panel.description, is_alone=False)


def sheet(figure: Figure) -> str:
    """The whole figure as a file of its own: all panels, the legend, both themes."""
    widest = max((panel.width for panel in figure.panels), default=3.5)
    columns = max(1, min(len(figure.panels), int(_SHEET_WIDTH_INCHES / widest)))
    drawing = _draw(figure.panels, figure.name, columns=columns, legend=figure.legend)
    description = "; ".join(panel.description for panel in figure.panels)
    return _finish(drawing, figure.name, title=figure.title, description=description, is_alone=True)


def scale_colors(count: int) -> list[str]:
    """`count` colours of the heat maps' scale from low to high (cividis: Nunez, Anderton and Renslow 2018)."""
    matplotlib = _matplotlib()
    cividis = matplotlib.colormaps["cividis"]
    return [matplotlib.colors.to_hex(cividis(i / max(1, count - 1))) for i in range(count)]


def legend_mark(entry: LegendEntry, name: str) -> str:
    """A small drawing of a legend entry's line and marker; `name` keeps its ids apart from others on the page."""
    return _finish(_draw_mark(entry), name, title="", description="", is_alone=False)


def _matplotlib() -> Any:
    try:
        import matplotlib
        import matplotlib.colors
    except ModuleNotFoundError:
        raise UserError("the report's figures need matplotlib: pip install 'xbridge-mt[report]'") from None
    return matplotlib


def _settings(name: str) -> dict[str, Any]:
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": f"xbridge-{name}",
        "font.family": "DejaVu Sans",
        "font.size": 8.5,
        "axes.titlesize": 9,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": 8.5,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "text.color": color("ink"),
        "axes.labelcolor": color("muted"),
        "axes.titlecolor": color("ink"),
        "axes.edgecolor": color("muted"),
        "xtick.color": color("muted"),
        "ytick.color": color("muted"),
        "xtick.labelcolor": color("ink"),
        "ytick.labelcolor": color("ink"),
        "axes.linewidth": 0.6,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 3,
        "ytick.major.size": 3,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": color("rule"),
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.4,
        "lines.markersize": 4.5,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "axes.unicode_minus": True,
        "legend.frameon": False,
        "text.parse_math": False,
    }


def _draw(panels: Sequence[Panel], name: str, *, columns: int, legend: Sequence[LegendEntry]) -> str:
    matplotlib = _matplotlib()
    from matplotlib.figure import Figure as Canvas

    rows = -(-len(panels) // columns)
    heights = [max(panel.height for panel in panels[row * columns : (row + 1) * columns]) for row in range(rows)]
    widths = [max(panel.width for panel in panels[column::columns]) for column in range(columns)]
    legend_height = 0.25 * -(-len(legend) // 6) if legend else 0.0
    with matplotlib.rc_context(_settings(name)):
        total = sum(heights) + legend_height
        canvas = Canvas(figsize=(sum(widths), total), layout="constrained")
        grid = canvas.add_gridspec(rows, columns, height_ratios=heights, width_ratios=widths)
        for index, panel in enumerate(panels):
            axes = canvas.add_subplot(grid[index // columns, index % columns])
            panel.draw(axes)
            axes.set_title(panel.title)
        if legend:
            canvas.legend(handles=[_handle(entry) for entry in legend], loc="outside upper left", ncols=6)
        return _to_svg(canvas)


def _draw_mark(entry: LegendEntry) -> str:
    matplotlib = _matplotlib()
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(_settings("mark")):
        canvas = Canvas(figsize=(0.34, 0.14))
        axes = canvas.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set(xlim=(-1, 1), ylim=(-1, 1))
        axes.plot([-0.9, 0.9], [0, 0], color=entry.color, linestyle=entry.dash)
        axes.plot([0], [0], color=entry.color, marker=entry.marker, linestyle="none")
        return _to_svg(canvas)


def _handle(entry: LegendEntry) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=entry.color, marker=entry.marker, linestyle=entry.dash, label=entry.label)


def _to_svg(canvas: Any) -> str:
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return buffer.getvalue()


def _finish(drawing: str, name: str, *, title: str, description: str, is_alone: bool) -> str:
    viewbox = re.search(r'viewBox="([^"]+)"', drawing)
    assert viewbox is not None
    inside = drawing[drawing.index(">", drawing.index("<svg")) + 1 : drawing.rindex("</svg>")]
    inside = re.sub(r"<metadata>.*?</metadata>", "", inside, flags=re.DOTALL)
    inside = re.sub(r"<!--.*?-->", "", inside, flags=re.DOTALL)
    inside = _rename_ids(inside, name)
    inside = _use_variables(inside, with_fallback=is_alone)
    inside = re.sub(r">\s+<", "><", inside.strip())
    inside = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d{2})\d+", r"\1", tag[0]), inside)  # never the text
    inside = inside.replace("xlink:href", "href")
    if title or description:
        labels = (
            f'<title id="{name}-title">{escaping.escape(title)}</title>'
            f'<desc id="{name}-desc">{escaping.escape(description)}</desc>'
        )
        role = f'role="img" aria-labelledby="{name}-title {name}-desc"'
    else:
        labels, role = "", 'aria-hidden="true" focusable="false"'
    if not is_alone:
        return f'<svg viewBox="{viewbox[1]}" {role}>{labels}{inside}</svg>'
    width, height = (float(part) for part in viewbox[1].split()[2:])
    pixels = f'width="{width * 96 / _POINTS_PER_INCH:.0f}" height="{height * 96 / _POINTS_PER_INCH:.0f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{viewbox[1]}" {pixels} {role}>\n'
        f"<style>{variables()}</style>\n{labels}{inside}\n</svg>\n"
    )


def _rename_ids(text: str, name: str) -> str:
    """Keep only ids that something refers to, and put the figure's name before them."""
    used = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text))
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    return re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)


def _use_variables(text: str, *, with_fallback: bool) -> str:
    for name, (placeholder, light, _) in TOKENS.items():
        text = text.replace(placeholder, f"var(--{name},{light})" if with_fallback else f"var(--{name})")
    text = re.sub(r"<style type=\"text/css\">\*\{[^}]*\}</style>", "", text)
    return re.sub(r"('DejaVu Sans'(?:, [^;\"]+)?)", "var(--sans,sans-serif)", text)
