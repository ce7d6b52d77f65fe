"""What an engine reads to decode the completions of a step: plain arithmetic.

Their lengths are assumed. With the mean C and the longest L, the share (1 - t / L) ^ (L / C - 1) of them has more than t
tokens: all are alike where L = C, and as many end at each token where L = 2 C.
"""

from __future__ import annotations

from transformers import PreTrainedConfig

from taro.models.pass_cost import attention_widths, layer_kinds
from taro.run.memory import Shape


def read_weights(shape: Shape) -> int:
    """How many are read for a token: those of layers, norm and head. Of embeddings it is a row, unless they are the head."""
    embeddings = 0 if shape.tied else shape.text.vocab_size * shape.text.hidden_size
    return shape.decoder - embeddings


def cached_bytes(text: PreTrainedConfig) -> int:
    """Of a token's keys and values in bfloat16, in all layers that attend. Recurrent layers have a state in their place, which
    is not counted."""
    _, keys = attention_widths(text)
    return 2 * 2 * keys * layer_kinds(text).count("full_attention")


def read_tokens(prompt: int, mean: float, longest: float) -> float:
    """Cached tokens that are read for a completion in the mean, over all of its tokens: the prompt's for each of them, and of
    its own those before it, the integral of t (1 - t / L) ^ (L / C - 1) over t."""
    return prompt * mean + longest * mean**2 / (longest + mean)
