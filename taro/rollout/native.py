"""Rollouts by the policy itself: each prompt is prefilled once, and its keys and values are there once for all of its group;
constructed prefixes are read some columns at a time, and all rows of all groups are decoded together.

R rows (completions of all prompts), P prompt tokens (of the longest), L tokens of the longest prefix, K tokens in the cache, V
vocabulary, D hidden.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import LinearAttentionLayer

from taro.models.attention import OWN
from taro.models.packing import plan_packs
from taro.models.qwen_vl import QwenVL
from taro.models.shared_prompts import SharedPrompts
from taro.models.weights import Weight
from taro.rollout.engine import RolloutGroup, RolloutPrompt, SamplingSettings, require_room
from taro.rollout.native_cache import PreallocatedLayer, RecurrentLayer, held

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


@dataclass(frozen=True)
class _State:
    """After the tokens so far."""

    prompts: SharedPrompts | None  # None: the cache has them, and the mask tells of them
    cache: Cache  # with a row for each completion
    mask: Tensor  # (R, K) bool, of the cache: what is no padding
    positions: Tensor  # (R,) the next one of each row
    hidden: Tensor  # (R, D) of the last token of each row

    def select(self, rows: Tensor) -> _State:
        """Those rows alone; the cache is changed."""
        self.cache.batch_select_indices(rows)
        prompts = None if self.prompts is None else self.prompts.select(rows)
        return _State(prompts, self.cache, self.mask[rows], self.positions[rows], self.hidden[rows])


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
        if any(lengths):
            state = self._read_prefixes(rows, state)
        seen = None if sampling.repetition_penalty == 1 else self._seen(prompts)
        while True:
            logits = self.policy.logits(state.hidden)  # (R, V)
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
                state, tokens = state.select(index), tokens[index]
                seen = None if seen is None else seen[index]
                rows = [rows[k] for k in keep]
            state = self._read(state, tokens)

    def _read(self, state: _State, tokens: Tensor) -> _State:
        """The next token of each row, (R,)."""
        mask = torch.cat([state.mask, state.mask.new_ones(len(tokens), 1)], dim=1)
        where = state.positions.expand(3, -1)[..., None]
        hidden = self.policy.hidden_states(
            tokens[:, None], where, attention_mask=mask, cache=state.cache, prompts=state.prompts
        )
        return replace(state, mask=mask, positions=state.positions + 1, hidden=hidden[:, -1])

    def _seen(self, prompts: Sequence[RolloutPrompt]) -> Tensor:
        """(R, V) bool, the tokens of each row's prompt and prefix."""
        rows = []
        for request in prompts:
            for prefix in request.prefixes:
                seen = torch.zeros(self.policy.model.lm_head.out_features, dtype=torch.bool, device=self.policy.device)
                for ids in (request.prompt.input_ids, torch.tensor(prefix, dtype=torch.int64)):
                    seen[ids.to(seen.device)] = True
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
            last.append(hidden[:, -1].clone())  # which keeps none of the others
        repeats = torch.tensor([len(request.seeds) for request in prompts], device=self.policy.device)
        lengths = torch.tensor([len(p.prompt.input_ids) for p in prompts], device=self.policy.device)
        longest = int(lengths.max())
        mask = torch.arange(longest, device=repeats.device)[None, :] >= longest - lengths[:, None]  # (prompts, P)
        cache, shared = Cache(layers=[]), []  # keys and values of each layer
        for layers in zip(*(cache.layers for cache in caches), strict=True):
            if isinstance(layers[0], LinearAttentionLayer):
                cache.layers.append(RecurrentLayer(layers, repeats))
                shared.append((None, None))
                continue
            cache.layers.append(PreallocatedLayer(room))
            states = zip(*((layer.keys, layer.values) for layer in layers), strict=True)
            shared.append(tuple(torch.cat([_left_pad(one, longest) for one in of_prompts]) for of_prompts in states))
            for layer in layers:
                layer.keys = layer.values = None  # there is room for all prompts once
        following = torch.tensor([int(p.prompt.position_ids.max()) + 1 for p in prompts], device=repeats.device)
        positions, hidden = (state.repeat_interleave(repeats, 0) for state in (following, torch.cat(last)))
        if self.policy.attention in OWN:
            owners = torch.arange(len(prompts), device=repeats.device).repeat_interleave(repeats)
            return _State(SharedPrompts(*zip(*shared, strict=True), mask, owners), cache, mask[owners, :0], positions, hidden)
        for layer, states in zip(cache.layers, shared, strict=True):
            if states[0] is not None:
                layer.update(*(one.repeat_interleave(repeats, 0) for one in states))
        return _State(None, cache, mask.repeat_interleave(repeats, 0), positions, hidden)

    def _read_prefixes(self, rows: list[_Row], state: _State) -> _State:
        """Run the prefixes of all rows. They are left-padded, too: the last column is the last token of each."""
        device = state.mask.device
        lengths = torch.tensor([len(row.tokens) for row in rows], device=device)  # (R,)
        longest = int(lengths.max())
        ids = torch.tensor([[0] * (longest - len(row.tokens)) + row.tokens for row in rows], device=device)  # (R, L)
        place = torch.arange(longest, device=device) - (longest - lengths)[:, None]  # (R, L), below 0 in the padding
        mask = torch.cat([state.mask, place >= 0], dim=1)  # (R, K + L)
        after = state.positions[:, None] + place.clamp(min=0)  # (R, L)
        bounds = {longest, *range(0, longest, max(1, PREFIX_TOKENS // len(rows)))}
        if self.policy.family.recurrent:
            bounds |= {longest - len(row.tokens) for row in rows}  # in each pass a row has tokens alone, or padding alone
        for start, end in itertools.pairwise(sorted(bounds)):
            some, where, so_far = ids[:, start:end], after[:, start:end], mask[:, : mask.shape[1] - longest + end]
            with held(state.cache, place[:, start] < 0):
                last = self.policy.hidden_states(
                    some, where.expand(3, -1, -1), attention_mask=so_far, cache=state.cache, prompts=state.prompts
                )[:, -1]
        hidden = torch.where(lengths[:, None] > 0, last, state.hidden)
        return replace(state, mask=mask, positions=state.positions + lengths, hidden=hidden)

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
