"""`xbridge bundle STUDY --out DIR`: all that a study needs on a machine without a network, in one folder.

study.yaml          the study with everything it extends, and with paths into this folder
files/ models/      what it reads, from here, from the hub's cache or from our own
sacrebleu/          the pieces of spBLEU, where the study scores by it
requirements.txt    the Python packages that it ran with; wheels/ with --wheels
manifest.json       every file's size and sha256, written last: `xbridge bundle check DIR` compares

Nothing is fetched: what is missing is named with the command that fetches it. No file of a model that needs pickle is
taken, no link is, and a manifest cannot name a file outside its folder.
"""

import argparse
import re
import shutil
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from xbridge import __version__
from xbridge.core.config import dump_yaml
from xbridge.core.errors import UserError
from xbridge.core.files import read_json, sha256_of_path, write_json, write_text
from xbridge.study.needs import Need, check_all_here, needs_of
from xbridge.study.plan import Plan

MANIFEST = "manifest.json"
SACREBLEU = "sacrebleu"  # what $SACREBLEU must name there: the folder where sacrebleu looks for spBLEU's pieces
PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack", ".ot"}


def add_command(commands: Any) -> None:
    """Declare the command's arguments."""
    text = "collect what a study needs on a machine without a network, or check what arrived there"
    sub = commands.add_parser("bundle", help=text, description=f"{text}: bundle STUDY --out DIR | bundle check DIR")
    sub.add_argument("what", nargs="+", metavar="STUDY | check DIR", help="study YAML; or `check` and a folder")
    sub.add_argument("--out", type=Path, help="folder to make")
    sub.add_argument("--wheels", type=Path, help="folder of Python packages to take along")
    sub.set_defaults(command=_bundle, overrides=[])


def _bundle(options: argparse.Namespace) -> int:
    from xbridge.study.config import load_study

    if options.what[0] == "check":
        if len(options.what) != 2:
            raise UserError("bundle check: give the one folder to check")
        folder = Path(options.what[1])
        count = check(folder)
        print(f"{folder}: {count} files as they were")
        pieces = f"SACREBLEU={SACREBLEU} " if (folder / SACREBLEU).is_dir() else ""
        print(f"run: cd {folder} && {pieces}XBRIDGE_OFFLINE=1 xbridge study run study.yaml")
        return 0
    if options.out is None:
        raise UserError("bundle: give the folder to make with --out")
    study, data = load_study(Path(options.what[0]), [*options.what[1:], *options.overrides])
    plan = Plan(study, data, Path("runs") / study.study)
    count = make(plan, options.out, wheels=options.wheels)
    print(f"{options.out}: {count} files; copy it, then there: xbridge bundle check {options.out.name}")
    return 0


def make(plan: Plan, out: Path, *, wheels: Path | None = None) -> int:
    """Write the bundle of a plan's study; return the number of files. `UserError` where something is missing."""
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty; give a new folder")
    check_all_here(plan)
    requirements = installed_requirements()
    if wheels is not None:
        _check_wheels(requirements, wheels)
    out.mkdir(parents=True, exist_ok=True)
    places: dict[tuple[str, str], str] = {}
    for number, need in enumerate(needs_of(plan)):
        places[need.kind, need.name] = place = _place(number, need)
        _copy_need(need, out / place)
    write_text(out / "study.yaml", dump_yaml(_rewritten(plan, places)))
    write_text(out / "requirements.txt", "".join(f"{name}=={version}\n" for name, version in requirements.items()))
    if wheels is not None:
        _copy_tree(wheels, out / "wheels", skip=set())
    files = {file.relative_to(out).as_posix(): file for file in sorted(out.rglob("*")) if file.is_file()}
    entries = {name: {"bytes": file.stat().st_size, "sha256": sha256_of_path(file)} for name, file in files.items()}
    items = [{"kind": kind, "name": name, "place": place} for (kind, name), place in places.items()]
    write_json(out / MANIFEST, {"study": plan.study.study, "xbridge": __version__, "items": items, "files": entries})
    return len(entries)


def check(folder: Path) -> int:
    """Compare a bundle with its manifest; return the number of files. `UserError` at the first difference."""
    if not (folder / MANIFEST).is_file():
        raise UserError(f"{folder}: not a bundle, or not all of it has arrived (no {MANIFEST})")
    entries = read_json(folder / MANIFEST)["files"]
    root = folder.resolve()
    for name, entry in entries.items():
        parts = PurePosixPath(name).parts
        path = folder / name
        if PurePosixPath(name).is_absolute() or ".." in parts or not path.resolve().is_relative_to(root):
            raise UserError(f"{folder / MANIFEST}: names {name!r}, which is outside the bundle; do not use this bundle")
        if not path.is_file() or path.is_symlink():
            raise UserError(f"{path}: missing; copy the bundle again")
        if path.stat().st_size != entry["bytes"] or sha256_of_path(path) != entry["sha256"]:
            raise UserError(f"{path}: truncated or changed on the way; copy it again")
    extra = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - set(entries) - {MANIFEST}
    extra = {name for name in extra if not name.startswith("runs/")}
    if extra:
        raise UserError(f"{folder / min(extra)}: is not in the bundle's manifest; do not use what was added")
    return len(entries)


def installed_requirements() -> dict[str, str]:
    """Name -> version of xbridge's dependencies and theirs, extras included, as installed here, without local parts."""
    from packaging.requirements import Requirement

    found: dict[str, str] = {}
    queue = [("xbridge-mt", frozenset({"scale", "study", "report"}))]
    while queue:
        name, extras = queue.pop()
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        for line in distribution.requires or ():
            requirement = Requirement(line)
            wanted = requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)
            )
            key = re.sub(r"[-_.]+", "-", requirement.name).lower()
            if wanted and key not in found and key != "xbridge-mt":
                try:
                    found[key] = metadata.version(key).partition("+")[0]
                except metadata.PackageNotFoundError:
                    continue
                queue.append((key, frozenset(requirement.extras)))
    return dict(sorted(found.items()))


def _check_wheels(requirements: Mapping[str, str], folder: Path) -> None:
    names = [file.name.lower().replace("-", "_").replace(".", "_") for file in folder.iterdir()]
    for name, version in requirements.items():
        start = f"{name}-{version}".replace("-", "_").replace(".", "_")
        if not any(file.startswith(start) for file in names):
            command = f"python -m pip download --dest {folder} {name}=={version}"
            raise UserError(f"{folder}: has no {name} {version}; fetch it with: {command}")


def _place(number: int, need: Need) -> str:
    if need.kind == "pieces":
        return f"{SACREBLEU}/models/{need.name}"
    folder = "models" if need.kind == "model" else "files"
    name = need.name.replace("/", "--") if need.kind in ("model", "dataset") else Path(need.name).name
    return f"{folder}/{number:02d}-{re.sub(r'[^A-Za-z0-9_.-]', '-', name)}"


def _copy_need(need: Need, to: Path) -> None:
    assert need.path is not None
    if need.kind == "dataset":
        from xbridge.data.sources.hub import load

        load(need.config).save_to_disk(str(to))
    elif need.kind == "model":
        _copy_tree(need.path, to, skip=PICKLED)
        if not any(to.rglob("*.safetensors")) and any(file.suffix in PICKLED for file in need.path.rglob("*")):
            raise UserError(f"{need.name}: has no safetensors weights, only pickled ones, which a bundle does not take")
    elif need.path.is_dir():
        _copy_tree(need.path, to, skip=set())
    else:
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(need.path, to)


def _copy_tree(source: Path, to: Path, *, skip: set[str]) -> None:
    """Copy regular files by content: what a link in the hub's cache leads to, and never the link."""
    for file in sorted(source.rglob("*")):
        if file.is_file() and file.suffix not in skip:
            target = to / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def _rewritten(plan: Plan, places: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """The study's data with the places in the bundle instead of paths, ids and downloads."""
    names = {name: place for (kind, name), place in places.items() if kind in ("path", "model")}
    data = _replaced(plan.data, names)
    sources = data.get("corpus", {}).get("sources", [])
    for index, source in enumerate(sources):
        mapping = {"type": source} if isinstance(source, str) else source
        if mapping.get("type") == "hub" and ("dataset", mapping.get("id")) in places:
            mapping = {**mapping, "id": None, "revision": None, "folder": places["dataset", mapping["id"]]}
        if mapping.get("type") == "homeassistant" and not mapping.get("wheel"):
            wheels = [place for (kind, _), place in places.items() if kind == "wheel"]
            mapping = {**mapping, "wheel": wheels[0]}
        sources[index] = mapping
    return data  # type: ignore[no-any-return]


def _replaced(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _replaced(item, names) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_replaced(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value
