"""Strict YAML <-> frozen dataclasses, `key=value` overrides, a canonical form and its digest.

A stage's settings are one `@dataclass(frozen=True, kw_only=True) class Config`. `parse` accepts exactly its fields:
an unknown key, a wrong type or a missing value raises `ConfigError`, which names the dotted path. YAML is read with
the scalars of YAML 1.2 (stock PyYAML reads `[en, no, de]` as `['en', False, 'de']` and `3e-4` as a string).

Two field types are special:
  * `Annotated[Plugin, "xbridge.objectives"]` takes `{type: translation, ...}`: `xbridge.objectives.translation` is
    imported and the rest parsed into its `Config`; a dotted type names a module of the user's own.
  * `InputPath` is a file or folder that the stage reads: its content, not its name, enters the digest.
"""

import dataclasses
import difflib
import hashlib
import importlib
import json
import math
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import sha256_of_path

T = TypeVar("T")


class InputPath(str):
    """A path that the stage reads. In a digest it stands for the content of the file or folder."""


class InputPathOrId(InputPath):
    """A path, or where there is none of this name an id on a hub, which in a digest stands for itself."""


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A module chosen by name, and its parsed `Config`."""

    type: str
    module: str
    config: Any

    def load(self) -> types.ModuleType:
        return importlib.import_module(self.module)


def undigested(default: Any) -> Any:
    """A field that cannot change results (workers, logging, micro-batch): kept out of the digest."""
    if isinstance(default, list | dict):
        raise TypeError("use a tuple or a frozen dataclass as a default")
    return dataclasses.field(default=default, metadata={"digest": False})


# --- YAML ------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 core-schema scalars and an error for a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
_SCALARS: tuple[tuple[str, str, str, Callable[[str], Any]], ...] = (
    ("null", r"~|null|Null|NULL|", "~nN", lambda text: None),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF", lambda text: text.lower() == "true"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789", lambda text: int(text, _base(text))),
    ("float", _FLOAT, "-+.0123456789", lambda text: float(re.sub(r"\.(?=[iInN])", "", text))),
)


def _base(text: str) -> int:
    return {"0o": 8, "0x": 16}.get(text[:2], 10)


def _scalar_constructor(convert: Callable[[str], Any]) -> Callable[[_Loader, yaml.ScalarNode], Any]:
    return lambda loader, node: convert(node.value)


_Loader.yaml_implicit_resolvers = {}
for _name, _pattern, _first, _convert in _SCALARS:
    _tag = f"tag:yaml.org,2002:{_name}"
    _Loader.add_implicit_resolver(
        _tag, re.compile(f"^(?:{_pattern})$"), [*_first, ""] if _name == "null" else [*_first]
    )
    _Loader.add_constructor(_tag, _scalar_constructor(_convert))


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes what the loader above would not read back as a text, such as 1e5."""


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def dump_yaml(data: Any) -> str:
    """YAML text that `parse_yaml` reads back as the same data."""
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110))


def parse_yaml(text: str, name: str) -> Any:
    """Parse YAML text with 1.2 scalars. `name` is what an error calls the text."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader subclass)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise UserError(f"{where}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{name}: not valid YAML: {str(error).splitlines()[0]}") from None


def load_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; give a YAML file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); save the file as UTF-8") from None
    data = parse_yaml(text, str(path))
    if not isinstance(data, dict):
        raise UserError(f"{path}: the top level must be a mapping of keys to values")
    return data


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of `data` with each `a.b.0.c=value` applied; values are YAML."""
    result: dict[str, Any] = json.loads(json.dumps(data))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise UserError(f"override {override!r}: write it as key=value, for example train.steps=100")
        parent: Any = result
        steps = key.split(".")
        for depth, step in enumerate(steps):
            here = ".".join(steps[: depth + 1])
            last = depth == len(steps) - 1
            if isinstance(parent, list):
                if not step.isdecimal() or int(step) >= len(parent):
                    raise ConfigError(here, f"no such list item; the list has {len(parent)}")
                index: Any = int(step)
            elif isinstance(parent, dict):
                index = step
            else:
                raise ConfigError(here, "the value above it is not a mapping or a list")
            if last:
                parent[index] = parse_yaml(value, f"override {key}")
            elif isinstance(parent, dict) and parent.get(index) is None:
                parent[index] = {}
            parent = parent[index]
    return result


# --- mapping -> dataclass --------------------------------------------------------------------------------------


def parse(cls: type[T], data: Any, path: str = "") -> T:
    """Build the dataclass `cls` from plain data; raise `ConfigError` at the first value that does not fit."""
    if not isinstance(data, Mapping):
        raise ConfigError(path, f"expected a mapping with the keys of {cls.__name__}, got {_show(data)}")
    hints = get_type_hints(cls, include_extras=True)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise ConfigError(_join(path, key), f"unknown key{_nearest(str(key), fields)}")
    values: dict[str, Any] = {}
    for name, f in fields.items():
        if name in data:
            values[name] = _convert_value(hints[name], data[name], _join(path, name))
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise ConfigError(_join(path, name), "is required")
    try:
        return cls(**values)
    except ConfigError as error:  # raised by the dataclass' own checks, which know field names but not where they stand
        raise ConfigError(_join(path, error.path), str(error).removeprefix(f"{error.path}: ")) from None


def parse_plugin(package: str, data: Any, path: str) -> Plugin:
    """Parse `{type: name, ...}` (or just `name`) into the `Config` of module `package.name`."""
    if isinstance(data, str):
        data = {"type": data}
    if not isinstance(data, Mapping) or not isinstance(data.get("type"), str):
        raise ConfigError(path, "expected a mapping with a `type`, the name of a module")
    name = data["type"]
    module_name = name if "." in name else f"{package}.{name}"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and not (module_name + ".").startswith(error.name + "."):
            raise  # the module exists but something that it imports does not
        known = plugin_names(package)
        raise ConfigError(_join(path, "type"), f"no module {module_name}{_nearest(name, known)}") from None
    if not hasattr(module, "Config"):
        raise ConfigError(_join(path, "type"), f"{module_name} is not a plug-in: it has no Config")
    rest = {key: value for key, value in data.items() if key != "type"}
    return Plugin(type=name, module=module_name, config=parse(module.Config, rest, path))


def plugin_names(package: str) -> list[str]:
    """Names of the plug-ins in `package`, for messages: modules with a `Config` that are not stages (no `Inputs`)."""
    folder = Path(importlib.import_module(package).__path__[0])
    texts = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.py")}
    return sorted(name for name, text in texts.items() if "\nclass Config" in text and "\nclass Inputs" not in text)


def _convert_value(hint: Any, value: Any, path: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated and args[0] is Plugin:
        return parse_plugin(args[1], value, path)
    if origin is Annotated:
        return _convert_value(args[0], value, path)
    if origin in (Union, types.UnionType):
        return _convert_union(args, value, path)
    if origin is Literal:
        if value not in args:
            raise ConfigError(path, f"{_show(value)} is not one of {', '.join(map(str, args))}")
        return value
    if origin is tuple:
        return _convert_sequence(args, value, path)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(path, f"expected a mapping, got {_show(value)}")
        return {_convert_value(args[0], k, path): _convert_value(args[1], v, _join(path, k)) for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return parse(hint, value, path)  # type: ignore[arg-type]
    return _convert_scalar(hint, value, path)


def _convert_union(args: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in args:
        return None
    options = [a for a in args if a is not type(None)]
    options = [a for a in options if (get_origin(a) is tuple) == isinstance(value, list | tuple)] or options
    if len(options) == 1:
        return _convert_value(options[0], value, path)
    for option in options:
        try:
            return _convert_value(option, value, path)
        except ConfigError:
            continue
    raise ConfigError(path, f"{_show(value)} fits none of {', '.join(getattr(o, '__name__', str(o)) for o in options)}")


def _convert_sequence(args: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(path, f"expected a list, got {_show(value)}")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_convert_value(args[0], v, _join(path, i)) for i, v in enumerate(value))
    if len(value) != len(args):
        raise ConfigError(path, f"expected {len(args)} items, got {len(value)}")
    return tuple(_convert_value(a, v, _join(path, i)) for i, (a, v) in enumerate(zip(args, value, strict=True)))


def _convert_scalar(hint: Any, value: Any, path: str) -> Any:
    if hint is Any:
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is bool and isinstance(value, bool):
        return value
    if issubclass(hint, str | Path) and isinstance(value, str | Path):
        return hint(value)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", InputPath: "a path",
             InputPathOrId: "a path or an id"}  # fmt: skip
    hint_text = "; put quotes around it" if hint is str and isinstance(value, int | float | bool) else ""
    raise ConfigError(
        path, f"expected {names.get(hint, getattr(hint, '__name__', hint))}, got {_show(value)}{hint_text}"
    )


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path and str(key) else path or str(key)


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _nearest(key: str, known: Any) -> str:
    names = list(known)
    close = difflib.get_close_matches(key, names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""


# --- dataclass -> canonical form and digest --------------------------------------------------------------------


def canonical(value: Any, *, for_digest: bool = False) -> Any:
    """Plain JSON data of a config. With `for_digest`, `undigested` fields go and an `InputPath` becomes its hash."""
    if isinstance(value, Plugin):
        return {"type": value.type, **canonical(value.config, for_digest=for_digest)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: canonical(getattr(value, f.name), for_digest=for_digest)
            for f in dataclasses.fields(value)
            if not (for_digest and f.metadata.get("digest") is False)
        }
    if isinstance(value, InputPathOrId) and not Path(value).exists():
        return str(value)
    if isinstance(value, InputPath):
        return f"sha256:{sha256_of_path(Path(value))}" if for_digest else str(value)
    if isinstance(value, Mapping):
        return {str(k): canonical(v, for_digest=for_digest) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(v, for_digest=for_digest) for v in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def digest_of(*parts: Any) -> str:
    """Hex sha256 of the canonical JSON of `parts`; equal configs have equal digests whatever the key order."""
    data = [canonical(part, for_digest=True) for part in parts]
    text = json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
