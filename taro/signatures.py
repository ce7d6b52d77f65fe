"""The settings of a class, with their defaults and what its docstring says of them, read from its source: nothing is imported,
so that `--help` and the answer to a typo don't wait for torch."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from docstring_parser import parse as parse_docstring

REQUIRED, NESTED = "(required)", ""  # in place of a default: there is none, or it is that of the parts
ROOTS = ("taro", "lightning")  # whose classes are read


@dataclass(frozen=True)
class Setting:
    """One setting of a command: its dotted name, its default (as Python code where that is no plain value), and what its
    docstring says, with all values that are allowed where they are listed."""

    name: str
    default: Any
    help: str


def read_settings(place: str, prefix: str = "") -> Iterator[Setting]:
    """The parameters of the constructor of a class, `module:Class`, and those of nested dataclasses, with dots."""
    return _read(*_find(*place.split(":")), prefix, {})


def _read(module: str, found: ast.ClassDef, prefix: str, given: dict[str, ast.expr]) -> Iterator[Setting]:
    """`given`: defaults that are not those of the class."""
    parameters, helps = list(_parameters(found)), _helps(found)
    if not parameters and found.bases:
        yield from _read(*_find(module, ast.unparse(found.bases[0])), prefix, given)
    for name, annotation, default in parameters:
        help = helps.get(name, "")
        for node in ast.walk(annotation):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal" and isinstance(node.slice, ast.Tuple):
                help += f" [{', '.join(str(value.value) for value in node.slice.elts)}]"
        yield Setting(prefix + name, _value(module, given.get(name, default)), help)
        nested = _nested(module, annotation)
        if nested:
            yield from _read(*nested, f"{prefix}{name}.", _arguments(default, nested[1].name))


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
        if isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets):
            return module, node.value
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ROOTS:
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return _find(node.module, alias.name)
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


def _nested(module: str, annotation: ast.expr) -> tuple[str, ast.ClassDef] | None:
    """The dataclass that an annotation names, if it does, and its module."""
    found = [_find(module, node.id) for node in ast.walk(annotation) if isinstance(node, ast.Name)]
    return next((one for one in found if isinstance(one[1], ast.ClassDef) and _is_dataclass(one[1])), None)


def _arguments(default: ast.expr | None, name: str) -> dict[str, ast.expr]:
    """What a default sets differently in the class that it is of: `VLLMSettings(gpu_memory_utilization=0.9)`."""
    calls = [node for node in ast.walk(default or ast.Module()) if isinstance(node, ast.Call)]
    return {one.arg: one.value for call in calls if ast.unparse(call.func) == name for one in call.keywords}


def _value(module: str, default: ast.expr | None) -> Any:
    if isinstance(default, ast.Name):
        default = _find(module, default.id)[1] or default
    if default is None or isinstance(default, ast.Call):
        return REQUIRED if default is None else NESTED
    try:
        return ast.literal_eval(default)
    except ValueError:  # an expression
        return ast.unparse(default)


def _helps(of: ast.ClassDef) -> dict[str, str]:
    """What the docstrings of a class, of its constructor and of its fields say of each parameter."""
    constructors = [node for node in of.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    texts = [ast.get_docstring(node) or "" for node in (of, *constructors)]
    helps = {param.arg_name: param.description or "" for text in texts for param in parse_docstring(text).params}
    for field, following in zip(of.body, of.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            helps[field.target.id] = str(following.value.value)
    # `clip_low, clip_high: ...`
    return {name: " ".join(text.split()) for names, text in helps.items() for name in names.split(", ")}
