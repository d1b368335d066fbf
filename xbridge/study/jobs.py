"""<study>/jobs.json: which job of the cluster does which stage, and what the queue says of it."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from xbridge.core.errors import UserError
from xbridge.core.files import read_json, write_json
from xbridge.study.plan import Plan
from xbridge.study.stages import Node


class Jobs:
    """The jobs of one study, newest last. A task of an array is named as Slurm does: 12_3."""

    def __init__(self, folder: Path):
        self._path = folder / "jobs.json"
        self._tasks: dict[str, dict[str, str]] = read_json(self._path) if self._path.exists() else {}

    def add(self, job: str, nodes: Sequence[Node]) -> None:
        """Record that `job` does `nodes`, in this order where it is an array."""
        for index, node in enumerate(nodes):
            task = job if len(nodes) == 1 else f"{job}_{index}"
            self._tasks[node.id] = {"job": task, "digest": node.artifact.digest}
        write_json(self._path, self._tasks)

    def queued(self, plan: Plan) -> dict[str, str]:
        """Node id -> job, of stages that a job waits to do or is doing; `UserError` where nobody can say."""
        unfinished = self._unfinished(plan)
        live = live_jobs() if unfinished else {}
        if live is None:
            node, job = next(iter(unfinished.items()))
            raise UserError(f"{node}: job {job} may be at work on it, and squeue does not answer here; try again later")
        return {node: job for node, job in unfinished.items() if job in live}

    def states(self, plan: Plan) -> dict[str, str]:
        """Node id -> `queued (job 7)`, `running (job 7)` or `failed (job 7)`, of stages that are not complete."""
        unfinished = self._unfinished(plan)
        live = live_jobs() if unfinished else {}
        if live is None:
            return {node: f"submitted (job {job})" for node, job in unfinished.items()}
        words = {"PENDING": "queued", "": "failed"}
        return {node: f"{words.get(live.get(job, ''), 'running')} (job {job})" for node, job in unfinished.items()}

    def check_none_queued(self, plan: Plan) -> None:
        """`UserError` where jobs of this study could write what is about to be run here."""
        queued = self.queued(plan)
        if queued:
            ids = " ".join(sorted({job.partition("_")[0] for job in queued.values()}))
            raise UserError(f"jobs of this study are queued or running; wait for them, or: scancel {ids}")

    def _unfinished(self, plan: Plan) -> dict[str, str]:
        found = {}
        for node in plan.nodes.values():
            task = self._tasks.get(node.id)
            if task and task["digest"] == node.artifact.digest and not node.artifact.is_complete():
                found[node.id] = task["job"]
        return found


def live_jobs() -> dict[str, str] | None:
    """Job or array task -> state, of everything of this user's that is not over; None where no queue answers."""
    if shutil.which("squeue") is None:
        return None
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i %T"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    return {job: state for job, _, state in (line.partition(" ") for line in done.stdout.splitlines())}
