"""Slurm jobs: a cluster's profile and a request become one self-contained job file, which sbatch takes from stdin.

The file is a header, assignments of quoted values, and launch/job.bash. Started by launch/slurm.sh.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xbridge.core.errors import UserError
from xbridge.study.profile import Profile, load_profile

LAUNCHERS = ("srun", "torchrun", "accelerate")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One job. `items` makes it an array: task i runs `arguments` with item i behind them."""

    arguments: tuple[str, ...]
    nodes: int = 1
    gpus: int = 1
    """Per node; processes where nodes have no GPU."""
    after: tuple[str, ...] = ()
    name: str = ""
    time: str = ""
    items: tuple[str, ...] = ()
    launcher: str = "srun"
    logs: str = "logs"


def job_file(request: Request, profile: Profile, folder: Path, environ: Mapping[str, str]) -> str:
    """The text that sbatch gets. `folder` is launch/.

    `environ` gives XBRIDGE_ACCOUNT, XBRIDGE_CONTAINER (an image) and PYTHON: without it the job runs the Python that
    runs here, or in a container python3.
    """
    header = [f"#SBATCH --{option}" for option in _options(request, profile, environ)]
    body = (folder / "job.bash").read_text(encoding="utf-8")
    return "\n".join(["#!/bin/bash", *header, *_assignments(request, profile, folder, environ), "", body])


def _options(request: Request, profile: Profile, environ: Mapping[str, str]) -> list[str]:
    if profile.gpus_per_node and request.gpus > profile.gpus_per_node:
        raise UserError(f"--gpus {request.gpus}: a node of {profile.description} has {profile.gpus_per_node}")
    tasks = _tasks_per_node(request)
    name = request.name or f"xbridge-{request.arguments[0]}"
    options = [
        f"job-name={re.sub(r'[^A-Za-z0-9_.-]', '-', name)}",
        f"nodes={request.nodes}",
        f"ntasks-per-node={tasks}",
        f"cpus-per-task={profile.cpus_per_gpu * request.gpus // tasks}",
        f"time={request.time or profile.time}",
    ]
    if profile.gpus_per_node:
        options.append(f"gres={profile.gres}:{request.gpus}" if profile.gres else f"gpus-per-node={request.gpus}")
    if profile.memory_per_gpu_gb:
        options.append(f"mem={profile.memory_per_gpu_gb * request.gpus}G")
    account = environ.get("XBRIDGE_ACCOUNT", "")
    if account:
        options.append(f"account={account}{profile.account_suffix}")
    elif profile.account == "required":
        raise UserError(f"{profile.description} bills every job: set XBRIDGE_ACCOUNT to your project")
    for option in ("partition", "constraint", "qos", "hint"):
        if getattr(profile, option):
            options.append(f"{option}={getattr(profile, option)}")
    if profile.exclusive:
        options.append("exclusive")
    if request.items:
        options.append(f"array=0-{len(request.items) - 1}%{profile.max_array}")
    if request.after:
        options += [f"dependency=afterok:{':'.join(request.after)}", "kill-on-invalid-dep=yes"]
    output = "%x-%A_%a.out" if request.items else "%x-%j.out"
    options += [f"output={request.logs}/{output}", "open-mode=append", "requeue"]
    options.append(f"signal=B:USR1@{profile.lead_seconds}")
    for option in options:
        if re.search(r"\s", option):
            raise UserError(f"--{option}: must not hold spaces")
    return options


def _assignments(request: Request, profile: Profile, folder: Path, environ: Mapping[str, str]) -> list[str]:
    image = environ.get("XBRIDGE_CONTAINER", "")
    container = [word.replace("{image}", image) for word in profile.container] if image else []
    bind = request.launcher == "srun" and profile.cpu_masks
    arrays = {
        "python": [*container, environ.get("PYTHON") or ("python3" if container else sys.executable)],
        "arguments": request.arguments,
        "items": request.items,
        "modules": profile.modules,
        "srun_options": [f"--cpu-bind=mask_cpu:{','.join(profile.cpu_masks[: request.gpus])}"] if bind else [],
        "launcher": [] if request.launcher == "srun" else [str(folder / f"{request.launcher}.sh")],
    }
    numbers = {
        "gpus": request.gpus,
        "tasks_per_node": _tasks_per_node(request),
        "lead_seconds": profile.lead_seconds,
        "max_requeues": profile.max_requeues,
        "max_failures": profile.max_failures,
    }
    lines = [f"# {profile.description}"]
    variables = {**profile.environment, **({"XBRIDGE_OFFLINE": "1"} if profile.offline else {})}
    lines += [f"export {name}={_quoted_value(value)}" for name, value in variables.items()]
    lines += [f"{name}=({shlex.join(words)})" for name, words in arrays.items()]
    lines.append(f"logs={shlex.quote(request.logs)}")
    return [*lines, " ".join(f"{name}={number}" for name, number in numbers.items())]


def _tasks_per_node(request: Request) -> int:
    """Every rank is a task of srun's, or every node's agent is one."""
    return request.gpus if request.launcher == "srun" else 1


def _quoted_value(value: str) -> str:
    """`value` as one shell word in which only {job} means something: the job's id."""
    return '"$SLURM_JOB_ID"'.join(shlex.quote(part) if part else "" for part in value.split("{job}")) or "''"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the id of the submitted job, or with --dry-run the job file; return the exit code."""
    options = _parse(arguments)
    try:
        request, profile = _request(options), load_profile(options.profile, options.folder / "profiles")
        text = job_file(request, profile, options.folder, os.environ)
        if options.dry_run:
            print(text, end="")
            return 0
        Path(request.logs).mkdir(parents=True, exist_ok=True)
        print(_submit(text, test_only=options.test_only))
    except UserError as error:
        print(f"slurm.sh: {error}", file=sys.stderr)
        return 2
    return 0


def _submit(text: str, *, test_only: bool) -> str:
    if shutil.which("sbatch") is None:
        raise UserError("no sbatch here: run it on a login node of the cluster, or print the job with --dry-run")
    command = ["sbatch", *(["--test-only"] if test_only else ["--parsable"])]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(" ".join(done.stderr.split()) or f"sbatch ended with code {done.returncode}")
    return done.stderr.strip() if test_only else done.stdout.strip().split(";")[0]


def _request(options: argparse.Namespace) -> Request:
    items: tuple[str, ...] = ()
    if options.array is not None:
        items = tuple(line for line in options.array.read_text(encoding="utf-8").splitlines() if line)
        if not items:
            raise UserError(f"{options.array}: an empty list: nothing to run")
    return Request(
        arguments=tuple(options.arguments),
        nodes=options.nodes,
        gpus=options.gpus,
        after=tuple(job for job in re.split("[:,]", options.after) if job),
        name=options.name,
        time=options.time,
        items=items,
        launcher=options.launcher,
        logs=options.logs,
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="launch/slurm.sh", description="Submit a Slurm job and print its id.")
    parser.add_argument("folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--nodes", type=_positive, default=1)
    parser.add_argument("--gpus", type=_positive, default=1, help="per node; processes where nodes have no GPU")
    parser.add_argument("--after", default="", metavar="JOB[:JOB...]", help="start when these have ended well")
    parser.add_argument("--name", default="", help="name of the job (default: xbridge-COMMAND)")
    parser.add_argument("--time", default="", help="time limit (default: the profile's)")
    parser.add_argument("--array", type=Path, metavar="LIST", help="one task per line, which follows ARGS")
    parser.add_argument("--profile", default=os.environ.get("XBRIDGE_PROFILE") or "generic", help="cluster")
    parser.add_argument("--with", dest="launcher", choices=LAUNCHERS, default="srun", help="what starts the ranks")
    parser.add_argument("--logs", default="logs", help="folder of the jobs' output (default: logs)")
    parser.add_argument("--dry-run", action="store_true", help="print the job file; submit nothing")
    parser.add_argument("--test-only", action="store_true", help="let Slurm check the job; submit nothing")
    parser.add_argument("arguments", nargs="+", metavar="-- ARGS", help="xbridge's arguments")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]*", text):
        raise argparse.ArgumentTypeError(f"a whole number from 1 on, not {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
