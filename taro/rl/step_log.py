"""Collects what one training step logs, under the names that TRL made common.

G completions of a group.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from taro.distributed import gather
from taro.prompts import reasoning_has_timestamp
from taro.rl.group import Group
from taro.rl.group_loss import GroupLoss
from taro.rl.group_rewards import GroupRewards, compute_ious, earned_total, read_completions, read_shuffled
from taro.rl.importance import Mismatch
from taro.rl.update import Gradient
from taro.rl.usage import cpu_peak_gib, memory_now, read_clock
from taro.spans import Span
from taro.tasks import DEFAULT


class StepLog:
    """Sums, weighted means, maxima, times and memory of a step, and a record of each completion.

    Args:
        device: that the step's work is queued on: the time of a part ends when that is done.
        by_task: log rewards by task, too.
        gpu_peak_gib: of the steps before.
    """

    def __init__(self, device: torch.device, by_task: bool = False, gpu_peak_gib: float = 0.0) -> None:
        self.device, self.by_task = device, by_task
        self.sums: dict[str, float] = defaultdict(float)
        self.weights: dict[str, float] = defaultdict(float)
        self.seconds: dict[str, float] = defaultdict(float)
        self.maxima: dict[str, float] = {}
        self.records: list[dict[str, Any]] = []
        self.replaced: list[dict[str, Any]] = []  # of completions that are not trained on
        self.tokens = 0
        self.gpu_peak_gib = gpu_peak_gib  # of the run so far
        self.started = read_clock(device)

    def add_sum(self, name: str, value: Tensor | float) -> None:
        """Over the groups of all ranks."""
        self.sums[name] += float(value)

    def add_counts(self, name: str, counts: dict[str, int]) -> None:
        """Of the run so far, over all ranks."""
        for kind, count in counts.items():
            self.add_sum(f"{name}/{kind}", float(count))

    def add_mean(self, name: str, value: Tensor | float, weight: Tensor | float) -> None:
        self.sums[name] += float(value) * float(weight)
        self.weights[name] += float(weight)

    def add_max(self, name: str, value: float) -> None:
        self.maxima[name] = max(value, self.maxima.get(name, value))

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """A part of the step: its seconds, and its memory: the resident set at its end, what a GPU had allocated at most."""
        start = read_clock(self.device)
        self._read_memory()  # what was before is no part of it
        yield
        self.seconds[name] += read_clock(self.device) - start
        for kind, gib in self._read_memory().items():
            self.add_max(f"memory/{name}/{kind}", gib)

    def _read_memory(self) -> dict[str, float]:
        memory = memory_now(self.device)
        self.gpu_peak_gib = max(self.gpu_peak_gib, memory.get("gpu_peak_gib", 0.0))
        return memory

    def add_group(self, group: Group, rewards: GroupRewards, entropy: Tensor) -> None:
        """Log a group and keep a record of each of its completions."""
        self.add_tokens(group, entropy)
        self._add_rewards(rewards)
        if self.by_task:
            prefix = f"tasks/{group.example.sample.task}/"
            self._add_rewards(rewards, prefix)
            self.add_mean(f"{prefix}IoU", rewards.ious.mean(), 1)
            self.add_sum(f"{prefix}prompts", 1)
        self.add_mean("completions/clipped_ratio", 1 - sum(group.rollout.finished) / len(group.texts), 1)
        self.add_mean("taro/constructed_fraction", group.example.constructed.float().mean(), 1)
        if "temporal" in rewards.by_name:
            self.add_mean("taro/gap_skipped", float(rewards.gaps is None), 1)
            finite = [] if rewards.gaps is None else rewards.gaps[rewards.gaps.isfinite()]
            self.add_mean("taro/temporal_gap", finite.mean() if len(finite) else 0.0, len(finite) > 0)
        self.add_mean("rollout/IoU", rewards.ious.mean(), 1)
        if group.shuffled_texts:
            self.add_mean("rollout/IoU_shuffled", compute_ious(read_shuffled(group)).mean(), 1)
        named = [reasoning_has_timestamp(text) for text in group.texts]
        self.add_mean("rollout/timestamp_rate", sum(named) / len(named), 1)
        self.records += list(_records(group, rewards))

    def add_tokens(self, group: Group, entropy: Tensor) -> None:
        """Log how long the completions of a group are, and the entropy of their tokens, (G, C)."""
        mask = group.packed.response_mask
        self.add_mean("completions/mean_length", mask.sum(1).float().mean(), 1)
        self.add_mean("entropy", entropy.sum() / mask.sum(), mask.sum())
        self.tokens += len(group.packed)

    def add_replaced(self, group: Group) -> None:
        """Keep a record of each completion of a group that dynamic sampling has drawn another in the place of."""
        total = earned_total(group).tolist()
        for row, completion in enumerate(read_completions(group)):
            self.replaced.append(_said(group, row, completion.span, completion.iou) | {"reward": total[row]})

    def _add_rewards(self, rewards: GroupRewards, prefix: str = "") -> None:
        total = rewards.total
        self.add_mean(f"{prefix}reward", total.mean(), 1)
        self.add_mean(f"{prefix}reward_std", total.std(), 1)
        self.add_mean(f"{prefix}frac_reward_zero_std", float(total.max() == total.min()), 1)
        for name, values in rewards.by_name.items():
            self.add_mean(f"{prefix}rewards/{name}/mean", values.mean(), 1)

    def add_mismatch(self, mismatch: Mismatch) -> None:
        """Log how far the engine's log-probs of a group are from the policy's."""
        self.add_mean("mismatch_kl", mismatch.kl, mismatch.tokens)
        self.add_mean("sampling/sampling_logp_difference/mean", mismatch.difference_mean, mismatch.tokens)
        self.add_max("sampling/sampling_logp_difference/max", mismatch.difference_max)

    def add_loss(self, loss: GroupLoss) -> None:
        """Log a group's part of the loss."""
        if loss.kl is not None:
            self.add_mean("kl", loss.kl.kl, loss.tokens)
        self.add_mean("clip_ratio/region_mean", loss.policy.clip_ratio, loss.tokens)
        self.add_sum("loss", loss.loss.detach())

    def add_gradient(self, gradient: Gradient) -> None:
        """Log an update, which is left out where the gradient is not finite."""
        self.add_mean("skipped_steps", float(not gradient.finite), 1)
        if gradient.finite:
            self.add_mean("grad_norm", gradient.norm, 1)

    def values(self) -> dict[str, float]:
        """All logged values, over the prompts of all ranks: a mean over nothing is nan; times are seconds, `timing_s/...`,
        those of the slowest rank, and memory is GiB, `memory/...`, of the rank with the most; `tokens_per_second` are prompt
        and completion tokens of all ranks, each prompt once."""
        self.seconds["step"] = read_clock(self.device) - self.started
        self._read_memory()
        self.add_max("memory/cpu_peak_gib", cpu_peak_gib())
        if self.device.type == "cuda":
            self.add_max("memory/gpu_peak_gib", self.gpu_peak_gib)
        ranks = gather((dict(self.sums), dict(self.weights), self.maxima, dict(self.seconds), self.tokens))
        sums, weights = (_reduced((rank[part] for rank in ranks), operator.add) for part in (0, 1))
        maxima, seconds = (_reduced((rank[part] for rank in ranks), max) for part in (2, 3))
        means = {
            name: value if name not in weights else value / weights[name] if weights[name] else float("nan")
            for name, value in sums.items()
        }
        rate = sum(tokens for *_, tokens in ranks) / seconds["step"]
        return means | maxima | {f"timing_s/{name}": value for name, value in seconds.items()} | {"tokens_per_second": rate}


def _reduced(parts: Iterable[dict[str, float]], combine: Callable[[float, float], float]) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = combine(total[name], value) if name in total else value
    return total


def _records(group: Group, rewards: GroupRewards) -> Iterator[dict[str, Any]]:
    task = group.example.sample.task
    measured = [None] * len(group.texts) if rewards.gaps is None else rewards.gaps.tolist()
    gaps = [gap if gap == gap else None for gap in measured]
    total = rewards.total.tolist()
    for row in range(len(group.texts)):
        earned = {
            "temporal_gap": gaps[row],
            "rewards": {name: float(values[row]) for name, values in rewards.by_name.items()},
            "reward": total[row],
            "weight": float(rewards.advantages[row]),
        }
        said = _said(group, row, rewards.spans[row], float(rewards.ious[row]))
        yield said | earned | ({} if task == DEFAULT else {"task": task})


def _said(group: Group, row: int, answer: Span | None, iou: float) -> dict[str, Any]:
    sample = group.example.sample
    return {
        "id": sample.id,
        "query": sample.query,
        "spans": sample.spans,
        "completion": group.texts[row],
        "answer": answer,
        "constructed": bool(group.example.constructed[row]),
        "finished": group.rollout.finished[row],
        "iou": iou,
    }
