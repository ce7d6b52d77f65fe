"""A group as one sequence: [prompt, o_1, ..., o_G].

Each completion sees the prompt and itself, and its positions go on right after the prompt, as if it stood alone. One pass
over P + sum(C_i) tokens gives the log-probs of G passes over P + C_i.

G completions, P prompt tokens, C tokens of the longest completion, S = P + sum(C_i) packed tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from taro.models.attention import GroupLayout


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

    def to(self, device: torch.device | str) -> PackedGroup:
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return PackedGroup(prompt_length=self.prompt_length, **tensors)


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
