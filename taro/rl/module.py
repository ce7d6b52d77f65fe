"""GRPO for temporal grounding as a LightningModule. `training_step` is the algorithm.

Left out on purpose: a value model, an entropy bonus (TaRO's coefficient is 0).
"""

from __future__ import annotations

import itertools
from dataclasses import asdict
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor

from taro.cache import DiskCacheSettings
from taro.data.examples import TrainingExample
from taro.distributed import gather
from taro.models.adapters import LoRASettings
from taro.models.log_probs import GroupLogProbs
from taro.progress import steps_done
from taro.ranges import GroupSize, NonNegativeFloat, NonNegativeInt, PositiveInt
from taro.rl.dynamic_sampling import Drawn, draw_groups
from taro.rl.group import Group, group_log_probs, reference_log_probs, shuffled_log_probs
from taro.rl.group_loss import TrainingGroup, group_loss
from taro.rl.group_rewards import compute_gaps, earn, needs_gaps, reward_group
from taro.rl.importance import measure_mismatch
from taro.rl.losses import count_terms
from taro.rl.passes import make_packs, on_any_rank, passes
from taro.rl.policy_module import PolicyModule
from taro.rl.rewards.choose import TARO, Rewards
from taro.rl.rollouts import roll_out
from taro.rl.rollouts_ahead import RolloutsAhead
from taro.rl.settings import AdvantageSettings, LossSettings, OptimizerSettings, TemporalRewardSettings
from taro.rl.step_advantages import StepAdvantages
from taro.rl.step_log import StepLog
from taro.rollout import RolloutEngine, SamplingSettings, VLLMServerSettings, VLLMSettings
from taro.rollout.start import start_training_engine
from taro.seeds import seed_step

SHOWN = {"loss", "reward", "kl", "timing_s/step"}  # by the progress bar


class GRPOModule(PolicyModule):
    """Policy, frozen reference, GRPO loss and optimizer.

    Args:
        name_or_path: folder or hub name of a Qwen2.5-VL, Qwen3-VL or Qwen3.5 model.
        group_size: completions per prompt (G).
        sampling: of training rollouts.
        evaluation_max_tokens: of the greedy completions of validation and test.
        rewards: by name, each with its weight, or with `weight` and its settings (docs/rewards.md).
        task_rewards: by task, in the same form, in place of `rewards` for its samples.
        temporal_reward: the temporal-sensitivity reward, which is added; None trains without it.
        advantages: how rewards become advantages.
        loss: surrogate and KL.
        optimizer: AdamW.
        dtype: of the weights; compute precision is `trainer.precision`.
        lora: train low-rank adapters alone; None trains all of the decoder and the head.
        attention: of the decoder: `shared_prefix`; `flex`, FlexAttention's block masks, to train on GPUs; or `sdpa` with a
            dense mask.
        pack_tokens: groups share a forward pass while they have at most this many tokens together; one with more has a pass
            of its own.
        rank_imbalance: groups move between ranks until none has more than this share of work above the mean; `.inf`: never.
        gradient_checkpointing: trade compute for memory in the decoder.
        torch_compile: compile the decoder's layers, but for their attention; the first steps take minutes more.
        engine: what makes rollouts: the policy itself (`native`), vLLM in this process (`vllm`), or a vLLM server on other
            GPUs (`vllm_server`).
        vllm: settings of the engine in this process.
        vllm_server: where the server is, and how it gets the weights.
        rollout_rows: completions that the native engine decodes together.
        shuffled_rollouts: completions beside each group, on the video with its frames in a random order, which the reward
            `t_grpo` compares with; half of `group_size` in its source. 0: none.
        dynamic_sampling: how often, at most, other prompts are drawn in the place of those whose completions all earn the same
            (DAPO). 0: never.
        rollouts_ahead: 1: a server makes the rollouts of a batch while the weights are updated with those of the batch before,
            so that they are one step old; the loss weighs their tokens for it (`loss.importance_cap`).
        feature_cache: folder that keeps the frozen tower's features of all videos across epochs and runs; None encodes each
            video once a step.
    """

    stage = "grpo"

    def __init__(
        self,
        name_or_path: str,
        group_size: GroupSize = 8,
        sampling: SamplingSettings = SamplingSettings(),
        evaluation_max_tokens: PositiveInt = 1024,
        rewards: dict[str, float | dict[str, Any]] = TARO,
        temporal_reward: TemporalRewardSettings | None = TemporalRewardSettings(),
        advantages: AdvantageSettings = AdvantageSettings(),
        loss: LossSettings = LossSettings(),
        optimizer: OptimizerSettings = OptimizerSettings(),
        dtype: str = "float32",
        lora: LoRASettings | None = None,
        attention: str = "shared_prefix",
        pack_tokens: PositiveInt = 16384,
        rank_imbalance: NonNegativeFloat = 0.05,
        gradient_checkpointing: bool = False,
        torch_compile: bool = False,
        engine: Literal["native", "vllm", "vllm_server"] = "native",
        vllm: VLLMSettings = VLLMSettings(),
        vllm_server: VLLMServerSettings = VLLMServerSettings(),
        rollout_rows: PositiveInt = 128,
        shuffled_rollouts: NonNegativeInt = 0,
        dynamic_sampling: NonNegativeInt = 0,
        rollouts_ahead: Literal[0, 1] = 0,
        feature_cache: DiskCacheSettings | None = None,
        task_rewards: dict[str, dict[str, float | dict[str, Any]]] | None = None,
    ) -> None:
        chosen = Rewards(rewards, task_rewards)  # before a model is loaded
        super().__init__(
            name_or_path,
            dtype,
            lora=lora,
            attention=attention,
            with_reference=loss.kl_coefficient > 0,
            gradient_checkpointing=gradient_checkpointing,
            torch_compile=torch_compile,
            feature_cache=feature_cache,
            optimizer=optimizer,
        )
        self.group_size, self.pack_tokens, self.rank_imbalance = group_size, pack_tokens, rank_imbalance
        self.sampling, self.greedy = sampling, SamplingSettings(temperature=0.0, max_tokens=evaluation_max_tokens)
        self.rewards, self.temporal_reward, self.advantages, self.loss = chosen, temporal_reward, advantages, loss
        self.shuffled_rollouts, self.dynamic_sampling = shuffled_rollouts, dynamic_sampling
        self.ahead = RolloutsAhead(sampling, shuffled_rollouts) if rollouts_ahead else None
        self.of_step = StepAdvantages(advantages) if advantages.of_step else None
        self.engine_name, self.vllm, self.vllm_server, self.rollout_rows = engine, vllm, vllm_server, rollout_rows
        self.warned_of_mismatch = rollouts_ahead > 0  # then there is one
        self.logged: tuple[str, ...] = ()  # names
        self.gpu_peak_gib = 0.0  # so far

    def start_engine(self) -> RolloutEngine:
        longest = self.trainer.datamodule.grounding.longest_prompt + max(self.sampling.max_tokens, self.greedy.max_tokens)
        return start_training_engine(
            self.engine_name,
            self.policy,
            self.builder,
            max_model_len=longest,
            device=self.device.type,
            dtype=self.compute_dtype,
            rows=self.rollout_rows,
            vllm=self.vllm,
            vllm_server=self.vllm_server,
        )

    def training_step(self, batch: list[TrainingExample], batch_idx: int) -> dict[str, Any]:
        seed_step(self.trainer.datamodule.seed, steps_done(self.trainer), self.global_rank)
        by_task = len(self.trainer.datamodule.train_tasks) > 1
        log, strategy = StepLog(self.device, by_task, self.gpu_peak_gib), self.trainer.strategy
        drawn = self.rollout(batch, log)
        if self.of_step is not None:
            self.of_step.take_in(steps_done(self.trainer), drawn.groups)
        terms = sum(gather(sum(map(self.count_terms, drawn.groups))))  # what the step's loss is divided by
        packs = make_packs(drawn.groups, self.policy, strategy, log, self.pack_tokens, self.rank_imbalance)
        shuffles = iter(on_any_rank([any(self.needs_gaps(pack)) for pack in packs], strategy))
        packs_to_train: list[list[TrainingGroup]] = []
        for pack in passes(packs, self.policy, strategy):
            shuffled = self.shuffled_log_probs(pack, next(shuffles), log)
            reference = self.reference_log_probs(pack, log)
            with log.timed("update"):
                current = self.current_log_probs(pack, with_entropy=True)
                to_train = self.reward_pack(pack, current, shuffled, reference, log)
                self.backward_pack(to_train, current, terms, log)
            packs_to_train.append(to_train)
        with log.timed("update"):
            finite = [self.update(log)]
            for _ in range(self.loss.updates - 1):
                for to_train in passes(packs_to_train, self.policy, strategy):
                    current = self.current_log_probs([training.group for training in to_train])
                    self.backward_pack(to_train, current, terms, log)
                finite.append(self.update(log))
        self.log_step(log, drawn.failed)
        trained = list(itertools.chain(*packs_to_train))
        return {
            "rollouts": log.records,
            "replaced": log.replaced,
            "groups": trained,
            "prompts": len(batch) + drawn.again,
            "failed": drawn.failed,
            "skipped": [] if all(finite) else trained,
        }

    # Sample

    def rollout(self, batch: list[TrainingExample], log: StepLog) -> Drawn:
        """The groups of the prompts that could be built."""
        with log.timed("rollout"), torch.no_grad():
            if self.ahead is not None:
                batch = self.ahead.exchange(batch, self.engine, self.policy, self.trainer.global_step)
                log.add_max("rollout/staleness", self.ahead.staleness)
            draw_again, rounds = self.trainer.datamodule.draw_again, self.dynamic_sampling
            drawn = draw_groups(batch, self.generate, draw_again, rounds, log.add_replaced)
            self.engine.sleep()
        if self.dynamic_sampling:
            log.add_sum("rollout/drawn_again", drawn.again)
        return drawn

    def generate(self, examples: list[TrainingExample]) -> list[Group]:
        """The group of each, with what it earns where that has to be known before any pass."""
        examples = [example.to(self.device) for example in examples]  # those that are drawn again come from the CPU
        engine, shuffled = self.ahead or self.engine, self.shuffled_rollouts
        groups = roll_out(examples, engine, self.policy, self.encode, self.builder, self.sampling, shuffled)
        early = self.of_step is not None or self.dynamic_sampling > 0
        return [earn(group, self.rewards) for group in groups] if early else groups

    # Score

    def needs_gaps(self, pack: list[Group]) -> list[bool]:
        """Whether the temporal gaps of each group are measured."""
        return [self.temporal_reward is not None and needs_gaps(group, self.temporal_reward) for group in pack]

    def shuffled_log_probs(self, pack: list[Group], needed: bool, log: StepLog) -> list[Tensor | None]:
        """Log-probs on the shuffled videos, (G, C) each; None where the gaps are not measured. `needed`: by any rank."""
        if self.temporal_reward is None:
            return [None] * len(pack)
        with log.timed("shuffled"):
            chosen = self.needs_gaps(pack)
            groups = list(itertools.compress(pack, chosen))
            reward, temperature = self.temporal_reward, self.sampling.temperature
            found = iter(shuffled_log_probs(self.policy, groups, reward, temperature) if needed else [])
        return [next(found) if measured else None for measured in chosen]

    def reference_log_probs(self, pack: list[Group], log: StepLog) -> list[Tensor | None]:
        """Log-probs under the reference, (G, C) each; None without a KL term."""
        if self.loss.kl_coefficient == 0:
            return [None] * len(pack)
        with log.timed("reference"):
            return reference_log_probs(self.policy, self.reference, pack, self.sampling.temperature)

    def current_log_probs(self, pack: list[Group], *, with_entropy: bool = False) -> list[GroupLogProbs]:
        """Log-probs under the policy, with gradient; entropies for the log."""
        with self.checkpointing():
            temperature = self.sampling.temperature
            return group_log_probs(self.policy, pack, temperature, with_entropy=with_entropy) if pack else []

    # Reward and loss

    def reward_pack(
        self,
        pack: list[Group],
        current: list[GroupLogProbs],
        shuffled: list[Tensor | None],
        reference: list[Tensor | None],
        log: StepLog,
    ) -> list[TrainingGroup]:
        """Rewards and advantages of each group. The pass that carries the gradient gives the gap's original log-probs and the
        old ones, too."""
        to_train = []
        for group, own, other, ref in zip(pack, current, shuffled, reference, strict=True):
            log_probs = own.log_probs.detach()
            gaps = None if other is None else compute_gaps(group, log_probs, other, self.temporal_reward.tokens)
            rewards = reward_group(group, gaps, self.temporal_reward, self.advantages, self.rewards, self.of_step)
            log.add_group(group, rewards, own.entropy)
            mismatch = measure_mismatch(log_probs, group.rollout_log_probs, group.sampled_mask)
            if mismatch is not None:
                log.add_mismatch(mismatch)
                self.warned_of_mismatch = self.warned_of_mismatch or mismatch.warn()
            to_train.append(TrainingGroup(group, rewards, log_probs, ref, other))
        return to_train

    def count_terms(self, group: Group) -> int:
        """What a group adds to the denominator of the loss."""
        return count_terms(group.learned_mask(self.engine.is_policy), self.loss.average, self.sampling.max_tokens)

    def backward_pack(
        self, to_train: list[TrainingGroup], current: list[GroupLogProbs], terms: int, log: StepLog
    ) -> None:
        """Add the gradient of the pack's part of the loss."""
        losses = [
            group_loss(training, own.log_probs, self.loss, on_policy=self.engine.is_policy, denominator=terms)
            for training, own in zip(to_train, current, strict=True)
        ]
        for loss in losses:
            log.add_loss(loss)
        self.add_gradient([loss.loss for loss in losses])

    # Callbacks and the log

    def configure_callbacks(self) -> list[L.Callback]:
        """What keeps something in checkpoints."""
        return [one for one in [self.of_step] if one is not None and one not in self.trainer.callbacks]

    def log_step(self, log: StepLog, failed: list[TrainingExample]) -> None:
        log.add_sum("data/failed", float(len(failed)))
        log.add_max("learning_rate", self.learning_rate())
        log.add_max("curriculum/constructed_probability", self.trainer.datamodule.constructed_probability)
        if self.features is not None:
            log.add_counts("feature_cache", asdict(self.features.cache.counts))
        # Lightning writes what it was given last until the epoch is over: what this step has no value for is nan.
        values = dict.fromkeys(self.logged, float("nan")) | log.values()
        self.logged, self.gpu_peak_gib = tuple(values), log.gpu_peak_gib
        for name, value in values.items():
            self.log(name, value, prog_bar=name in SHOWN, batch_size=max(1, len(log.records)))
