"""The command `xbridge`: one subcommand per stage, and study, doctor, config.

    xbridge study run configs/studies/quickstart.yaml
    xbridge train my-arm.yaml budget.amount=2000 --out runs/my-arm

Exit codes: 0 done, 2 bad input (one line on stderr), 1 a bug of ours, 75 another rank was lost, 128 + n
stopped by signal n.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from xbridge import __version__
from xbridge.core.artifact import MANIFEST, Artifact, folder_name
from xbridge.core.config import apply_overrides, canonical, dump_yaml, parse
from xbridge.core.errors import ConfigError, Interrupted, LostProcess, UserError, user_error_of
from xbridge.core.network import settle_network
from xbridge.core.runtime import settle_environment
from xbridge.study import bundle, compare_files, stages


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    settle_environment()
    settle_network()
    options = _parse(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except LostProcess as error:
        print(f"xbridge: {error}", file=sys.stderr)
        return os.EX_TEMPFAIL
    except UserError as error:
        return _refuse(error)
    except BrokenPipeError:  # `xbridge ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        explained = user_error_of(error, "xbridge")
        if explained is None:
            raise
        return _refuse(explained)
    except Interrupted as error:
        print("xbridge: stopped; run the same command again to continue", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("xbridge: stopped; run the same command again to continue", file=sys.stderr)
        return 130


def _refuse(error: UserError) -> int:
    """Say what is wrong, and leave a mark for launch/job.bash: it must not start again what fails the same way again.

    (An exit code does not reach it: the other ranks are ended, and theirs count.)
    """
    print(f"xbridge: {error}", file=sys.stderr)
    if os.environ.get("XBRIDGE_REFUSED_FILE"):
        Path(os.environ["XBRIDGE_REFUSED_FILE"]).touch()
    return 2


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse, taking `key=value` also after options, where argparse itself gives up."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    unknown = [word for word in rest if word.startswith("-") or not hasattr(options, "overrides")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xbridge", description="Does machine translation, as continued training, help cross-lingual transfer?"
    )
    parser.add_argument("--version", action="version", version=f"xbridge {__version__}")
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # DeepSpeed's launcher adds it; LOCAL_RANK counts
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_study(commands)
    for stage, summary in stages.SUMMARIES.items():
        sub = commands.add_parser(stage, help=summary, description=f"{stage}: {summary}.")
        sub.add_argument("config", type=Path, help="YAML with the stage's settings and its `inputs`")
        sub.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the file's")
        sub.add_argument("--out", type=Path, help="folder to write (default: runs/<stage>/<name>-<digest>)")
        sub.add_argument("--dry-run", action="store_true", help="print resolved config, digest and folder; run nothing")
        sub.set_defaults(command=_run_stage, stage=stage)
    tokens = commands.add_parser("tokens", help="make a training's token store ahead of it, also in an array job")
    tokens.add_argument("config", type=Path, help="the YAML of `xbridge train`")
    tokens.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the file's")
    tokens.add_argument("--out", type=Path, help="the training's folder: its tokens lie beside (or in XBRIDGE_TOKENS)")
    tokens.add_argument("--part", default="1/1", metavar="K/N", help="tokenise this share; the last one joins them")
    tokens.set_defaults(command=_tokens)
    compare_files.add_command(commands)
    bundle.add_command(commands)
    doctor = commands.add_parser("doctor", help="what is installed and usable here, and why the rest is not")
    doctor.set_defaults(command=_doctor)
    config = commands.add_parser("config", help="look at a config file").add_subparsers(required=True, metavar="ACTION")
    show = config.add_parser("show", help="print a study or stage config with every default filled in")
    show.add_argument("config", type=Path)
    show.add_argument("overrides", nargs="*", metavar="key=value")
    show.add_argument("--stage", choices=list(stages.MODULES), help="for the config of one stage: which")
    show.set_defaults(command=_show_config)
    keys = config.add_parser("keys", help="list every key with its type, default and meaning")
    keys.add_argument("what", nargs="?", default="study", help="study (default), a stage, or a plug-in's module")
    keys.set_defaults(command=_config_keys)
    return parser


def _add_study(commands: Any) -> None:
    actions = {
        "run": (_study_run, "run what is not done yet; continue what was interrupted"),
        "plan": (_study_plan, "print the stages that a run would do"),
        "status": (_study_status, "print each stage's state, time and size"),
        "stage": (_study_stage, "run one stage, when what it reads is done; for jobs of `study run --via`"),
    }
    study = commands.add_parser("study", help="run, plan or inspect a whole study")
    sub = study.add_subparsers(required=True, metavar="ACTION")
    for name, (command, summary) in actions.items():
        action = sub.add_parser(name, help=summary, description=f"{summary}.")
        action.add_argument("config", type=Path, help="study YAML")
        if name == "stage":
            action.add_argument("node", help="a stage as `study plan` prints it, for example train/base")
        action.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the file's")
        action.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all studies (default: runs)")
        if name == "run":
            action.add_argument("--dry-run", action="store_true", help="print what would be done; run nothing")
            action.add_argument("--via", type=Path, metavar="LAUNCHER", help="a script of launch/ that runs each stage")
        action.set_defaults(command=command)


def _study_run(options: argparse.Namespace) -> int:
    if options.via is not None:
        return _study_run_via(options)
    if options.dry_run:
        return _study_plan(options)
    from xbridge.study import run

    started = time.monotonic()
    plan = _plan(options)
    try:
        seconds = run.run_study(plan, dump_yaml(plan.data))
    except run.StageFailed as error:
        print(f"xbridge: internal error in {error}", file=sys.stderr)
        return 1
    _print_summary(plan, seconds, run.elapsed(started))
    return 0


def _study_run_via(options: argparse.Namespace) -> int:
    from xbridge.study.via import run_via

    plan = _plan(options)
    jobs = run_via(plan, dump_yaml(plan.data), options.via, options.runs, dry_run=options.dry_run)
    if jobs:
        print(f"{len(jobs)} jobs: {' '.join(jobs)}\n`xbridge study status {options.config}` shows how they are doing")
    elif all(node.artifact.is_complete() for node in plan.nodes.values()):
        _print_summary(plan, {}, "0 s")
    elif not options.dry_run:
        print("nothing to start: all that is not done is queued or running")
    return 0


def _study_stage(options: argparse.Namespace) -> int:
    from xbridge.study.via import run_stage

    node = run_stage(_plan(options), options.node)
    if settle_environment().rank == 0:
        print(node.artifact.path)
    return 0


def _print_summary(plan: Any, seconds: dict[str, float], elapsed: str) -> None:
    from xbridge.report.tables import headline
    from xbridge.study.run import format_seconds, seconds_by_stage
    from xbridge.study.status import table

    ran = seconds_by_stage(plan, seconds)
    if ran:
        rows = [(stage, str(count), format_seconds(total)) for stage, (count, total) in ran.items()]
        print(table(("stage", "runs", "time"), rows, right=(1, 2)))
        print()
    transfer = plan.nodes.get("transfer/transfer")
    if transfer is not None:
        print(headline(transfer.artifact.path))
        print()
    print(f"{len(plan.nodes)} stages, {sum(s > 0 for s in seconds.values())} run now, in {elapsed}")
    print(f"report: {plan.nodes['report/report'].artifact.path / 'index.html'}")


def _study_plan(options: argparse.Namespace) -> int:
    from xbridge.study.status import table

    plan = _plan(options)
    rows = [
        (n.id, n.artifact.digest[:12], "done" if n.artifact.is_complete() else "to run") for n in plan.nodes.values()
    ]
    print(table(("stage", "digest", "state"), rows))
    return 0


def _study_status(options: argparse.Namespace) -> int:
    from xbridge.study.status import status_rows, table

    rows = status_rows(_plan(options))
    print(table(("stage", "state", "time", "size"), rows, right=(2, 3)))
    done = sum(row[1] == "done" for row in rows)
    print(f"{done} of {len(rows)} stages done")
    return 0


def _plan(options: argparse.Namespace) -> Any:
    from xbridge.study.config import load_study
    from xbridge.study.plan import Plan

    study, data = load_study(options.config, options.overrides)
    return Plan(study, data, options.runs / study.study)


def _run_stage(options: argparse.Namespace) -> int:
    from xbridge.study.config import load_extended

    data = apply_overrides(load_extended(options.config), options.overrides)
    config, inputs, digests = _parse_stage(options.stage, data)
    digest = stages.stage_digest(options.stage, config, digests)
    name = options.config.stem
    path = options.out or Path("runs") / options.stage / folder_name(name, digest)
    artifact = Artifact(stage=options.stage, name=name, digest=digest, path=path, labels=data.get("labels", {}))
    if options.dry_run:
        print(dump_yaml({"inputs": canonical(inputs), **canonical(config)}), end="")
        print(f"# digest {digest}\n# folder {path}")
        return 0
    node = stages.Node(
        id=f"{options.stage}/{name}", artifact=artifact, config=config, inputs=canonical(inputs), parents=digests
    )
    if artifact.is_complete():
        print(f"{path}: complete already")
        return 0
    if (path / MANIFEST).exists():
        raise UserError(f"{path}: holds a finished stage of other settings; choose another --out, or delete it first")
    stages.execute(node)
    if settle_environment().rank == 0:
        print(path)
    return 0


def _tokens(options: argparse.Namespace) -> int:
    from xbridge.study.config import load_extended
    from xbridge.training.token_command import build_tokens, parse_part

    part = parse_part(options.part)
    config, inputs, _ = _parse_stage("train", apply_overrides(load_extended(options.config), options.overrides))
    for folder in build_tokens(config, inputs, options.out or Path("runs") / "train" / options.config.stem, part):
        print(folder)
    return 0


def _parse_stage(stage: str, data: dict[str, Any]) -> tuple[Any, Any, dict[str, str]]:
    """Config, Inputs and the inputs' digests of a stage's own YAML."""
    data = dict(data)
    written_for = data.pop("stage", stage)
    if written_for != stage:
        raise ConfigError("stage", f"this file is for `xbridge {written_for}`")
    if "study" in data and stage != "report":
        raise ConfigError("study", "this is a study; use `xbridge study run`")
    labels = data.pop("labels", {})
    if not isinstance(labels, dict):
        raise ConfigError("labels", "expected a mapping")
    inputs, digests = stages.parse_inputs(stage, data.pop("inputs", {}))
    return parse(stages.load_stage(stage).Config, data), inputs, digests


def _show_config(options: argparse.Namespace) -> int:
    from xbridge.study.config import is_study, load_extended, load_study
    from xbridge.study.plan import Plan

    if is_study(options.config):
        study, data = load_study(options.config, options.overrides)
        plan = Plan(study, data, Path("runs") / study.study)
        resolved = {node.id: canonical(node.config) for node in plan.nodes.values()}
        print(dump_yaml({**canonical(study), "stages": resolved}), end="")
        return 0
    data = apply_overrides(load_extended(options.config), options.overrides)
    stage = options.stage or data.get("stage")
    if stage not in stages.MODULES:
        raise UserError(f"{options.config}: which stage is it for? add `stage: NAME` or --stage NAME")
    data = {key: value for key, value in data.items() if key not in ("stage", "inputs", "labels")}
    print(dump_yaml(canonical(parse(stages.load_stage(stage).Config, data))), end="")
    return 0


def _config_keys(options: argparse.Namespace) -> int:
    from xbridge.study import keys
    from xbridge.study.config import Study

    what: str = options.what
    if what == "study":
        cls: type[Any] = Study
    elif what in stages.MODULES:
        cls = stages.load_stage(what).Config
    elif "." in what:
        try:
            cls = keys.config_class(what)
        except (ModuleNotFoundError, AttributeError):
            raise UserError(f"{what}: no module of this name with a Config") from None
    else:
        raise UserError(f"{what}: give study, a stage ({', '.join(stages.MODULES)}) or a module, e.g. "
                        "xbridge.objectives.translation")  # fmt: skip
    print(keys.format_keys(keys.keys_of(cls)))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from xbridge.study.doctor import report

    print(report())
    return 0
