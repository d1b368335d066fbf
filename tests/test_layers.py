"""Imports run one way. The table is the architecture; an edge outside it, or a cycle, fails here."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "xbridge"
ALLOWED = {
    "core": set(),
    "ops": set(),
    "data": {"core", "ops"},
    "models": {"core", "data"},
    "objectives": {"core", "ops", "data", "models"},
    "activations": {"core", "ops", "data", "models", "similarity"},
    "training": {"core", "ops", "data", "models", "objectives"},
    "tasks": {"core", "ops", "data", "models", "objectives", "training", "activations"},
    "similarity": {"core", "ops"},
    "analysis": {"core", "ops", "similarity", "activations"},
    "report": {"core"},
}
LIGHT_PARTS = ("core", "ops", "similarity", "analysis", "report")
MODULES = sorted(PACKAGE.rglob("*.py"))


def part_of(path):
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else None


def imports_of(path):
    """Names of all modules that a file imports, lazily or not."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def root_of(name):
    return name.split(".")[0]


@pytest.mark.parametrize("path", [p for p in MODULES if part_of(p) in ALLOWED], ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_stay_inside_the_table(path):
    part = part_of(path)
    for name in imports_of(path):
        pieces = name.split(".")
        if pieces[0] == "xbridge" and len(pieces) > 1 and (PACKAGE / pieces[1]).is_dir():
            assert pieces[1] == part or pieces[1] in ALLOWED[part], f"{part} may not import {name}"
        if part == "analysis" and name.startswith("xbridge.activations."):
            assert name.startswith("xbridge.activations.store"), "analysis reads activations from disk only"


@pytest.mark.parametrize("part", LIGHT_PARTS)
def test_analysis_and_report_need_neither_transformers_nor_deepspeed(part):
    for path in (PACKAGE / part).rglob("*.py"):
        heavy = set(map(root_of, imports_of(path))) & {"transformers", "accelerate", "deepspeed", "datasets"}
        assert not heavy, f"{path}: {heavy}"


def test_only_zero_imports_deepspeed():
    importers = {p.relative_to(PACKAGE).as_posix() for p in MODULES if "deepspeed" in map(root_of, imports_of(p))}
    assert importers <= {"training/zero.py"}


def test_no_import_cycle_between_modules():
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in MODULES}
    graph = {name: {n for n in imports_of(p) if n in names and n != name} for name, p in names.items()}
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        path.append(name)
        for other in graph[name]:
            visit(other)
        path.pop()
        done.add(name)

    for name in graph:
        visit(name)


def test_no_module_is_longer_than_400_lines():
    long = {p.name: n for p in MODULES if (n := len(p.read_text(encoding="utf-8").splitlines())) > 400}
    assert not long


def is_overload(node):
    return any(isinstance(d, ast.Name) and d.id == "overload" for d in node.decorator_list)


def test_every_public_function_and_class_has_a_docstring():
    missing = []
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documented = [tree] if path.name != "__init__.py" else []
        documented += [
            node
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
            and not (node.name.startswith("_") or node.name == "Inputs" or is_overload(node))
        ]
        missing += [
            f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"
            for node in documented
            if not ast.get_docstring(node)
        ]
    assert not missing


def test_nothing_loads_pickle():
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert "import pickle" not in text, path
        if "torch.load(" in text:
            assert "weights_only=True" in text, path
