"""Decoder layers compiled with `torch.compile` (`model.torch_compile`), in passes over packs.

Attention, and layers that are recurrent, run as they are (`torch.compiler.disable` where they are written): their kernels are
written by hand, and all that is around these depends on the lengths of the groups, which are never the same twice.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from taro.errors import TaroError


class CompilerError(TaroError):
    """Nothing can be compiled on this machine."""


# Of the code that all layers share: for passes with gradients and without, of the reference, of no pack, and for each kind of
# layer. PyTorch's own limit is 8, and what is above it runs uncompiled.
VARIANTS = 64


def compile_layers(decoder: nn.Module) -> None:
    """Compile each layer of a decoder of transformers, once for packs of all lengths: norms, projections, rotations and MLP
    become a few kernels each. What decodes with a cache runs as before. Names of weights stay; copy a model before."""
    torch._dynamo.config.recompile_limit = max(VARIANTS, torch._dynamo.config.recompile_limit)
    for layer in decoder.layers:
        layer.forward = _without_cache(torch.compile(layer.forward, dynamic=True), layer.forward)


def _without_cache(compiled: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        run = compiled if kwargs.get("past_key_values") is None else plain
        return run(*args, **kwargs)

    return forward


def require_compiler(device: str) -> None:
    """Raises CompilerError where `torch.compile` can't work on a `cpu`, where it takes a C++ compiler, or on `cuda`, where it
    takes Triton. No memory of a GPU is touched."""
    if device == "cuda" and find_spec("triton") is None:
        raise CompilerError("torch.compile does not work on cuda here (no Triton: pip install triton)")
    if device == "cuda":
        return
    try:
        torch.compile(torch.neg)(torch.zeros(2))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CompilerError(f"torch.compile does not work here ({reason})") from error
