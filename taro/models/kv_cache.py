"""Keys and values of a batch that is decoded, in buffers that are allocated once: a cache that grows by concatenation copies
itself for every token."""

from __future__ import annotations

from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer


class PreallocatedLayer(DynamicLayer):
    """One decoder layer's keys and values, (R, heads, K, d), views of buffers with room for `extra` tokens after the first."""

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
        length = self.get_seq_length()
        self.buffers = [buffer.index_select(0, indices) for buffer in self.buffers]
        self.keys, self.values = (buffer[:, :, :length] for buffer in self.buffers)


def preallocated_cache(layers: int, extra: int) -> Cache:
    """A cache for `layers` decoder layers with room for `extra` tokens after those of the first update.

    An update that goes beyond it raises RuntimeError.
    """
    return Cache(layers=[PreallocatedLayer(extra) for _ in range(layers)])
