"""A group as one sequence, [prompt, o_1, ..., o_G], and several groups one after the other as a pack.

Each completion sees its prompt and itself, and its positions go on right after the prompt, as if it stood alone. One pass
over P + sum(C_i) tokens gives the log-probs of G passes over P + C_i.

G completions, P prompt tokens, C tokens of the longest completion, S = P + sum(C_i) packed tokens, N = sum(S) of a pack.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from taro.models.attention import FLEX, SHARED_PREFIX, GroupLayout

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

    def attention_mask(self) -> Tensor:
        """(S, S) bool, True where the query (row) may see the key (column)."""
        query, key = self.segment_ids[:, None], self.segment_ids[None, :]
        order = torch.arange(len(self.segment_ids), device=self.segment_ids.device)
        return ((query == key) | (key == 0)) & (order[:, None] >= order[None, :])

    def layout(self) -> GroupLayout:
        """The same as `attention_mask`, as `shared_prefix_attention` takes it."""
        rows, columns = self.response_mask.shape
        column = torch.arange(columns, device=self.input_ids.device)
        own = column[:, None] >= column[None, :]  # (C, C)
        return GroupLayout(
            prompt_length=self.prompt_length,
            slots=self.response_mask.flatten().nonzero()[:, 0],
            rows=rows,
            columns=columns,
            allowed=torch.cat([own.new_ones(columns, self.prompt_length), own], dim=1),
        )

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
            return {"group_layouts": tuple(group.layout() for group in self.groups)}
        return {"attention_mask": self.block_mask() if attention == FLEX else self.attention_mask()[None, None]}

    def attention_mask(self) -> Tensor:
        """(N, N) bool, True where the query (row) may see the key (column)."""
        return torch.block_diag(*(group.attention_mask() for group in self.groups)).bool()

    def block_mask(self) -> BlockMask:
        """The same for FlexAttention, (1, 1, N, N), from the layout: nothing of the size N * N is made."""
        numbers = [(group.segment_ids.max() + 1) for group in self.groups]  # segments of each group
        first = torch.cat([numbers[0].new_zeros(1), torch.stack(numbers).cumsum(0)[:-1]])  # (groups,) prompts' segments
        sizes = torch.tensor([len(group) for group in self.groups], device=first.device)
        prompt = first.repeat_interleave(sizes)  # (N,) segment of the token's prompt
        segment = torch.cat([group.segment_ids for group in self.groups]) + prompt  # (N,) no two groups share one

        def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return ((segment[key] == segment[query]) | (segment[key] == prompt[query])) & (query >= key)

        some, full = classify_blocks(self.segments(), len(segment), BLOCK)
        return BlockMask.from_kv_blocks(
            *_in_order(some & ~full, segment.device),
            *_in_order(full, segment.device),
            BLOCK_SIZE=BLOCK,
            mask_mod=sees,
            seq_lengths=(len(segment), len(segment)),
        )

    def segments(self) -> list[Segment]:
        """Prompts and completions that have tokens, in their order in the pack."""
        found, start = [], 0
        for group in self.groups:
            end = start + group.prompt_length
            prompt = Segment(start, end, start, start)
            ends = list(itertools.accumulate(group.response_mask.sum(1).tolist(), initial=end))
            found += [prompt, *(Segment(*place, start, end) for place in itertools.pairwise(ends) if place[0] < place[1])]
            start = ends[-1]
        return found


@dataclass(frozen=True)
class Segment:
    """Tokens of a pack that see each other causally, and all of their group's prompt: first place, and the one after the
    last. Of a prompt itself `prompt_start` is `prompt_end`: it sees no other."""

    start: int
    end: int
    prompt_start: int
    prompt_end: int


def classify_blocks(segments: Sequence[Segment], length: int, size: int) -> tuple[Tensor, Tensor]:
    """Which blocks of size * size of a pack's mask have anything that is seen, and which have nothing that is not, each
    (Q, Q) bool for Q = ceil(length / size) blocks of queries (rows) and keys. What is beyond `length` is not seen.

    A segment's last query in a block of queries sees all that its others see, and they see all that its first one sees.
    """
    blocks = torch.arange(0, length, size)  # (Q,) where each starts
    pieces = [  # of each segment in each block of queries: block, first query, last query, and the segment
        (block, max(segment.start, block * size), min(segment.end, (block + 1) * size) - 1, segment)
        for segment in segments
        for block in range(segment.start // size, (segment.end - 1) // size + 1)
    ]

    def seen(query: Tensor, own: Tensor, prompt: Tensor, prompt_end: Tensor) -> Tensor:
        """(pieces, Q), how many keys of each block a query, (pieces,), sees."""
        ranges = ((own, query + 1), (prompt, prompt_end))
        return sum(
            (torch.minimum(end[:, None], blocks + size) - torch.maximum(start[:, None], blocks)).clamp(min=0)
            for start, end in ranges
        )

    row, first, last = (torch.tensor(column) for column in list(zip(*pieces, strict=True))[:3])
    places = [(segment.start, segment.prompt_start, segment.prompt_end) for *_, segment in pieces]
    keys = torch.tensor(places).unbind(1)
    some, partial = torch.zeros(2, len(blocks), len(blocks), dtype=torch.int32)
    some.index_add_(0, row, (seen(last, *keys) > 0).int())
    partial.index_add_(0, row, (seen(first, *keys) < size).int())
    whole = blocks + size <= length  # (Q,)
    return some > 0, (partial == 0) & whole[:, None] & whole


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


def largest_group(group_size: int, completion_tokens: int, prompt_tokens: int) -> int:
    """Tokens of a group whose prompt and completions are as long as they may be."""
    return prompt_tokens + group_size * completion_tokens
