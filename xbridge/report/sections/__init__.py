"""One module per section of the report: `section(study, config)` makes it, and says what was not run."""

from xbridge.report.document import Paragraph


def not_run(what: str) -> Paragraph:
    """The sentence of a section without inputs."""
    return Paragraph(f"Not run in this study: {what}.", role="note")
