"""A group as one sequence, [prompt, o_1, ..., o_G], and several groups one after the other as a pack.

Each completion sees its prompt and itself, and its positions go on right after the prompt, as if it stood alone. One pass
over P + sum(C_i) tokens gives the log-probs of G passes over P + C_i.

G completions, P prompt tokens, C tokens of the longest completion, S = P + sum(C_i) packed tokens, N = sum(S) of a pack.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from taro.models.attention import FLEX, SHARED_PREFIX
from taro.partition import divide

BLOCK = 128  # tokens to the side of a block of FlexAttention's masks


@dataclass(frozen=True)
class PackedGroup:
    """One prompt and its completions, ready for one forward pass. Made by `pack_group`."""

    input_ids: Tensor  # (S,)
    segment_ids: Tensor  # (S,) 0 for the prompt, i for completion i = 1..G
    offsets: Tensor  # (S,) place of the token in its own sequence [prompt, o_i]
    prompt_length: int
    completion_ids: Tensor  # (G, C) right-padded with 0
    response_mask: Tensor  # (G, C) bool
    predictor_index: Tensor  # (G, C) place in the pack of the token whose hidden state predicts this one

    def __len__(self) -> int:
        """S."""
        return len(self.input_ids)

    @property
    def pairs(self) -> int:
        """Of a query and a key that it sees."""
        return int(self.offsets.sum()) + len(self)

    def attention_mask(self) -> Tensor:
        """(S, S) bool, True where the query (row) may see the key (column)."""
        query, key = self.segment_ids[:, None], self.segment_ids[None, :]
        order = torch.arange(len(self.segment_ids), device=self.segment_ids.device)
        return ((query == key) | (key == 0)) & (order[:, None] >= order[None, :])

    @cached_property
    def slots(self) -> Tensor:
        """(S - P,) place of each completion token in the padded (G, C) grid, row by row."""
        return self.response_mask.flatten().nonzero()[:, 0]

    @property
    def allowed(self) -> Tensor:
        """(C, P + C) bool, what the completion token in this column sees: the prompt, and its row up to itself."""
        columns = self.response_mask.shape[1]
        return self.response_mask.new_ones(columns, self.prompt_length + columns).tril(self.prompt_length)

    def seen_places(self, start: int) -> tuple[Tensor, Tensor, Tensor]:
        """The same, of a group that begins at this place of a pack: where each token's segment begins, all of which it sees up
        to itself, and from where to before where it sees its prompt, which in the prompt itself is nothing. (S,) each."""
        before = self.prompt_length * (self.segment_ids > 0)  # (S,)
        own = start + torch.arange(len(self), device=before.device) - (self.offsets - before)
        return own, torch.full_like(own, start), start + before

    def position_ids(self, prompt_positions: Tensor) -> Tensor:
        """M-RoPE positions of the pack, (3, S), from those of the prompt, (3, P)."""
        after = self.offsets[self.prompt_length :] - self.prompt_length + int(prompt_positions.max()) + 1
        return torch.cat([prompt_positions, after.expand(3, -1)], dim=1)


def pack_group(prompt_ids: Tensor | Sequence[int], completions: Sequence[Tensor | Sequence[int]]) -> PackedGroup:
    """Pack a prompt, (P,), and its completions, each (C_i,).

    Raises:
        ValueError: an empty prompt (nothing would predict the first completion token) or no completion.
    """
    prompt = torch.as_tensor(prompt_ids, dtype=torch.long)
    rows = [torch.as_tensor(row, dtype=torch.long, device=prompt.device) for row in completions]
    if prompt.dim() != 1 or len(prompt) == 0:
        raise ValueError(f"prompt_ids has shape {tuple(prompt.shape)}, needs (P,) with P >= 1")
    if not rows:
        raise ValueError("a group needs at least one completion, got none")
    lengths = torch.tensor([len(row) for row in rows], device=prompt.device)  # (G,)
    starts = len(prompt) + lengths.cumsum(0) - lengths  # (G,) place of each completion's first token
    column = torch.arange(int(lengths.max()), device=prompt.device)[None, :]  # (1, C)
    response_mask = column < lengths[:, None]  # (G, C)
    predictor = torch.where(column == 0, len(prompt) - 1, starts[:, None] + column - 1)
    within = [torch.arange(len(row), device=prompt.device) for row in rows]
    return PackedGroup(
        input_ids=torch.cat([prompt, *rows]),
        segment_ids=torch.repeat_interleave(
            torch.arange(len(rows) + 1, device=prompt.device), torch.cat([lengths.new_tensor([len(prompt)]), lengths])
        ),
        offsets=torch.cat([torch.arange(len(prompt), device=prompt.device), *(len(prompt) + w for w in within)]),
        prompt_length=len(prompt),
        completion_ids=torch.nn.utils.rnn.pad_sequence(rows, batch_first=True),
        response_mask=response_mask,
        predictor_index=torch.where(response_mask, predictor, 0),
    )


@dataclass(frozen=True)
class Pack:
    """Groups that share a forward pass, one after the other; none sees another."""

    groups: tuple[PackedGroup, ...]

    @property
    def input_ids(self) -> Tensor:
        """(N,)."""
        return torch.cat([group.input_ids for group in self.groups])

    def predictors(self) -> Tensor:
        """Places in the pack, (R,), whose hidden states predict the response tokens, group by group and row by row."""
        starts = [0, *itertools.accumulate(len(group) for group in self.groups)]
        return torch.cat(
            [group.predictor_index[group.response_mask] + start for group, start in zip(self.groups, starts, strict=False)]
        )

    def attention_inputs(self, attention: str) -> dict[str, Any]:
        """What the decoder needs to keep groups and completions apart, by the name of its attention."""
        if attention == SHARED_PREFIX:
            return {"pack": self}
        mask = self.block_mask() if attention == FLEX else self.attention_mask()[None, None]
        return {"pack": self, "attention_mask": mask}

    def attention_mask(self) -> Tensor:
        """(N, N) bool, True where the query (row) may see the key (column)."""
        return torch.block_diag(*(group.attention_mask() for group in self.groups)).bool()

    def block_mask(self) -> BlockMask:
        """The same for FlexAttention, (1, 1, N, N), from where segments begin and end: nothing of the size N * N is made."""
        starts = itertools.accumulate((len(group) for group in self.groups), initial=0)
        parts = zip(*(group.seen_places(start) for group, start in zip(self.groups, starts, strict=False)), strict=True)
        own, first, last = (torch.cat(part) for part in parts)  # (N,) each

        def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return ((key >= own[query]) & (key <= query)) | ((key >= first[query]) & (key < last[query]))

        some, full = _classify_blocks(own.cpu(), first.cpu(), last.cpu())
        return BlockMask.from_kv_blocks(
            *_in_order(some & ~full, own.device),
            *_in_order(full, own.device),
            BLOCK_SIZE=BLOCK,
            mask_mod=sees,
            seq_lengths=(len(own), len(own)),
        )


def _classify_blocks(own: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Which blocks of a pack's mask have anything that is seen, and which have nothing that is not, each (Q, Q) bool for
    Q = ceil(N / BLOCK) blocks of queries (rows) and keys. What is beyond the N tokens is not seen.

    Args:
        own, first, last: as `seen_places` gives them.
    """
    blocks = torch.arange(0, len(own), BLOCK)  # (Q,) where each starts
    some, full = [], []
    for queries in torch.arange(len(own)).split(BLOCK):
        ranges = ((own[queries], queries + 1), (first[queries], last[queries]))  # of keys, which do not overlap
        seen = sum(  # (BLOCK, Q), how many keys of each block a query sees
            (torch.minimum(end[:, None], blocks + BLOCK) - torch.maximum(start[:, None], blocks)).clamp(min=0)
            for start, end in ranges
        )
        some.append((seen > 0).any(0))
        full.append((seen == BLOCK).all(0) & (len(queries) == BLOCK))
    return torch.stack(some), torch.stack(full)


def _in_order(chosen: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """How many blocks of each row are chosen, (1, 1, Q), and their places, (1, 1, Q, Q): those first, then the others."""
    counts, places = chosen.sum(1), chosen.int().argsort(dim=1, descending=True, stable=True)
    return counts.int()[None, None].to(device), places.int()[None, None].to(device)


def plan_packs(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Which groups share a pack: their numbers, in order, at most `budget` tokens to a pack; a group with more has one of its
    own."""
    packs: list[list[int]] = []
    room = 0
    for number, size in enumerate(sizes):
        if size > room:
            packs.append([])
            room = budget
        packs[-1].append(number)
        room -= size
    return packs


def plan_even_packs(sizes: Sequence[int], costs: Sequence[float], budget: int, least: int = 1) -> list[list[int]]:
    """The same, out of order: as many packs as that takes, and `least` where there are so many groups, of which none costs much
    more than the others."""
    if not sizes:
        return []
    count = max(least, -(-sum(min(size, budget) for size in sizes) // budget))
    while True:
        packs = divide(costs, min(count, len(sizes)))
        if all(len(pack) == 1 or sum(sizes[number] for number in pack) <= budget for pack in packs):
            return sorted(packs)
        count += 1


def largest_group(group_size: int, completion_tokens: int, prompt_tokens: int) -> int:
    """Tokens of a group whose prompt and completions are as long as they may be."""
    return prompt_tokens + group_size * completion_tokens
