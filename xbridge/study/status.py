"""The state of a study as a table: stage, state, time, size."""

from collections.abc import Collection, Sequence

from xbridge.core.artifact import read_manifest
from xbridge.core.files import size_of
from xbridge.study.jobs import Jobs
from xbridge.study.plan import Plan
from xbridge.study.run import format_seconds


def status_rows(plan: Plan) -> list[tuple[str, str, str, str]]:
    """(node id, state, time, size) of every node; state is done, started or waiting, or that of its job."""
    rows = []
    jobs = Jobs(plan.folder).states(plan)
    for node in plan.nodes.values():
        folder = node.artifact.path
        if node.artifact.is_complete():
            manifest = read_manifest(folder)
            rows.append((node.id, "done", format_seconds(manifest["seconds"]), format_bytes(manifest["bytes"])))
        elif folder.exists():
            rows.append((node.id, jobs.get(node.id, "started"), "", format_bytes(size_of(folder))))
        else:
            rows.append((node.id, jobs.get(node.id, "waiting"), "", ""))
    return rows


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]], right: Collection[int] = ()) -> str:
    """Plain aligned columns; those numbered in `right` are right-aligned."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, *rows]:
        aligned = zip(row, widths, strict=True)
        cells = [cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(aligned)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def format_bytes(count: int) -> str:
    """`812 B`, `3.1 MB`: powers of 1000."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError
