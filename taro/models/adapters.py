"""Low-rank adapters of the decoder (LoRA, arXiv 2106.09685), by peft."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from taro.ranges import PositiveInt


@dataclass(frozen=True)
class LoRASettings:
    """Low-rank adapters of the decoder's linear layers; all else is frozen, and the reference is the model without them.

    Args:
        rank: of the updates.
        alpha: they count alpha / rank times.
        targets: layers that get one, where the model has them.
    """

    rank: PositiveInt = 64
    alpha: PositiveInt = 128
    targets: tuple[str, ...] = (
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("in_proj_qkv", "in_proj_z", "out_proj"),  # of recurrent layers
        *("gate_proj", "up_proj", "down_proj"),
    )


def peft_is_installed() -> bool:
    return importlib.util.find_spec("peft") is not None


def add_adapters(model: PreTrainedModel, settings: LoRASettings, seed: int = 0) -> None:
    """Freeze the model and put adapters in that change nothing yet; float32, and the same for the same seed."""
    from peft import LoraConfig

    targets = rf".*\.language_model\..*\.({'|'.join(settings.targets)})"
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=targets)
    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.add_adapter(config)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()


@torch.no_grad()
def reset_adapters(model: PreTrainedModel) -> None:
    """The adapters change nothing again, as before training."""
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.zero_()


@contextmanager
def adapters_off(model: PreTrainedModel) -> Iterator[None]:
    """The model as it was before its adapters, for passes without gradient."""
    model.disable_adapters()
    try:
        yield
    finally:
        model.enable_adapters()
