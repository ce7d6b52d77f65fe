"""Rollouts by the policy itself: each prompt is prefilled once, its cache is shared out to its group, constructed
prefixes are read some columns at a time, and all rows of all groups are decoded together.

R rows (completions of all prompts), P prompt tokens (of the longest), L tokens of the longest prefix, V vocabulary, D hidden.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionLayer

from taro.models.packing import plan_packs
from taro.models.qwen_vl import QwenVL
from taro.models.weights import Weight
from taro.rollout.engine import RolloutGroup, RolloutPrompt, SamplingSettings, require_room

PREFIX_TOKENS = 8192  # of all rows, in one pass: its mask and its activations grow with them
COMPACT_BELOW = 0.75  # finished rows leave the batch once fewer than this share of its rows goes on


@dataclass
class _Row:
    """One completion while it is decoded."""

    tokens: list[int]  # at first its prefix
    uniforms: Tensor  # (max_tokens,) float64, one draw for each place: independent of what else is in the batch
    log_probs: list[float] = field(init=False)
    finished: bool = False

    def __post_init__(self) -> None:
        self.log_probs = [math.nan] * len(self.tokens)


_State = tuple[Cache, Tensor, Tensor, Tensor]
"""The cache with a row for each completion, its mask (R, P), the next position of each row (R,), and the last hidden state of
each row (R, D)."""


class NativeEngine:
    """Samples from `policy`, whose current weights it always uses.

    Args:
        policy: the model; called without gradients, in whatever mode it is in.
        end_ids: tokens that end a completion.
        rows: at most this many completions are decoded together; a group is never split.
    """

    is_policy = True
    stale = False

    def __init__(self, policy: QwenVL, end_ids: Collection[int], rows: int = 128) -> None:
        self.policy, self.end_ids, self.rows = policy, frozenset(end_ids), rows

    def sync(self, named_parameters: Iterable[tuple[str, Weight]]) -> None:
        """Nothing to do: the weights are the policy's own."""

    def sleep(self) -> None:
        """Nothing to give back."""

    def restart(self) -> None:
        """Nothing that could have died."""

    def close(self) -> None:
        """Nothing but the policy, which is not the engine's."""

    @torch.no_grad()
    def generate(self, prompts: Sequence[RolloutPrompt], sampling: SamplingSettings) -> list[RolloutGroup]:
        """One group for each prompt.

        Raises:
            ValueError: a constructed prefix that leaves no room for a token.
        """
        require_room(prompts, sampling)
        batches = plan_packs([len(prompt.seeds) for prompt in prompts], self.rows)
        return [group for batch in batches for group in self._generate_batch([prompts[i] for i in batch], sampling)]

    def stream(
        self, prompts: Iterable[RolloutPrompt], sampling: SamplingSettings, at_once: int
    ) -> Iterator[tuple[int, RolloutGroup]]:
        """Groups with the numbers of their prompts, `at_once` prompts after the other."""
        numbered = enumerate(prompts)
        while batch := list(itertools.islice(numbered, at_once)):
            groups = self.generate([prompt for _, prompt in batch], sampling)
            yield from ((number, group) for (number, _), group in zip(batch, groups, strict=True))

    def _generate_batch(self, prompts: Sequence[RolloutPrompt], sampling: SamplingSettings) -> list[RolloutGroup]:
        groups = [_rows(prompt, sampling) for prompt in prompts]
        for _ in self._decode(prompts, groups, sampling):
            pass
        return [_collect(group) for group in groups]

    @torch.no_grad()
    def follow(self, prompt: RolloutPrompt, sampling: SamplingSettings) -> Iterator[RolloutGroup]:
        """The group of one prompt as far as it is, after each token; the last one is what `generate` gives.

        Raises:
            ValueError: a constructed prefix that leaves no room for a token.
        """
        require_room([prompt], sampling)
        group = _rows(prompt, sampling)
        for _ in self._decode([prompt], [group], sampling):
            yield _collect(group)

    def _decode(
        self, prompts: Sequence[RolloutPrompt], groups: Sequence[list[_Row]], sampling: SamplingSettings
    ) -> Iterator[None]:
        """Fill the rows of each prompt's group; comes back whenever each of those that go on has got a token."""
        rows = list(itertools.chain(*groups))  # those that go on
        lengths = [len(row.tokens) for row in rows]  # of the prefixes
        room = max(lengths) - min(lengths) + sampling.max_tokens
        state = self._prefill(prompts, room)
        cache, mask, positions, hidden = self._read_prefixes(rows, *state) if any(lengths) else state
        seen = None if sampling.repetition_penalty == 1 else self._seen(prompts)
        while True:
            logits = self.policy.logits(hidden)  # (R, V)
            if seen is not None:
                logits = torch.where(seen, _penalised(logits, sampling.repetition_penalty), logits)
            tokens = self._choose(rows, logits, sampling)
            if seen is not None:
                seen = seen.scatter(1, tokens[:, None], True)
            keep = [k for k, row in enumerate(rows) if not row.finished and len(row.tokens) < sampling.max_tokens]
            yield
            if not keep:
                return
            if len(keep) < COMPACT_BELOW * len(rows):
                index = torch.tensor(keep, device=self.policy.device)
                cache.batch_select_indices(index)
                mask, positions, tokens = mask[index], positions[index], tokens[index]
                seen = None if seen is None else seen[index]
                rows = [rows[k] for k in keep]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            hidden = self.policy.hidden_states(
                tokens[:, None], positions.expand(3, -1)[..., None], attention_mask=mask, cache=cache
            )[:, -1]
            positions = positions + 1

    def _seen(self, prompts: Sequence[RolloutPrompt]) -> Tensor:
        """(R, V) bool, the tokens of each row's prompt and prefix."""
        rows = []
        for request in prompts:
            for prefix in request.prefixes:
                seen = torch.zeros(self.policy.model.lm_head.out_features, dtype=torch.bool, device=self.policy.device)
                seen[torch.cat([request.prompt.input_ids, torch.tensor(prefix, dtype=torch.int64)]).to(seen.device)] = True
                rows.append(seen)
        return torch.stack(rows)

    def _prefill(self, prompts: Sequence[RolloutPrompt], room: int) -> _State:
        """Run each prompt once: its rows are left-padded to the longest, and there is room for so many tokens after them."""
        caches, last = [], []
        for request in prompts:
            prompt, cache = request.prompt.to(self.policy.device), DynamicCache(config=self.policy.decoder.config)
            features = request.features or self.policy.encode_video(prompt.video.frames)
            hidden = self.policy.hidden_states(
                prompt.input_ids[None],
                prompt.position_ids[:, None],
                features=features,
                video_mask=prompt.video_mask[None],
                cache=cache,
            )
            caches.append(cache)
            last.append(hidden[:, -1])
        repeats = torch.tensor([len(request.seeds) for request in prompts], device=self.policy.device)
        lengths = torch.tensor([len(p.prompt.input_ids) for p in prompts], device=self.policy.device)
        longest = int(lengths.max())
        shared = Cache(layers=[])
        for number, layers in enumerate(zip(*(cache.layers for cache in caches), strict=True)):
            if isinstance(layers[0], LinearAttentionLayer):
                shared.layers.append(_RecurrentLayer(layers, repeats))
                continue
            shared.layers.append(_PreallocatedLayer(room))
            keys = torch.cat([_left_pad(layer.keys, longest) for layer in layers])
            values = torch.cat([_left_pad(layer.values, longest) for layer in layers])
            shared.update(keys.repeat_interleave(repeats, 0), values.repeat_interleave(repeats, 0), number)
        mask = torch.arange(longest, device=repeats.device)[None, :] >= longest - lengths[:, None]  # (prompts, P)
        following = torch.tensor([int(p.prompt.position_ids.max()) + 1 for p in prompts], device=repeats.device)
        return shared, *(state.repeat_interleave(repeats, 0) for state in (mask, following, torch.cat(last)))

    def _read_prefixes(self, rows: list[_Row], cache: Cache, mask: Tensor, positions: Tensor, hidden: Tensor) -> _State:
        """Run the prefixes of all rows. They are left-padded, too: the last column is the last token of each."""
        lengths = torch.tensor([len(row.tokens) for row in rows], device=mask.device)  # (R,)
        longest = int(lengths.max())
        ids = torch.tensor([[0] * (longest - len(row.tokens)) + row.tokens for row in rows], device=mask.device)  # (R, L)
        place = torch.arange(longest, device=mask.device) - (longest - lengths)[:, None]  # (R, L), below 0 in the padding
        mask = torch.cat([mask, place >= 0], dim=1)  # (R, P + L)
        after = positions[:, None] + place.clamp(min=0)  # (R, L)
        bounds = {longest, *range(0, longest, max(1, PREFIX_TOKENS // len(rows)))}
        if self.policy.family.recurrent:
            bounds |= {longest - len(row.tokens) for row in rows}  # in each pass a row has tokens alone, or padding alone
        for start, end in itertools.pairwise(sorted(bounds)):
            some, where, so_far = ids[:, start:end], after[:, start:end], mask[:, : mask.shape[1] - longest + end]
            with _held(cache, place[:, start] < 0):
                last = self.policy.hidden_states(some, where.expand(3, -1, -1), attention_mask=so_far, cache=cache)[:, -1]
        return cache, mask, positions + lengths, torch.where(lengths[:, None] > 0, last, hidden)

    def _choose(self, rows: list[_Row], logits: Tensor, sampling: SamplingSettings) -> Tensor:
        """The next token of each row, (R,), drawn from the logits (R, V)."""
        log_p = torch.log_softmax(logits / (sampling.temperature or 1.0), dim=-1)
        if sampling.temperature == 0:
            tokens = log_p.argmax(-1)
        else:
            place = [min(len(row.tokens), sampling.max_tokens - 1) for row in rows]  # those at the end draw in vain
            uniform = torch.stack([row.uniforms[k] for row, k in zip(rows, place, strict=True)]).to(log_p.device)
            cumulative = log_p.double().exp().cumsum(-1)  # (R, V)
            tokens = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)[:, 0]
            tokens = tokens.clamp(max=log_p.shape[-1] - 1)
        values = log_p.gather(-1, tokens[:, None])[:, 0]
        for row, token, value in zip(rows, tokens.tolist(), values.tolist(), strict=True):
            if not row.finished and len(row.tokens) < sampling.max_tokens:
                row.tokens.append(token)
                row.log_probs.append(value)
                row.finished = token in self.end_ids
        return tokens


def _rows(prompt: RolloutPrompt, sampling: SamplingSettings) -> list[_Row]:
    pairs = zip(prompt.prefixes, prompt.seeds, strict=True)
    return [_Row(list(prefix), _uniforms(seed, sampling.max_tokens)) for prefix, seed in pairs]


def _uniforms(seed: int, count: int) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _penalised(logits: Tensor, penalty: float) -> Tensor:
    return torch.where(logits > 0, logits / penalty, logits * penalty)


def _left_pad(states: Tensor, length: int) -> Tensor:
    """(1, heads, P, d) -> (1, heads, length, d)."""
    return torch.nn.functional.pad(states, (0, 0, length - states.shape[2], 0))


def _collect(rows: list[_Row]) -> RolloutGroup:
    return RolloutGroup(
        completions=tuple(torch.tensor(row.tokens) for row in rows),
        log_probs=tuple(torch.tensor(row.log_probs, dtype=torch.float32) for row in rows),
        finished=tuple(row.finished for row in rows),
    )


class _PreallocatedLayer(DynamicLayer):
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
        length = self.get_seq_length()
        self.buffers = [buffer.index_select(0, indices) for buffer in self.buffers]
        self.keys, self.values = (buffer[:, :, :length] for buffer in self.buffers)


class _RecurrentLayer(LinearAttentionLayer):
    """One recurrent decoder layer's states, those after each prompt for each of its completions: the inputs that its
    convolution sees, (R, channels, K), and what it remembers, (R, heads, key size, value size)."""

    def __init__(self, prompts: Sequence[LinearAttentionLayer], repeats: Tensor) -> None:
        super().__init__()
        self.update_conv_state(torch.cat([layer.conv_states[0] for layer in prompts]).repeat_interleave(repeats, 0))
        self.update_recurrent_state(torch.cat([layer.recurrent_states[0] for layer in prompts]).repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self.reorder_cache(indices)


@contextmanager
def _held(cache: Cache, rows: Tensor) -> Iterator[None]:
    """Inside, recurrent states of these rows, (R,) bool, stay what they are: what the rows read is padding."""
    layers = [layer for layer in cache.layers if isinstance(layer, _RecurrentLayer)]
    states = [state for layer in layers for state in (layer.conv_states[0], layer.recurrent_states[0])]
    before = [state[rows] for state in states]
    yield
    for state, old in zip(states, before, strict=True):
        state[rows] = old
