"""What the similarity engine costs, beside its peers, on the same data in the same run.

    make bench-similarity                                                   everything (about an hour on two cores)
    .venv-peers/bin/python -m benchmarks.similarity.bench --tasks A,C --repeats 3 --threads 2
    .venv-peers/bin/python -m benchmarks.similarity.bench --quick           small sizes, printed and not written

Tasks: A all pairs of layers, exact; B minibatches; C RBF; D nearest neighbours; E from disk; F permutations; G the
choice of engine. Every call runs in a fresh process; the cases of a task take turns within each repeat, so that a busy
moment hits all of them. Writes benchmarks/results/similarity-<task>.json. Seconds are CPU seconds unless they say wall.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.apart import tell
from benchmarks.similarity import peers
from benchmarks.similarity.measure import Sizes, Task, measure_apart, measure_here, set_threads, summary
from benchmarks.similarity.tables import markdown
from benchmarks.similarity.task_choice import TASK as CHOICE
from benchmarks.similarity.task_disk import TASK as DISK
from benchmarks.similarity.task_layers import TASK as LAYERS
from benchmarks.similarity.task_minibatch import TASK as MINIBATCH
from benchmarks.similarity.task_neighbours import TASK as NEIGHBOURS
from benchmarks.similarity.task_permutations import TASK as PERMUTATIONS
from benchmarks.similarity.task_rbf import TASK as RBF
from xbridge.core.artifact import machine, versions
from xbridge.core.files import write_json

PROGRAM = ".venv-peers/bin/python -m benchmarks.similarity.bench"
RESULTS = Path(__file__).parents[1] / "results"
TASKS = {task.letter: task for task in (LAYERS, MINIBATCH, RBF, NEIGHBOURS, DISK, PERMUTATIONS, CHOICE)}


def main() -> None:
    """Run the chosen tasks and print their tables last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS), help="letters, comma-separated (default: all)")
    parser.add_argument("--quick", action="store_true", help="small sizes, one repeat; nothing is written")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", action="append", default=[], metavar="NAME=NUMBER", help="as in n=1000000")
    parser.add_argument("--only", default="", help="only cases whose name holds this, and xbridge")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(json.loads(options.child))
        return
    unknown = sorted(set(options.tasks.split(",")) - set(TASKS))
    if unknown:
        parser.error(f"no task {', '.join(unknown)}; there are {', '.join(TASKS)}")
    changed = {name: int(number) for name, _, number in (size.partition("=") for size in options.size)}
    repeats = 1 if options.quick else options.repeats
    parts = []
    for letter in options.tasks.split(","):
        task = TASKS[letter]
        sizes = {**(task.quick if options.quick else task.full), **changed}
        result = run(task, sizes, repeats, options.threads, options.only)
        if not (options.quick or options.only):
            write_json(RESULTS / f"similarity-{letter}.json", result)
        parts.append(shown(result))
    print("\n\n".join(parts))


def run(task: Task, sizes: Sizes, repeats: int, threads: int, only: str) -> dict[str, Any]:
    """All cases of a task, taking turns; what the JSON holds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task.set_up(sizes, folder)
        truths = task.truths(sizes, folder)
        cases = [case for index, case in enumerate(task.cases(sizes, folder)) if index == 0 or only in case.name]
        runs: dict[str, list[dict[str, Any]]] = {case.name: [] for case in cases}
        for turn in range(repeats):
            for case in cases:
                if turn < (case.repeats or repeats):
                    print(f"{task.letter} {turn + 1}/{repeats} {case.name}", flush=True)
                    runs[case.name].append(measure_apart(task, case.name, sizes, folder, threads))
    rows = [summary(case, runs[case.name], truths) for case in cases]
    for row in rows if task.compares else ():
        row["cpu_ratio"] = _ratio(runs[cases[0].name], runs[row["case"]], cases[0].factor, row["factor"])
    return {
        "task": task.letter,
        "title": task.title,
        "command": f"{PROGRAM} --tasks {task.letter} --repeats {repeats} --threads {threads}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "sizes": sizes,
        "threads": threads,
        "machine": machine(),
        "versions": {**versions(), **peers.installed_versions()},
        "rows": rows,
    }


def _ratio(
    ours: list[dict[str, Any]], theirs: list[dict[str, Any]], our_factor: float, their_factor: float
) -> float | None:
    """Median over the turns of their CPU seconds over ours."""
    if any("failed" in run for run in [*ours, *theirs]):
        return None
    scale = their_factor / our_factor
    return float(
        statistics.median(t["cpu_seconds"] / o["cpu_seconds"] * scale for o, t in zip(ours, theirs, strict=False))
    )


def shown(result: dict[str, Any]) -> str:
    """The table of a task."""
    sizes = ", ".join(f"{name} = {number:,}" for name, number in result["sizes"].items())
    title = f"{result['task']}. {result['title']} ({sizes}; {result['threads']} threads)"
    header = ("case", "CPU s (spread)", "of xbridge", "wall s", "extra memory", "error", "what was run")
    return f"{title}\n\n{markdown(header, [_cells(row) for row in result['rows']])}"


def _cells(row: dict[str, Any]) -> list[str]:
    if "failed" in row:
        return [row["case"], row["failed"], "", "", "", "", row["note"]]
    cpu = row["cpu_seconds"]
    return [
        row["case"],
        f"{cpu['median']:.3g} ({cpu['least']:.3g} to {cpu['most']:.3g})",
        f"{row['cpu_ratio']:.3g}" if row.get("cpu_ratio") is not None else "",
        f"{row['wall_seconds']['median']:.3g}",
        f"{row['extra_bytes'] / 1e6:,.0f} MB",
        f"{row['max_error']:.0e}" if "max_error" in row else "",
        ", ".join([row["note"] or "all", *(f"{name} {value:.3g}" for name, value in row.get("answers", {}).items())]),
    ]


def child(request: dict[str, Any]) -> None:
    """Measure one case and print it."""
    set_threads()
    folder = Path(request["folder"])
    cases = TASKS[request["task"]].cases(request["sizes"], folder)
    case = next(case for case in cases if case.name == request["case"])
    tell(measure_here(case))


if __name__ == "__main__":
    main()
