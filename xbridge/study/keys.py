"""`xbridge config keys`: every key of a config, with type, default and the sentence that stands under its field."""

import ast
import dataclasses
import importlib
import inspect
import itertools
import textwrap
import types
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from xbridge.core.config import Plugin, canonical, plugin_names


@dataclass(frozen=True)
class Key:
    """One key: its dotted path, what it takes, its default ("required" where it has none) and what it means."""

    path: str
    type: str
    default: str
    text: str


def keys_of(cls: type[Any], prefix: str = "", default: Any = None) -> list[Key]:
    """Keys of a config dataclass, depth first; a plug-in's own keys are listed by `xbridge config keys MODULE`.

    `default`: the instance that stands for a section that is not given; its values are the defaults then.
    """
    texts = field_docstrings(cls)
    hints = get_type_hints(cls, include_extras=True)
    keys: list[Key] = []
    for field in dataclasses.fields(cls):
        path = f"{prefix}{field.name}"
        nested = _dataclass_in(hints[field.name])
        if nested is not None and nested is not Plugin:
            many = {tuple: ".0", dict: ".NAME"}.get(get_origin(hints[field.name]), "")
            keys.append(Key(path + many, "section", "", texts.get(field.name, "")))
            value = getattr(default, field.name, None) if default is not None else field.default
            keys += keys_of(nested, f"{path}{many}.", value if isinstance(value, nested) else None)
        else:
            value = _default_text(field) if default is None else _value_text(getattr(default, field.name))
            keys.append(Key(path, _type_text(hints[field.name]), value, texts.get(field.name, "")))
    return keys


def field_docstrings(cls: type[Any]) -> dict[str, str]:
    """The string that stands under each field in the class body, or in that of a class that it extends."""
    found: dict[str, str] = {}
    for base in cls.__mro__[1:]:
        if dataclasses.is_dataclass(base):
            found = {**field_docstrings(base), **found}
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    for field, text in itertools.pairwise(body):
        is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            found[field.target.id] = " ".join(str(text.value.value).split())  # type: ignore[attr-defined]
    return found


def format_keys(keys: list[Key], width: int = 100) -> str:
    """`path: type = default` and the indented explanation, a blank line between sections."""
    lines: list[str] = []
    for key in keys:
        default = f" = {key.default}" if key.default else ""
        lines.append(f"{key.path}: {key.type}{default}")
        lines += textwrap.wrap(key.text, width, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def config_class(name: str) -> type[Any]:
    """The `Config` of a plug-in by its dotted module name, e.g. xbridge.objectives.translation."""
    return importlib.import_module(name).Config  # type: ignore[no-any-return]


def _dataclass_in(hint: Any) -> Any:
    """The dataclass that a hint is or holds (alone, optional, in a list or under names), or None."""
    if dataclasses.is_dataclass(hint):
        return hint
    if get_origin(hint) is Annotated:
        return None
    return next((arg for arg in get_args(hint) if dataclasses.is_dataclass(arg)), None)


def _type_text(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated and args[0] is Plugin:
        return f"one of {', '.join(plugin_names(args[1]))} (in {args[1]}), or a module of yours"
    if origin is tuple and args[-1] is Ellipsis:
        return f"list of {_type_text(args[0])}"
    if origin is dict:
        return f"mapping to {_type_text(args[1])}"
    if origin in (Union, types.UnionType):
        return " or ".join("null" if a is type(None) else _type_text(a) for a in args)
    if str(origin) == "typing.Literal":
        return " | ".join(map(str, args))
    names = {int: "whole number", float: "number", bool: "true or false", str: "text", Any: "anything"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _default_text(field: "dataclasses.Field[Any]") -> str:
    if field.default is not dataclasses.MISSING:
        return _value_text(field.default)
    return "{}" if field.default_factory is not dataclasses.MISSING else "required"


def _value_text(value: Any) -> str:
    plain = canonical(value)
    return "null" if plain is None else str(plain).lower() if isinstance(plain, bool) else str(plain)
