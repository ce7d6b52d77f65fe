"""Recurrent decoder layers (Gated DeltaNet, arXiv 2412.06464) over packed groups. No mask can share a prompt there, and none
has to: all that a completion needs of its prompt is the layer's state after it. The prompt runs once, its state is forked.

G completions, C tokens of the longest, S packed tokens of a group, N of a pack, D hidden, K inputs of a layer's convolution.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import Cache
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

if TYPE_CHECKING:
    from taro.models.packing import Pack, PackedGroup


def share_prompts(decoder: nn.Module) -> None:
    """Have the recurrent layers of a decoder of transformers read packed groups; others are left alone."""
    for module in decoder.modules():
        if type(module) is Qwen3_5GatedDeltaNet:
            module.__class__ = PackedDeltaNet


class PackedDeltaNet(Qwen3_5GatedDeltaNet):
    """transformers' layer, and so its kernels: flash-linear-attention's where that is installed."""

    @torch.compiler.disable
    def forward(
        self,
        hidden_states: Tensor,
        cache_params: Cache | None = None,
        attention_mask: Tensor | None = None,
        pack: Pack | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """The groups of a pack, each for itself, (1, N, D) -> (1, N, D); as transformers does where there is none."""
        if pack is None:
            return super().forward(hidden_states, cache_params, attention_mask, **kwargs)
        parts = hidden_states[0].split([len(group) for group in pack.groups])
        return torch.cat([self._group(*pair) for pair in zip(parts, pack.groups, strict=True)])[None]

    def _group(self, states: Tensor, group: PackedGroup) -> Tensor:
        """(S, D) -> (S, D)."""
        prompt, own = states.split([group.prompt_length, len(states) - group.prompt_length])
        after = _StateAfter(self.layer_idx)
        read = super().forward(prompt[None], after)[0]
        if not len(own):
            return read
        # Padding stands after the tokens of its row, which come before it and don't see it. A single column would be taken for
        # a step of decoding, whose kernels have no backward pass.
        columns = group.response_mask.shape[1]
        grid = own.new_zeros(group.response_mask.numel(), own.shape[1]).index_copy(0, group.slots, own)  # (G * C, D)
        grid = pad(grid.unflatten(0, (-1, columns)), (0, 0, 0, max(0, 2 - columns)))  # (G, max(2, C), D)
        written = super().forward(grid, after)[:, :columns].flatten(0, 1)
        return torch.cat([read, written.index_select(0, group.slots)])


class _StateAfter:
    """Where a layer leaves its state after the prompt, and finds it again for each completion: what it asks of a transformers
    cache, whose own copies the states into buffers, without their gradient. It must not refer to itself: its states hold all
    that their backward pass needs, until it is gone, for which a cycle would wait for Python's garbage collection."""

    record_past = False

    def __init__(self, layer: int) -> None:
        self.layer = layer
        self.inputs: Tensor | None = None  # of the convolution, the last of the prompt: (1, channels, K - 1)
        self.state: Tensor | None = None  # (1, heads, key size, value size)
        self.rows = 1

    @property
    def layers(self) -> dict[int, _StateAfter]:
        return {self.layer: self}

    def has_previous_state(self, layer_idx: int, state_idx: int) -> bool:
        return self.state is not None

    def update_conv_state(self, inputs: Tensor, layer_idx: int, conv_kernel_size: int) -> Tensor:
        """Those of the convolution, (rows, channels, tokens), after what came before."""
        if self.inputs is None:
            self.inputs = inputs[..., max(0, inputs.shape[-1] - conv_kernel_size + 1) :]
            return inputs
        self.rows = len(inputs)
        return torch.cat([self.inputs.expand(self.rows, -1, -1), inputs], dim=-1)

    @property
    def recurrent_states(self) -> list[Tensor]:
        return [self.state.expand(self.rows, -1, -1, -1)]

    def update_recurrent_state(self, state: Tensor, layer_idx: int) -> None:
        if self.state is None:
            self.state = state
