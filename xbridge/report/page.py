"""Report stage: one self-contained HTML page, the same as Markdown, figures as SVG, every number as CSV.

Everything is read from finished stage folders, so that a report can be made again anywhere, without the models:

    index.html   report.md   figures/*.svg   data/*.csv
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xbridge.core.console import progress
from xbridge.core.files import write_text
from xbridge.report import html, markdown, svg
from xbridge.report.document import Document, Figure, Row, Table, walk
from xbridge.report.format import count
from xbridge.report.load import Study, load
from xbridge.report.sections import (
    data,
    quality,
    reproduce,
    retrieval,
    separability,
    similarity,
    training,
    transfer,
    verdict,
    weights,
)
from xbridge.report.sheet import sheet

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the verdict is about."""

    title: str | None = None
    """Title of the page; null = the study's name."""
    arm: str = "mt"
    """Arm that the verdict compares with the study's reference."""
    control: str = "mt_shuffled"
    """Arm that trains like `arm` without its signal."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Stage folders; what a study did not run is left out and its section says so."""

    study: Path
    """The study's folder, which holds study.lock.json."""
    trainings: dict[str, Path] = field(default_factory=dict)
    evaluations: dict[str, Path] = field(default_factory=dict)
    comparison: Path | None = None
    spectra: dict[str, Path] = field(default_factory=dict)
    separability: dict[str, Path] = field(default_factory=dict)
    transfer: Path | None = None
    corpus: Path | None = None
    tokenizer: Path | None = None
    taskdata: dict[str, Path] = field(default_factory=dict)


def run(config: Config, inputs: Inputs, out: Path) -> None:
    """Write the report into `out`. The same inputs give the same bytes."""
    document = compose(config, load(inputs))
    blocks = [block for section in document.sections for block in walk(section.blocks)]
    figures = [block for block in blocks if isinstance(block, Figure)]
    drawings = {}
    with progress("figures", total=len(figures), unit="figure") as bar:
        for figure in figures:
            drawings[figure.name] = svg.draw(figure)
            write_text(out / "figures" / f"{figure.name}.svg", sheet(figure, drawings[figure.name]))
            write_text(out / "data" / f"{figure.name}.csv", to_csv(figure.rows))
            bar.update()
    for table in (block for block in blocks if isinstance(block, Table)):
        write_text(out / "data" / f"{table.name}.csv", to_csv(table.rows if table.data is None else table.data))
    write_text(out / "report.md", markdown.page(document))
    write_text(out / "index.html", html.page(document, drawings))


def compose(config: Config, study: Study) -> Document:
    """The whole report of a study."""
    title = config.title or f"{study.lock['study']}: MT continued training and cross-lingual transfer"
    sections = [
        verdict.section(study, arm=config.arm, control=config.control),
        transfer.section(study),
        training.section(study),
        retrieval.section(study),
        similarity.section(study),
        weights.section(study),
        separability.section(study),
        quality.section(study),
        data.section(study),
        reproduce.section(study),
    ]
    return Document(title, str(study.lock["question"]), _facts(study), sections)


def _facts(study: Study) -> list[tuple[str, str]]:
    languages = ", ".join(study.short(code) for code in study.languages[1:])
    finished = [str(stage.manifest["finished"]) for stage in study.stages if stage.manifest.get("finished")]
    facts = [
        ("Arms", ", ".join(study.arms) or "none"),
        ("Source", study.short(study.source_lang)),
        ("Targets", languages),
        ("Training seeds", count(len(study.lock["seeds"]))),
        ("Fine-tuning seeds", count(len(study.lock["finetune_seeds"]))),
    ]
    return [*facts, ("Finished", max(finished)[:10])] if finished else facts


def to_csv(rows: Sequence[Row]) -> str:
    """RFC 4180 CSV with all columns in order of first appearance; numbers in full precision, None as nothing."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
