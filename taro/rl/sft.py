"""Supervised warm start: the step of GRPO, whose completions are traces that samples bring along, and whose loss is their
cross-entropy.

G traces of a prompt, C tokens of the longest.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from taro.data.examples import TrainingExample
from taro.data.traces import traces_of
from taro.distributed import gather
from taro.models.sharding import gathered
from taro.rl.group import Group, make_group
from taro.rl.module import GRPOModule
from taro.rl.passes import make_packs, passes
from taro.rl.step_log import StepLog
from taro.rollout import RolloutGroup


class SFTModule(GRPOModule):
    """A policy that learns to write the traces of its samples. The engine answers validations alone, and of the settings of
    GRPOModule those of rollouts, rewards, advantages and the loss have no effect: the loss is the mean over all tokens of the
    step, the end of each trace among them."""

    stage = "sft"

    def __init__(self, name_or_path: str, **settings: Any) -> None:
        super().__init__(name_or_path, **settings)
        self.with_reference, self.temporal_reward, self.of_step = False, None, None
        self.sampling, self.loss = replace(self.sampling, temperature=1.0), replace(self.loss, updates=1)

    def training_step(self, batch: list[TrainingExample], batch_idx: int) -> dict[str, Any]:
        log = StepLog(self.device, gpu_peak_gib=self.gpu_peak_gib)
        groups = self.read_traces([example for example in batch if example.prompt is not None])
        tokens = sum(gather(sum(int(group.packed.response_mask.sum()) for group in groups)))
        strategy = self.trainer.strategy
        packs = make_packs(groups, self.policy, strategy, log, self.pack_tokens, self.rank_imbalance)
        for pack in passes(packs, self.policy, strategy):
            with log.timed("update"):
                current = self.current_log_probs(pack, with_entropy=True)
                losses = [cross_entropy(own.log_probs, tokens) for own in current]
                self.add_gradient(losses)
            for group, own, loss in zip(pack, current, losses, strict=True):
                log.add_tokens(group, own.entropy)
                log.add_sum("loss", loss.detach())
        with log.timed("update"):
            self.update(log)
        failed = [example for example in batch if example.prompt is None]
        self.log_step(log, failed)
        nothing = {"rollouts": [], "replaced": [], "groups": [], "skipped": []}
        return nothing | {"prompts": len(batch), "failed": failed}

    @torch.no_grad()
    def read_traces(self, examples: list[TrainingExample]) -> list[Group]:
        """The traces of each prompt as its group."""
        self.engine.sleep()  # it may have validated
        with gathered(self.policy):
            features = [self.encode(example) for example in examples]
        return [
            make_group(example, self.recite(traces_of(example.sample)), feature, self.builder)
            for example, feature in zip(examples, features, strict=True)
        ]

    def recite(self, traces: tuple[str, ...]) -> RolloutGroup:
        """Texts as an engine would give them, each with the token that ends a completion."""
        completions = tuple(torch.tensor([*self.builder.encode(text), self.builder.eos_id]) for text in traces)
        return RolloutGroup(completions, (), (True,) * len(completions))


def cross_entropy(log_probs: Tensor, tokens: int) -> Tensor:
    """A group's part of the loss, (), of its log-probs (G, C), which are 0 outside of its traces; `tokens`: of the step."""
    return -log_probs.sum() / max(1, tokens)
