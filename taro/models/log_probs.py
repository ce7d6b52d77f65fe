"""Log-probs of the completions of one or more groups, all of them in one pass over distinct tokens.

G completions, C tokens of the longest, S packed tokens of a group, N of all groups of a pack, R response tokens, D hidden, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from taro.models.packing import Pack, PackedGroup
from taro.models.prompt import Prompt
from taro.models.qwen_vl import QwenVL, VisionFeatures


@dataclass(frozen=True)
class GroupLogProbs:
    """Zero outside of the group's response mask."""

    log_probs: Tensor  # (G, C) float32, with gradient where the policy has one
    entropy: Tensor | None  # (G, C) float32, nats, never with gradient; where it was asked for


@dataclass(frozen=True)
class GroupInputs:
    """A group as a model sees it."""

    prompt: Prompt
    packed: PackedGroup
    features: VisionFeatures  # in place of the prompt's video


def compute_log_probs(
    model: QwenVL,
    groups: Sequence[GroupInputs],
    *,
    temperature: float = 1.0,
    chunk: int = 1024,
    with_entropy: bool = False,
) -> list[GroupLogProbs]:
    """Log-probs, and if asked for entropies, of groups under `model`, in one pass, also of none.

    `temperature` divides the logits, as in sampling. The LM head runs on response positions alone, `chunk` of them at a
    time, so that no (N, V) tensor exists.
    """
    if not groups:
        empty_pass(model)
        return []
    pack = Pack(tuple(group.packed for group in groups))
    positions = torch.cat([group.packed.position_ids(group.prompt.position_ids) for group in groups], dim=1)  # (3, N)
    hidden = model.hidden_states(
        pack.input_ids[None],
        positions[:, None],
        features=VisionFeatures.cat([group.features for group in groups]),
        video_mask=torch.cat([_video_mask(group) for group in groups])[None],
        **pack.attention_inputs(model.attention),
    )[0]  # (N, D)
    targets = torch.cat([group.completion_ids[group.response_mask] for group in pack.groups])  # (R,)
    log_probs, entropy = token_log_probs(
        model, hidden[pack.predictors()], targets, temperature=temperature, chunk=chunk, with_entropy=with_entropy
    )
    masks = [group.response_mask for group in pack.groups]
    entropies = [None] * len(masks) if entropy is None else _unpack(entropy, masks)
    return [GroupLogProbs(*of_group) for of_group in zip(_unpack(log_probs, masks), entropies, strict=True)]


def empty_pass(model: QwenVL) -> Tensor:
    """(), zero, from a pass over two tokens: for a rank that takes part only because weights are gathered by all. With
    gradients on, each weight gets one."""
    ids = torch.zeros(2, dtype=torch.long, device=model.device)
    hidden = model.hidden_states(ids[None], torch.arange(2, device=model.device).expand(3, 1, 2))[0]  # (2, D)
    log_probs, _ = token_log_probs(model, hidden[:1], ids[1:])
    return 0.0 * log_probs.sum()


def _video_mask(group: GroupInputs) -> Tensor:
    """(S,) bool: completions have no video, whatever their tokens."""
    mask = group.prompt.video_mask
    return torch.cat([mask, mask.new_zeros(len(group.packed) - len(mask))])


def _unpack(values: Tensor, masks: Sequence[Tensor]) -> list[Tensor]:
    """(R,) of the response tokens of a pack -> (G, C) of each group, 0 elsewhere."""
    parts = values.split([int(mask.sum()) for mask in masks])
    return [part.new_zeros(mask.shape).masked_scatter(mask, part) for mask, part in zip(masks, parts, strict=True)]


def token_log_probs(
    model: QwenVL,
    hidden: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    chunk: int = 1024,
    with_entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log-prob of each target and entropy of its distribution: hidden (R, D), targets (R,) -> (R,), (R,).

    With gradients on, each chunk's logits are made again in the backward pass and not kept.
    """
    entropies: list[Tensor] = []

    def of_chunk(hidden: Tensor, targets: Tensor) -> Tensor:
        log_p = torch.log_softmax(model.logits(hidden) / temperature, dim=-1)  # (chunk, V)
        if measuring:
            entropies.append(_entropy(log_p.detach()))
        return log_p.gather(-1, targets[:, None])[:, 0]

    run = partial(checkpoint, of_chunk, use_reentrant=False) if torch.is_grad_enabled() else of_chunk
    measuring = with_entropy
    log_probs = torch.cat([run(*part) for part in zip(hidden.split(chunk), targets.split(chunk), strict=True)])
    measuring = False  # when the backward pass makes chunks again
    return log_probs, torch.cat(entropies) if with_entropy else None


def _entropy(log_p: Tensor) -> Tensor:
    """(R, V) -> (R,), nats."""
    return -torch.where(log_p.isneginf(), 0.0, log_p.exp() * log_p).sum(-1)
