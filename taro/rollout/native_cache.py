"""What the native engine keeps of the tokens so far, layer by layer.

R rows (completions of all prompts), K tokens, d head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer, LinearAttentionLayer


class PreallocatedLayer(DynamicLayer):
    """One decoder layer's keys and values, (R, heads, K, d), views of buffers with room for `extra` tokens after the first
    update: a cache that grows by concatenation copies itself for every token."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.extra = extra
        self.buffers: list[Tensor] = []

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            rows, heads, length, size = key_states.shape
            self.buffers = [key_states.new_empty(rows, heads, length + self.extra, size) for _ in range(2)]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = states
        self.keys, self.values = (buffer[:, :, :end] for buffer in self.buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        if not self.is_initialized:
            return
        length = self.get_seq_length()
        self.buffers = [buffer.index_select(0, indices) for buffer in self.buffers]
        self.keys, self.values = (buffer[:, :, :length] for buffer in self.buffers)


class RecurrentLayer(LinearAttentionLayer):
    """One recurrent decoder layer's states, those after each prompt for each of its completions: the inputs that its
    convolution sees, (R, channels, K), and what it remembers, (R, heads, key size, value size)."""

    def __init__(self, prompts: Sequence[LinearAttentionLayer], repeats: Tensor) -> None:
        super().__init__()
        self.update_conv_state(torch.cat([layer.conv_states[0] for layer in prompts]).repeat_interleave(repeats, 0))
        self.update_recurrent_state(torch.cat([layer.recurrent_states[0] for layer in prompts]).repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self.reorder_cache(indices)


@contextmanager
def held(cache: Cache, rows: Tensor) -> Iterator[None]:
    """Inside, recurrent states of these rows, (R,) bool, stay what they are: what the rows read is padding."""
    layers = [layer for layer in cache.layers if isinstance(layer, RecurrentLayer)]
    states = [state for layer in layers for state in (layer.conv_states[0], layer.recurrent_states[0])]
    before = [state[rows] for state in states]
    yield
    for state, old in zip(states, before, strict=True):
        state[rows] = old
