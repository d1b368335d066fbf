"""Run a plan through a launcher of launch/: stages become jobs that wait for the jobs of their parents.

Trainings, and whatever asks for more than one GPU, are jobs of their own. Of the rest, all stages of one kind and depth
are one array: they wait together for all that any of them needs. <study>/jobs.json says which job does which stage.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from xbridge.core.config import digest_of
from xbridge.core.console import log
from xbridge.core.errors import UserError
from xbridge.core.files import locked, write_text
from xbridge.core.network import is_offline
from xbridge.study.config import Resources
from xbridge.study.jobs import Jobs
from xbridge.study.needs import check_all_here
from xbridge.study.plan import Plan
from xbridge.study.profile import load_profile
from xbridge.study.stages import Node

MAX_TASKS = 500  # Slurm's own limit is 1000 by default


@dataclass(frozen=True)
class Batch:
    """Stages that one call of the launcher starts, all of one kind."""

    nodes: tuple[Node, ...]
    resources: Resources

    @property
    def stage(self) -> str:
        return self.nodes[0].stage


def run_via(plan: Plan, study_text: str, launcher: Path, runs: Path, *, dry_run: bool = False) -> list[str]:
    """Start what is neither complete nor queued; return the ids of the new jobs (none where the launcher blocks).

    With `dry_run`, print what the launcher would start, with the names job1, job2 ... for the jobs' ids.
    """
    launcher = _checked(launcher)
    if _offline(launcher):
        check_all_here(plan)
    plan.folder.mkdir(parents=True, exist_ok=True)
    with locked(plan.folder / ".lock", "works on this study"):
        jobs = Jobs(plan.folder)
        queued = jobs.queued(plan)
        ahead = {node: job.partition("_")[0] for node, job in queued.items()}
        study = plan.folder / "submitted" / f"{digest_of(study_text)[:12]}.yaml"
        if not dry_run:
            write_text(study, study_text)
            write_text(plan.folder / "study.yaml", study_text)
            plan.write_lock()
        started: list[str] = []
        for number, batch in enumerate(batches(plan, set(ahead)), start=1):
            after = sorted({ahead[parent] for node in batch.nodes for parent in node.parents if parent in ahead})
            printed = _launch(launcher, batch, study, runs, plan, after, dry_run=dry_run)
            if dry_run:
                print(f"# job{number}: {', '.join(node.id for node in batch.nodes)}\n{printed}")
                ahead |= {node.id: f"job{number}" for node in batch.nodes}
                continue
            job = (printed.split() or [""])[-1]
            if re.fullmatch("[0-9]+", job):
                started.append(job)
                ahead |= {node.id: job for node in batch.nodes}
                jobs.add(job, batch.nodes)
                log(f"job {job}", stages=len(batch.nodes), first=batch.nodes[0].id, after=",".join(after) or "none")
            else:
                _check_done(batch.nodes)
    return started


def batches(plan: Plan, queued: set[str]) -> Iterator[Batch]:
    """The stages left to do, parents before children."""
    depth: dict[str, int] = {}
    for node in plan.nodes.values():
        depth[node.id] = 1 + max((depth[parent] for parent in node.parents), default=0)
    groups: dict[tuple[int, str, str], list[Node]] = {}
    for node in plan.nodes.values():
        if node.id in queued or node.artifact.is_complete():
            continue
        resources = plan.study.resources.get(node.stage, Resources())
        alone = node.stage == "train" or resources.num_ranks > 1
        groups.setdefault((depth[node.id], node.stage, node.id if alone else ""), []).append(node)
    for _, nodes in sorted(groups.items(), key=lambda group: group[0][0]):  # stable: the plan's order within a depth
        for first in range(0, len(nodes), MAX_TASKS):
            part = nodes[first : first + MAX_TASKS]
            yield Batch(tuple(part), plan.study.resources.get(part[0].stage, Resources()))


def _launch(
    launcher: Path, batch: Batch, study: Path, runs: Path, plan: Plan, after: Sequence[str], *, dry_run: bool
) -> str:
    """Call the launcher for a batch; return what it printed."""
    resources = batch.resources
    command = [str(launcher), "--nodes", str(resources.nodes), "--gpus", str(resources.gpus)]
    command += ["--name", f"{plan.study.study}-{batch.stage}", "--logs", str(plan.folder / "logs")]
    command += ["--after", ":".join(after)] if after else []
    command += ["--time", resources.time] if resources.time else []
    command += ["--dry-run"] if dry_run else []
    arguments = ["--", "study", "stage", "--runs", str(runs), str(study)]
    if len(batch.nodes) == 1:
        return _call([*command, *arguments, batch.nodes[0].id], batch)
    with tempfile.NamedTemporaryFile("w", suffix=".list", encoding="utf-8") as listing:
        listing.write("".join(f"{node.id}\n" for node in batch.nodes))
        listing.flush()
        return _call([*command, "--array", listing.name, *arguments], batch)


def _call(command: Sequence[str], batch: Batch) -> str:
    environ = {"PYTHON": sys.executable, **os.environ}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as process:  # waits also on Ctrl-C
        printed, _ = process.communicate()
    if process.returncode:
        names = batch.nodes[0].id + (f" and {len(batch.nodes) - 1} more" if len(batch.nodes) > 1 else "")
        raise UserError(f"{names}: {command[0]} ended with code {process.returncode}: {shlex.join(command)}")
    return printed


def _checked(launcher: Path) -> Path:
    if not launcher.is_file() or not os.access(launcher, os.X_OK):
        raise UserError(f"--via {launcher}: no such launcher; give a script of launch/, for example launch/slurm.sh")
    return launcher.resolve()


def _offline(launcher: Path) -> bool:
    """Whether the jobs will reach no network: it was refused here, or the cluster's profile says so."""
    profile = os.environ.get("XBRIDGE_PROFILE")
    return is_offline() or (profile is not None and load_profile(profile, launcher.parent / "profiles").offline)


def _check_done(nodes: Sequence[Node]) -> None:
    for node in nodes:
        if not node.artifact.is_complete():
            raise UserError(f"{node.id}: the launcher printed no job id and the stage is not done")


def run_stage(plan: Plan, node_id: str) -> Node:
    """The node, after its run: what a job of `run_via` does. Does nothing where it is complete."""
    from xbridge.study.stages import execute

    node = plan.nodes.get(node_id)
    if node is None:
        raise UserError(f"{node_id}: no such stage in {plan.study.study}; `xbridge study plan` lists them")
    waiting = [parent for parent in node.parents if not plan.nodes[parent].artifact.is_complete()]
    if waiting and not node.artifact.is_complete():
        raise UserError(f"{node_id}: needs {waiting[0]}, which is not done yet")
    execute(node)
    return node
