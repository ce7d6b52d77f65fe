"""The temporal gap: how much less likely a completion is on the perturbed video (TaRO, arXiv 2606.09248).

Shapes: G completions, C completion tokens.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from taro.prompts import answered_lines, think_span, timestamp_spans

GapTokens = Literal["response", "think", "timestamps", "answered"]


def gap_token_mask(text_offsets: Sequence[tuple[int, int]], text: str, tokens: GapTokens) -> Tensor:
    """Which tokens of one completion the gap averages over, (C,) bool.

    `text_offsets`: for each token the range of characters of `text` that it covers. `response`: all tokens (the
    released code of TaRO); `think`: those that overlap the reasoning (the paper); `timestamps`: those that overlap a
    number of a time range in the reasoning; `answered`: those that overlap its lines about the span that is answered; a
    token without characters is only in `response`. Raises ValueError for another choice.
    """
    if tokens == "response":
        return torch.ones(len(text_offsets), dtype=torch.bool)
    if tokens == "think":
        ranges = [think_span(text)]
    elif tokens == "timestamps":
        ranges = timestamp_spans(text)
    elif tokens == "answered":
        ranges = answered_lines(text)
    else:
        raise ValueError(f"tokens must be one of {', '.join(get_args(GapTokens))}, got {tokens!r}")
    chosen = torch.zeros(len(text), dtype=torch.bool)  # one for each character
    for start, end in ranges:
        chosen[start:end] = True
    return torch.tensor([bool(chosen[start:end].any()) for start, end in text_offsets], dtype=torch.bool)  # (C,)


def temporal_gaps(log_probs: Tensor, shuffled_log_probs: Tensor, mask: Tensor) -> Tensor:
    """Mean log-prob on the true video minus on the perturbed one, per completion, over the tokens of `mask`.

    log_probs, shuffled_log_probs, mask (G, C) -> (G,), nats per token; nan for a completion without such tokens. Masked
    positions may hold nan or inf. Raises ValueError for shapes that differ.
    """
    if not log_probs.shape == shuffled_log_probs.shape == mask.shape:
        raise ValueError(
            "log_probs, shuffled_log_probs and mask must have one shape, got "
            f"{tuple(log_probs.shape)}, {tuple(shuffled_log_probs.shape)} and {tuple(mask.shape)}"
        )
    mask = mask.bool()
    differences = torch.where(mask, log_probs - shuffled_log_probs, 0.0)  # (G, C)
    return differences.sum(dim=-1) / mask.sum(dim=-1)
