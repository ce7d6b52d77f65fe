"""Log-probs of the completions of a group, all of them in one pass over distinct tokens.

G completions, C tokens of the longest, S packed tokens, R response tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from taro.models.attention import SHARED_PREFIX
from taro.models.packing import PackedGroup
from taro.models.prompt import Prompt
from taro.models.qwen_vl import QwenVL, VisionFeatures


@dataclass(frozen=True)
class GroupScores:
    """Zero outside of the group's response mask."""

    log_probs: Tensor  # (G, C) float32, with gradient where the policy has one
    entropy: Tensor  # (G, C) float32, nats, never with gradient


def score_group(
    model: QwenVL,
    prompt: Prompt,
    group: PackedGroup,
    features: VisionFeatures,
    *,
    temperature: float = 1.0,
    chunk: int = 1024,
) -> GroupScores:
    """Log-probs and entropies of a packed group under `model`, with `features` in place of the prompt's video.

    `temperature` divides the logits, as in sampling. The LM head runs on response positions alone, `chunk` of them at a
    time, so that no (S, V) tensor exists.
    """
    packed_video = torch.zeros_like(group.input_ids, dtype=torch.bool)
    packed_video[: group.prompt_length] = prompt.video_mask
    shared = model.attention == SHARED_PREFIX
    hidden = model.hidden_states(
        group.input_ids[None],
        group.position_ids(prompt.position_ids)[:, None],
        attention_mask=None if shared else group.attention_mask()[None, None],
        group_layout=group.layout() if shared else None,
        features=features,
        video_mask=packed_video[None],
    )[0]  # (S, D)
    mask = group.response_mask
    log_probs, entropy = token_log_probs(
        model, hidden[group.predictor_index[mask]], group.completion_ids[mask], temperature=temperature, chunk=chunk
    )
    empty = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
    return GroupScores(empty.masked_scatter(mask, log_probs), empty.masked_scatter(mask, entropy))


def token_log_probs(
    model: QwenVL, hidden: Tensor, targets: Tensor, *, temperature: float = 1.0, chunk: int = 1024
) -> tuple[Tensor, Tensor]:
    """Log-prob of each target and entropy of its distribution: hidden (R, D), targets (R,) -> (R,), (R,).

    With gradients on, each chunk's logits are made again in the backward pass and not kept.
    """

    def of_chunk(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        log_p = torch.log_softmax(model.logits(hidden) / temperature, dim=-1)  # (chunk, V)
        with torch.no_grad():
            plogp = torch.where(log_p.isneginf(), 0.0, log_p.exp() * log_p)
        return log_p.gather(-1, targets[:, None])[:, 0], -plogp.sum(-1)

    log_probs, entropies = [], []
    for part, part_targets in zip(hidden.split(chunk), targets.split(chunk), strict=True):
        if torch.is_grad_enabled():
            values, entropy = checkpoint(of_chunk, part, part_targets, use_reentrant=False)
        else:
            values, entropy = of_chunk(part, part_targets)
        log_probs.append(values)
        entropies.append(entropy)
    return torch.cat(log_probs), torch.cat(entropies)
