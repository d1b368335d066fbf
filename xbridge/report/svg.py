"""Panels to SVG: drawn by matplotlib, then made small, themeable, accessible and the same on every run.

Text stays text, colours become CSS variables with the light theme as fallback, ids get the figure's name (several
drawings share a page), and nothing tells when or by which program a drawing was made.
"""

import html as escaping
import io
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from xbridge.core.errors import UserError
from xbridge.report.document import Figure, LegendEntry, Panel
from xbridge.report.palette import TOKENS, color

SANS = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif"


def variables() -> str:
    """CSS that defines the colour variables of both themes."""
    light = "".join(f"--{name}:{values[1]};" for name, values in TOKENS.items())
    dark = "".join(f"--{name}:{values[2]};" for name, values in TOKENS.items())
    return (
        f":root{{{light}--sans:{SANS};}}\n"
        f"@media (prefers-color-scheme: dark){{:root{{{dark}}}}}\n"
        f"@media print{{:root{{{light}}}}}"
    )


@dataclass(frozen=True)
class Drawing:
    """A panel that is drawn: size in points, and what stands inside its <svg>, colours as CSS variables."""

    name: str
    title: str
    description: str
    width: float
    height: float
    body: str

    def tag(self, attributes: str = "") -> str:
        """The <svg> element, which scales to its place unless `attributes` give a size."""
        if not self.description:
            head, labels = 'aria-hidden="true" focusable="false"', ""
        else:
            head = f'role="img" aria-labelledby="{self.name}-title {self.name}-desc"'
            title = escaping.escape(self.title or self.description)
            labels = (
                f'<title id="{self.name}-title">{title}</title>'
                f'<desc id="{self.name}-desc">{escaping.escape(self.description)}</desc>'
            )
        space = f" {attributes}" if attributes else ""
        return f'<svg{space} viewBox="0 0 {self.width:g} {self.height:g}" {head}>{labels}{self.body}</svg>'


def draw(figure: Figure) -> list[Drawing]:
    """All panels of a figure, in order."""
    return [_panel(panel, f"{figure.name}-{index}") for index, panel in enumerate(figure.panels, start=1)]


def mark(entry: LegendEntry, name: str) -> Drawing:
    """A legend entry's line and marker; `name` keeps its ids apart from others on the page."""
    return _finish(_drawn_mark(entry.color, entry.marker, entry.dash), name, "", "")


def scale_colors(count: int) -> list[str]:
    """`count` colours of the heat maps' scale from low to high (cividis: Nunez, Anderton and Renslow 2018)."""
    matplotlib = _matplotlib()
    cividis = matplotlib.colormaps["cividis"]
    return [matplotlib.colors.to_hex(cividis(i / max(1, count - 1))) for i in range(count)]


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


def _panel(panel: Panel, name: str) -> Drawing:
    matplotlib = _matplotlib()
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(_settings(name)):
        canvas = Canvas(figsize=(panel.width, panel.height), layout="constrained")
        axes = canvas.add_subplot()
        panel.draw(axes)
        axes.set_title(panel.title)
        return _finish(_to_svg(canvas), name, panel.title, panel.description)


@cache
def _drawn_mark(color: str, marker: str, dash: str) -> str:
    matplotlib = _matplotlib()
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(_settings("mark")):
        canvas = Canvas(figsize=(0.34, 0.14))
        axes = canvas.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set(xlim=(-1, 1), ylim=(-1, 1))
        axes.plot([-0.9, 0.9], [0, 0], color=color, linestyle=dash)
        axes.plot([0], [0], color=color, marker=marker, linestyle="none")
        return _to_svg(canvas)


def _to_svg(canvas: Any) -> str:
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return buffer.getvalue()


def _finish(drawing: str, name: str, title: str, description: str) -> Drawing:
    viewbox = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawing)
    assert viewbox is not None
    body = drawing[drawing.index(">", drawing.index("<svg")) + 1 : drawing.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style[^>]*>\*\{[^}]*\}</style>", "", body, flags=re.DOTALL)
    body = _use_variables(_rename_ids(body, name))
    body = re.sub(r">\s+<", "><", body.strip())
    body = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d{2})\d+", r"\1", tag[0]), body)  # never the text
    body = body.replace("xlink:href", "href")
    return Drawing(name, title, description, float(viewbox[1]), float(viewbox[2]), body)


def _rename_ids(text: str, name: str) -> str:
    """Keep only ids that something refers to, and put the figure's name before them."""
    used = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text))
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    return re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)


def _use_variables(text: str) -> str:
    for name, (placeholder, _, _) in TOKENS.items():
        text = text.replace(placeholder, f"var(--{name})")
    return re.sub(r"('DejaVu Sans'(?:, [^;\"]+)?)", "var(--sans)", text)
