"""Floating-point operations of a pass over a group, by its tokens and by the pairs that its attention looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedConfig

from taro.models.packing import PackedGroup
from taro.models.qwen_vl import QwenVL


@dataclass(frozen=True)
class PassCost:
    """Of a forward pass of the decoder; those with a backward pass take as many times more for any group."""

    token: float  # in the products of all layers
    pair: float  # of a query and a key, in the attention of all layers
    response: float  # token, in the head

    @classmethod
    def of(cls, text: PreTrainedConfig, layers: Sequence[int]) -> PassCost:
        """By the decoder's config and the number of parameters of each of its layers."""
        attending = layer_kinds(text).count("full_attention")
        queries, _ = attention_widths(text)
        return cls(2.0 * sum(layers), 4.0 * queries * attending, 2.0 * text.hidden_size * text.vocab_size)

    @classmethod
    def of_model(cls, model: QwenVL) -> PassCost:
        layers = [sum(parameter.numel() for parameter in layer.parameters()) for layer in model.decoder.layers]
        return cls.of(model.decoder.config, layers)

    def __call__(self, group: PackedGroup) -> float:
        responses = len(group) - group.prompt_length
        return self.token * len(group) + self.pair * group.pairs + self.response * responses


def layer_kinds(text: PreTrainedConfig) -> list[str]:
    """Of each decoder layer."""
    return (getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers)[: text.num_hidden_layers]


def attention_widths(text: PreTrainedConfig) -> tuple[int, int]:
    """Of all query heads and of all key heads."""
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return head * text.num_attention_heads, head * text.num_key_value_heads
