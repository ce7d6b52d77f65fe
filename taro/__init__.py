"""TaRO: GRPO for Qwen-VL models that find when an event happens in a video. The names of its Python interface come from their
rooms when they are first used."""

from importlib import import_module
from typing import Any

_PLACES = {"Answer": "taro.view.answer", "Grounder": "taro.view.grounder"}

__all__ = ["Answer", "Grounder"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
