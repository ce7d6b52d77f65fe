"""The settings of a class, with their defaults and what its docstring says of them, read from its source: nothing is imported,
so that `--help` and the answer to a typo don't wait for torch."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from docstring_parser import parse as parse_docstring

REQUIRED = "required"
ROOTS = ("taro", "lightning")  # whose classes are read
RANGES = "taro.ranges"  # the module of numbers with a range
PLAIN = {"str", "int", "float", "bool", "None", "Optional", "Union"}  # types with nothing below them


@dataclass(frozen=True)
class Setting:
    """One setting of a command."""

    name: str
    """Dotted, as its flag."""
    default: str
    """As Python code; REQUIRED where there is none."""
    choices: tuple[str, ...]
    """All values that are allowed, where they are listed."""
    help: str
    """What its docstring says."""
    is_open: bool
    """Its value decides what may stand below its name: a mapping, or an object of any class."""


def read_settings(place: str, prefix: str = "", skip: Sequence[str] = ()) -> list[Setting]:
    """
    Args:
        place: `module:Class`; the parameters of its constructor, those of nested dataclasses with dots.
        prefix: of all names.
        skip: parameters to leave out.
    """
    return [setting for setting in _read(*place.split(":"), prefix, {}) if setting.name.removeprefix(prefix) not in skip]


def _read(module: str, name: str, prefix: str, given: dict[str, str]) -> Iterator[Setting]:
    module, found = _find(module, name)
    if not isinstance(found, ast.ClassDef):
        raise LookupError(f"{module}:{name} is no class")
    parameters = list(_parameters(found))
    if not parameters and found.bases:
        yield from _read(module, ast.unparse(found.bases[0]), prefix, given)
        return
    helps = _helps(found)
    for parameter, annotation, default in parameters:
        named, overrides = prefix + parameter, {}
        nested = _nested(module, annotation)
        if nested is not None and default is not None:
            overrides = _overrides(default, nested[1])
        shown = REQUIRED if default is None else given.get(parameter, _shown(module, default))
        below = list(_read(*nested, f"{named}.", overrides)) if nested else []
        plain = all(_is_plain(module, node.id) for node in ast.walk(annotation) if isinstance(node, ast.Name))
        choices = _choices(annotation)
        yield Setting(named, shown, choices, helps.get(parameter, ""), not below and not plain and not choices)
        yield from below


@cache
def _tree(module: str) -> ast.Module:
    root, *rest = module.split(".")
    found = importlib.util.find_spec(root)  # imports nothing, as it would for a submodule
    path = Path(found.submodule_search_locations[0], *rest)
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def _find(module: str, name: str) -> tuple[str, ast.AST | None]:
    """The class or the value behind a name, and the module that has it; also where it is imported from there."""
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.Assign) and name in [ast.unparse(target) for target in node.targets]:
            return module, node.value
        if isinstance(node, ast.ImportFrom) and name in [alias.asname or alias.name for alias in node.names]:
            if node.module.split(".")[0] not in ROOTS:
                break
            (original,) = [alias.name for alias in node.names if name == (alias.asname or alias.name)]
            return _find(node.module, original)
    return module, None


def _parameters(of: ast.ClassDef) -> Iterator[tuple[str, ast.expr, ast.expr | None]]:
    """Name, type and default of each parameter of the constructor; none where a base class has it."""
    for node in of.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            given = node.args.args[1:]
            defaults = [None] * (len(given) - len(node.args.defaults)) + node.args.defaults
            pairs = [*zip(given, defaults, strict=True), *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
            yield from ((arg.arg, arg.annotation or ast.Name("Any"), default) for arg, default in pairs)
        elif isinstance(node, ast.AnnAssign) and _is_dataclass(of):
            yield node.target.id, node.annotation, node.value


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any(ast.unparse(decorator).startswith("dataclass") for decorator in node.decorator_list)


def _is_plain(module: str, name: str) -> bool:
    return name in PLAIN or _find(module, name)[0] == RANGES


def _nested(module: str, annotation: ast.expr) -> tuple[str, str] | None:
    """The dataclass that an annotation names, if it does, and its module."""
    for node in ast.walk(annotation):
        if isinstance(node, ast.Name) and node.id not in PLAIN:
            owner, found = _find(module, node.id)
            if isinstance(found, ast.ClassDef) and _is_dataclass(found):
                return owner, node.id
    return None


def _overrides(default: ast.expr, name: str) -> dict[str, str]:
    """What a default sets differently in the class that it is of: `VLLMSettings(gpu_memory_utilization=0.9)`."""
    calls = [node for node in ast.walk(default) if isinstance(node, ast.Call) and ast.unparse(node.func) == name]
    return {keyword.arg: ast.unparse(keyword.value) for call in calls for keyword in call.keywords}


def _shown(module: str, default: ast.expr) -> str:
    if isinstance(default, ast.Name):
        _, value = _find(module, default.id)
        default = value if isinstance(value, ast.Constant) else default
    if isinstance(default, ast.Call):
        return ""  # its parts are listed
    return ast.unparse(default)


def _choices(annotation: ast.expr) -> tuple[str, ...]:
    for node in ast.walk(annotation):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
            return tuple(str(value) for value in _constants(node.slice))
    return ()


def _constants(node: ast.AST) -> Iterable[Any]:
    return (part.value for part in ast.walk(node) if isinstance(part, ast.Constant))


def _helps(of: ast.ClassDef) -> dict[str, str]:
    """What the docstrings of a class, of its constructor and of its fields say of each parameter."""
    constructors = [node for node in of.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    texts = [ast.get_docstring(node) for node in (of, *constructors)]
    params = [param for text in texts if text for param in parse_docstring(text).params]
    helps = {param.arg_name: " ".join((param.description or "").split()) for param in params}
    for field, following in zip(of.body, of.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            helps[field.target.id] = " ".join(str(following.value.value).split())
    return {name: text for names, text in helps.items() for name in names.split(", ")}  # `clip_low, clip_high: ...`
