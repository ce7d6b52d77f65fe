"""What jsonargparse says of a value that does not fit, in one line and without Python's way to name types."""

from __future__ import annotations

import re

NAMES = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "str": "text",
    "NoneType": "null",
    "dict": "a mapping, {name: value}",
    "list": "a list",
    "tuple": "a list",
    "Iterable": "a list",
    "Sequence": "a list",
    "Path": "a path",
}


def one_line(message: str) -> str:
    """The setting, its value or the part of it that is wrong, and what is allowed, of a message that says them; any other
    without its line breaks."""
    return _wrong_value(message) or _flat(re.sub(r'Parser key "([^"]+)":', r"\1:", message))


def _wrong_value(message: str) -> str | None:
    out_of_range = re.search(r"Not of type \w+: (.*)\bmust be (.*)", message)  # `taro.ranges`
    if out_of_range:
        given = re.search(r"Given value: (.*)", message[out_of_range.end() :])  # where None is allowed, too
        value = out_of_range[1].strip() or (given and given[1])
        return f"{_setting(message, out_of_range)} = {value}: must be {_flat(out_of_range[2])}"
    of_class = re.search(r"Problem with given class_path '([^']+)':\s+(?!Parser key|Does not)(\S.*)", message)
    if of_class:
        return f"{_setting(message, of_class)}: {of_class[1]}: {of_class[2]}"
    wrong = re.search(r"Expected an? (.*)\. Got value: (.*)", message)
    if wrong:
        return f"{_setting(message, wrong)}: {wrong[2]} must be {_allowed(wrong[1])}"
    union = [*re.finditer(r"Subtypes: \[(.*)\]", message)]  # the innermost is the last
    given = re.search(r"Given value: (.*)", message[union[-1].end() :]) if union else None
    return f"{_setting(message, union[-1])}: {given[1]} must be {_allowed(union[-1][1])}" if given else None


def _setting(message: str, found: re.Match[str]) -> str:
    """The name that the sections before `found` make; some are repeated in full."""
    name = ""
    for key in re.findall(r'Parser key "([^"]+)":', message[: found.start()]):
        name = key if not name or key.startswith(f"{name}.") else f"{name}.{key}"
    return name


def _allowed(types: str) -> str:
    """Of one type, or several with commas between them."""
    while types != (types := re.sub(r"(?<!Literal)\[[^\[\]]*\]", "", types)):  # what mappings and lists are of
        pass
    found = re.findall(r"(?:typing\.)?Literal\[(.*?)\]|(?:<class ')?([\w.]+)", types)
    kinds: dict[str, None] = {}  # each once
    for choices, kind in found:
        own = choices.replace("'", "").split(", ") if choices else [NAMES.get(kind.rpartition(".")[2], "settings")]
        kinds |= dict.fromkeys(own)
    return " or ".join(kinds)


def _flat(message: str) -> str:
    return re.sub(r"<class '(\w+)'>", r"\1", " ".join(message.split()))
