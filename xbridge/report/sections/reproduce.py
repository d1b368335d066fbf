"""How to get these numbers again: configuration, versions, machine, times, sizes."""

from collections.abc import Mapping
from typing import Any

from xbridge.core.config import dump_yaml
from xbridge.report.document import Block, Code, Column, Details, Listing, Paragraph, Row, Section, Table
from xbridge.report.format import count, duration, size
from xbridge.report.load import Stage, Study


def section(study: Study) -> Section:
    """Configuration, versions, cost."""
    blocks: list[Block] = [
        Paragraph(
            [
                "Save the configuration below as ",
                Code("study.yaml"),
                " and run ",
                Code("xbridge study run study.yaml"),
                ". On one machine with the same versions the score tables are identical; on another processor or "
                "with other versions they differ in the last digits at first, and training can carry that further.",
            ]
        )
    ]
    stages = [stage for stage in study.stages if stage.manifest.get("stage") != "report"]
    if stages:
        blocks += [_versions(stages), _by_kind(stages), Details("Time and size of every stage", [_each(stages)])]
    text = dump_yaml(study.lock.get("config", {}))
    blocks.append(Details("Configuration", [Listing(text)]))
    return Section("reproduce", "Configuration and cost", blocks)


def _versions(stages: list[Stage]) -> Table:
    found: dict[str, dict[str, None]] = {}
    for stage in stages:
        machine = stage.manifest.get("machine", {})
        facts = {**stage.manifest.get("versions", {}), **{f"machine: {key}": value for key, value in machine.items()}}
        for key, value in facts.items():
            found.setdefault(key, {})[str(value)] = None
    rows: list[Row] = [{"what": key, "value": ", ".join(values)} for key, values in found.items()]
    columns = [
        Column("what", "", is_number=False, is_row_header=True),
        Column("value", "Version or value", is_number=False),
    ]
    return Table(
        "versions",
        "Versions and machine; several values: stages ran under different ones.",
        columns,
        rows,
    )


def _by_kind(stages: list[Stage]) -> Table:
    rows: list[Row] = []
    for kind in dict.fromkeys(str(stage.manifest["stage"]) for stage in stages):
        mine = [stage.manifest for stage in stages if stage.manifest["stage"] == kind]
        rows.append({"stage": kind, "stages": len(mine), **_sums(mine)})
    rows.append({"stage": "all", "stages": len(stages), **_sums([stage.manifest for stage in stages])})
    columns = [
        Column("stage", "Stage", is_number=False, is_row_header=True),
        Column("stages", "Runs", count),
        Column("seconds", "Wall time, summed", duration),
        Column("cpu_seconds", "CPU time", duration),
        Column("bytes", "Size", size),
    ]
    caption = (
        "Cost by kind of stage. Wall times are summed over runs; runs side by side overlap, so the study took less."
    )
    return Table("cost", caption, columns, rows)


def _sums(manifests: list[Mapping[str, Any]]) -> dict[str, float]:
    return {key: sum(m.get(key) or 0 for m in manifests) for key in ("seconds", "cpu_seconds", "bytes")}


def _each(stages: list[Stage]) -> Table:
    rows: list[Row] = []
    for stage in stages:
        m = stage.manifest
        values = {key: m.get(key) for key in ("seconds", "cpu_seconds", "bytes", "finished")}
        rows.append({"stage": f"{m['stage']}/{m['name']}", "digest": str(m["digest"])[:12], **values})
    columns = [
        Column("stage", "Stage", is_number=False, is_row_header=True),
        Column("seconds", "Wall time", duration),
        Column("cpu_seconds", "CPU time", duration),
        Column("bytes", "Size", size),
        Column("finished", "Finished (UTC)", is_number=False),
        Column("digest", "Digest", is_number=False),
    ]
    return Table("stages", "Every stage of the study, in the order of the plan.", columns, rows)
