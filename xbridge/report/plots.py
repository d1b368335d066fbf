"""The few kinds of drawing that the report uses: lines by layer or tokens, dots with intervals, heat maps.

Each function returns what draws on given matplotlib axes, so that one drawing serves the page and the file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from xbridge.report.document import LegendEntry
from xbridge.report.format import shorten
from xbridge.report.load import Study
from xbridge.report.palette import Style, color

Draw = Callable[[Any], None]
_ANNOTATED_CELLS = 64
_DARK_BELOW = 0.55  # of the cividis scale: white text reads better there


@dataclass(frozen=True)
class Series:
    """A line: equal-length x and y, and the style of its arm. `error` is a half-width, drawn as a bar."""

    x: Sequence[float]
    y: Sequence[float]
    style: Style
    error: Sequence[float] | None = None


@dataclass(frozen=True)
class Mark:
    """A point on a row of a dot plot: its row, value, interval, and single values shown as small hollow dots."""

    row: int
    value: float
    style: Style
    low: float | None = None
    high: float | None = None
    singles: Sequence[float] = ()
    offset: float = 0.0


def legend(study: Study, arms: Sequence[str]) -> list[LegendEntry]:
    """The legend of some of the study's arms, in its order."""
    styles = study.styles
    return [LegendEntry(a, styles[a].color, styles[a].marker, styles[a].dash) for a in study.arms if a in set(arms)]


def lines(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    ticks: Sequence[str] | None = None,
    markers: bool = True,
    level: tuple[float, str] | None = None,
    log_y: bool = False,
) -> Draw:
    """Lines; with `ticks`, x is an index into them. `level` is a labelled horizontal line, such as chance."""

    def draw(axes: Any) -> None:
        for one in series:
            axes.errorbar(
                one.x,
                one.y,
                yerr=one.error,
                color=one.style.color,
                linestyle=one.style.dash,
                marker=one.style.marker if markers else None,
                elinewidth=0.8,
                capsize=0,
                alpha=0.92,
            )
        if log_y:
            axes.set_yscale("log")
        if level is not None:
            axes.axhline(level[0], color=color("muted"), linewidth=0.8, linestyle=(0, (1, 2)))
            axes.annotate(
                level[1], (1, level[0]), xycoords=("axes fraction", "data"), xytext=(0, 2.5),
                textcoords="offset points", ha="right", va="bottom", fontsize=7.5, color=color("muted"),
            )  # fmt: skip
        if ticks is not None:
            axes.set_xticks(range(len(ticks)), ticks)
        else:
            axes.xaxis.set_major_formatter(_si)
            axes.locator_params(axis="x", nbins=6)
        axes.set(xlabel=x_label, ylabel=y_label)

    return draw


def dots(
    marks: Sequence[Mark],
    rows: Sequence[str],
    *,
    x_label: str,
    zero_line: bool = False,
    label_length: int = 17,
    frame: tuple[float, float] | None = None,
) -> Draw:
    """Rows of points, the first row on top. With `frame`, x covers that and all points, and longer bars are cut."""

    def draw(axes: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        axes.grid(visible=False, axis="y")
        if zero_line:
            axes.axvline(0, color=color("muted"), linewidth=0.8)
        for mark in marks:
            y = mark.row + mark.offset
            if mark.low is not None and mark.high is not None:
                axes.plot([mark.low, mark.high], [y, y], color=mark.style.color, linewidth=1.8, solid_capstyle="butt")
            for value in mark.singles:
                axes.plot([value], [y - 0.24], marker="|", markersize=6, color=mark.style.color, alpha=0.9)
            axes.plot([mark.value], [y], marker=mark.style.marker, color=mark.style.color, markersize=5.5)
        axes.set_yticks(range(len(rows)), [shorten(row, label_length) for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]))
        if frame is not None:
            ends = [*frame, *(mark.value for mark in marks)]
            margin = 0.06 * (max(ends) - min(ends))
            axes.set_xlim(min(ends) - margin, max(ends) + margin)
        axes.set_xlabel(x_label)

    return draw


def heat(
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    y_label: str = "",
    x_label: str = "",
    low: float = 0.0,
    high: float = 1.0,
) -> Draw:
    """A heat map, the first row on top; few cells also show their number. None stays empty."""

    def draw(axes: Any) -> None:
        from matplotlib import colormaps
        from matplotlib.patches import Rectangle

        cividis = colormaps["cividis"]
        annotate = len(rows) * len(columns) <= _ANNOTATED_CELLS
        axes.grid(visible=False)
        for i, line in enumerate(values):
            for j, value in enumerate(line):
                if value is None:
                    continue
                share = min(1.0, max(0.0, (value - low) / (high - low)))
                axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=cividis(share), edgecolor="none"))
                if annotate:
                    axes.text(
                        j, i, _two_decimals(value), ha="center", va="center", fontsize=7,
                        color="#ffffff" if share < _DARK_BELOW else "#111111",
                    )  # fmt: skip
        axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5), aspect="equal")
        axes.set_xticks(range(len(columns)), columns, rotation=90 if max(map(len, columns)) > 3 else 0)
        axes.set_yticks(range(len(rows)), rows)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set(xlabel=x_label, ylabel=y_label)

    return draw


def offsets(count: int, spread: float = 0.5) -> list[float]:
    """Vertical offsets that keep `count` points of one row apart."""
    return [0.0] if count < 2 else [spread * (i / (count - 1) - 0.5) for i in range(count)]


def _two_decimals(value: float) -> str:
    text = f"{value:.2f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def _si(value: float, _: object = None) -> str:
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:g}{unit}"
    return f"{value:g}"
