"""GRPO for temporal grounding as a LightningModule. `training_step` is the algorithm.

Left out on purpose: a value model, an entropy bonus (TaRO's coefficient is 0), length penalties.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from taro.cache import DiskCacheSettings, TensorCache
from taro.data.examples import GroundingExample, TrainingExample
from taro.distributed import gather, sum_gradients, world_size
from taro.evaluation.metrics import GroundingMetrics
from taro.models.adapters import LoRASettings, adapters_off
from taro.models.feature_cache import FeatureCache
from taro.models.loading import load_policy, reload_policy
from taro.models.log_probs import GroupScores, score_nothing
from taro.models.packing import plan_packs
from taro.models.prompt import PromptBuilder
from taro.models.qwen_vl import QwenVL, VisionFeatures
from taro.models.sharding import gathered, reshard
from taro.models.strategy import ShardedStrategy
from taro.models.weights import whole_weight
from taro.progress import Plan, steps_done
from taro.prompts import parse_answer
from taro.rl.group import Group, JudgedGroup, compute_gaps, judge, make_group, needs_gaps, score, shuffled_log_probs
from taro.rl.importance import importance_weights, measure_mismatch
from taro.rl.losses import kl_loss, policy_loss
from taro.rl.schedule import learning_rate_factor
from taro.rl.settings import AdvantageSettings, LossSettings, OptimizerSettings, TemporalRewardSettings
from taro.rl.step_log import StepLog
from taro.rl.usage import peak_memory
from taro.rollout import (
    EngineModel,
    NativeEngine,
    RolloutEngine,
    RolloutPrompt,
    SamplingSettings,
    SyncedEngine,
    VLLMEngine,
    VLLMServerEngine,
    VLLMServerSettings,
    VLLMSettings,
)
from taro.seeds import seed_step

LARGEST_MISMATCH = 0.02  # nats per token; a stale engine has about 0.2


class GRPOModule(L.LightningModule):
    """Policy, frozen reference, GRPO loss and optimizer.

    Args:
        name_or_path: folder or hub name of a Qwen2.5-VL or Qwen3-VL model.
        group_size: completions per prompt (G).
        sampling: of training rollouts.
        evaluation_max_tokens: of the greedy completions of validation and test.
        temporal_reward: the temporal-sensitivity reward; None trains without it.
        advantages: how rewards become weights.
        loss: surrogate and KL.
        optimizer: AdamW.
        dtype: of the weights; compute precision is `trainer.precision`.
        lora: train low-rank adapters alone; None trains all of the decoder and the head.
        attention: of the decoder: `shared_prefix`; `flex`, FlexAttention's block masks, to train on GPUs; or `sdpa` with a
            dense mask.
        pack_tokens: groups share a forward pass while they have at most this many tokens together; one with more has a pass
            of its own.
        gradient_checkpointing: trade compute for memory in the decoder.
        engine: what makes rollouts: the policy itself (`native`), vLLM in this process (`vllm`), or a vLLM server on other
            GPUs (`vllm_server`).
        vllm: settings of the engine in this process.
        vllm_server: where the server is, and how it gets the weights.
        rollout_rows: completions that the native engine decodes together.
        feature_cache: folder that keeps the frozen tower's features of all videos across epochs and runs; None encodes each
            video once a step.
    """

    def __init__(
        self,
        name_or_path: str,
        group_size: int = 8,
        sampling: SamplingSettings = SamplingSettings(),
        evaluation_max_tokens: int = 1024,
        temporal_reward: TemporalRewardSettings | None = TemporalRewardSettings(),
        advantages: AdvantageSettings = AdvantageSettings(),
        loss: LossSettings = LossSettings(),
        optimizer: OptimizerSettings = OptimizerSettings(),
        dtype: str = "float32",
        lora: LoRASettings | None = None,
        attention: str = "shared_prefix",
        pack_tokens: int = 16384,
        gradient_checkpointing: bool = False,
        engine: Literal["native", "vllm", "vllm_server"] = "native",
        vllm: VLLMSettings = VLLMSettings(),
        vllm_server: VLLMServerSettings = VLLMServerSettings(),
        rollout_rows: int = 128,
        feature_cache: DiskCacheSettings | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.name_or_path, self.group_size = name_or_path, group_size
        self.rollout_rows, self.pack_tokens = rollout_rows, pack_tokens
        self.sampling = sampling
        self.greedy = SamplingSettings(temperature=0.0, max_tokens=evaluation_max_tokens)
        self.temporal_reward, self.advantages, self.loss = temporal_reward, advantages, loss
        self.optimizer_settings, self.dtype_name, self.attention = optimizer, dtype, attention
        self.gradient_checkpointing, self.feature_cache, self.lora = gradient_checkpointing, feature_cache, lora
        self.validation_metrics, self.test_metrics = GroundingMetrics(), GroundingMetrics()
        self.engine_name, self.vllm, self.vllm_server = engine, vllm, vllm_server
        self.warned_of_mismatch = False
        self.skipped_in_a_row = 0
        self.logged: tuple[str, ...] = ()  # names
        self.updated_step = 0  # the last step, from 1, that has changed the weights
        self.policy: QwenVL | None = None
        self.reference: QwenVL | None = None
        self.engine: SyncedEngine | None = None
        self.features: FeatureCache | None = None

    def configure_model(self) -> None:
        """Load the weights and start the engine; Lightning calls it before anything is run, with the GPU as the default device.
        That is undone here: transformers takes it for a wish to spread the model out, and vLLM pins tensors that it makes
        without naming a device."""
        if self.policy is None:
            with torch.device("cpu"):
                self.load()

    def load(self) -> None:
        """The policy, its reference and the engine."""
        mesh = self.device_mesh  # None unless the strategy shards the weights
        self.policy, self.reference = load_policy(
            self.name_or_path,
            self.dtype_name,
            self.attention,
            lora=self.lora,
            with_reference=self.loss.kl_coefficient > 0,
            mesh=mesh and mesh["data_parallel"],
            compute_dtype=torch.bfloat16 if self.trainer.precision == "bf16-mixed" else None,
        )
        if self.gradient_checkpointing:
            self.policy.model.gradient_checkpointing_enable({"use_reentrant": False})
        if self.feature_cache is not None:
            cache = TensorCache.from_settings(self.feature_cache, "model.feature_cache")
            self.features = FeatureCache(cache, self.policy.tower, self.policy.geometry)
        self.engine = SyncedEngine(self.make_engine(), self.policy)

    def restore_base(self) -> None:
        """Give the policy back the weights that training started from. Called by all ranks."""
        reload_policy(self.policy, self.name_or_path, self.dtype_name, self.lora)

    def make_engine(self) -> RolloutEngine:
        if self.engine_name == "native":
            return NativeEngine(self.policy, self.builder.end_ids, self.rollout_rows)
        longest = max(self.sampling.max_tokens, self.greedy.max_tokens)
        model = EngineModel.of(
            self.builder,
            max_model_len=self.trainer.datamodule.grounding.longest_prompt + longest,
            dtype="bfloat16" if self.trainer.precision == "bf16-mixed" else self.dtype_name,
            device=self.device.type,
        )
        if self.engine_name == "vllm_server":
            return VLLMServerEngine(model, self.vllm_server)
        return VLLMEngine(model, self.vllm)

    @property
    def builder(self) -> PromptBuilder:
        return self.trainer.datamodule.builder(training=self.trainer.training)

    def training_step(self, batch: list[TrainingExample], batch_idx: int) -> dict[str, Any]:
        seed_step(self.trainer.datamodule.seed, steps_done(self.trainer), self.global_rank)
        log = StepLog(self.device)
        groups = self.rollout(batch, log)
        tokens = sum(gather(sum(int(self.learned_mask(group).sum()) for group in groups)))
        plan = plan_packs([len(group.packed) for group in groups], self.pack_tokens)
        packed = [[groups[i] for i in members] for members in plan]
        with_shuffle = self.passes_with_shuffle(packed)
        packs: list[list[JudgedGroup]] = []
        for number, pack in enumerate(self.passes(packed)):
            shuffled = self.score_shuffled(pack, with_shuffle[number], log)
            reference = self.score_reference(pack, log)
            with log.timed("update"):
                scores = self.score_with_gradient(pack)
                judged = self.judge_pack(pack, scores, shuffled, reference, log)
                self.backward_pack(judged, scores, tokens, log)
            packs.append(judged)
        finite = [self.optimizer_step_now(log)]
        for _ in range(self.loss.updates - 1):
            for judged in self.passes(packs):
                scores = self.score_with_gradient([one.group for one in judged])
                self.backward_pack(judged, scores, tokens, log)
            finite.append(self.optimizer_step_now(log))
        failed = [example for example in batch if example.failure is not None]
        self.log_step(log, failed)
        skipped = [] if all(finite) else [one for pack in packs for one in pack]
        return {"rollouts": log.records, "failed": failed, "skipped": skipped}

    def passes(self, packs: list[list[Any]]) -> Iterator[list[Any]]:
        """The packs. Where weights are sharded, each pass takes all ranks: those with fewer packs go on with empty ones."""
        if not self.sharded:
            yield from packs
            return
        count = max(gather(len(packs)))
        with gathered(self.policy):  # ranks encode different numbers of shuffled videos
            for number in range(count):
                last = number == count - 1
                self.policy.set_requires_gradient_sync(last or self.trainer.strategy.gradient_sync == "pack")
                yield packs[number] if number < len(packs) else []

    def passes_with_shuffle(self, packs: list[list[Group]]) -> list[bool]:
        """Of each of the passes, whether it has shuffled videos to score. Where weights are sharded this takes all ranks, and
        so is what any of them needs."""
        reward = self.temporal_reward
        own = [reward is not None and any(needs_gaps(group, reward) for group in pack) for pack in packs]
        ranks = gather(own) if self.sharded else [own]
        return [any(flags) for flags in itertools.zip_longest(*ranks, fillvalue=False)]

    @property
    def sharded(self) -> bool:
        return isinstance(self.trainer.strategy, ShardedStrategy)

    def rollout(self, batch: list[TrainingExample], log: StepLog) -> list[Group]:
        """The groups of the prompts that could be built."""
        examples = [example for example in batch if example.prompt is not None]
        with log.timed("rollout"), torch.no_grad():
            with gathered(self.policy):
                features = [self.encode(example) for example in examples]
            requests = [
                RolloutPrompt(example.prompt, example.prefixes, example.seeds, feature)
                for example, feature in zip(examples, features, strict=True)
            ]
            rollouts = self.engine.generate(requests, self.sampling)
            self.engine.sleep()
        return [
            make_group(example, rollout, feature, self.builder)
            for example, rollout, feature in zip(examples, rollouts, features, strict=True)
        ]

    def forget_sync(self) -> None:
        """Weights may have been loaded meanwhile."""
        self.engine.weights_changed()

    on_train_start = on_validation_start = on_test_start = forget_sync

    def learned_mask(self, group: Group) -> Tensor:
        """(G, C) bool, the tokens that count: of another engine those without a finite log-prob can't be weighted."""
        mask = group.packed.response_mask
        if self.engine.is_policy:
            return mask
        return mask & (~group.sampled_mask | group.engine_log_probs.isfinite())

    def encode(self, example: GroundingExample) -> VisionFeatures:
        """Features of an example's video, from disk where they are kept there."""
        frames, sample = example.prompt.video.frames, example.sample
        encode = partial(self.policy.encode_video, frames)
        if self.features is None:
            return encode()
        grounding = self.trainer.datamodule.grounding
        settings = (grounding if self.trainer.training else grounding.for_evaluation()).video
        return self.features.features(sample.video, sample.clip, settings, frames, encode)

    def score_shuffled(self, pack: list[Group], needed: bool, log: StepLog) -> list[Tensor | None]:
        """Log-probs on the shuffled videos, (G, C) each; None where the gaps are not measured. `needed`: by any rank."""
        reward = self.temporal_reward
        if reward is None:
            return [None] * len(pack)
        with log.timed("shuffled"):
            chosen = [needs_gaps(group, reward) for group in pack]
            groups = list(itertools.compress(pack, chosen))
            found = shuffled_log_probs(self.policy, groups, reward, self.sampling.temperature) if needed else []
        scored = iter(found)
        return [next(scored) if measured else None for measured in chosen]

    @torch.no_grad()
    def score_reference(self, pack: list[Group], log: StepLog) -> list[Tensor | None]:
        """Log-probs under the reference, (G, C) each; None without a KL term."""
        if self.loss.kl_coefficient == 0:
            return [None] * len(pack)
        model = self.policy if self.reference is None else self.reference
        with log.timed("reference"), adapters_off(model.model) if self.reference is None else nullcontext():
            scores = score(model, pack, self.sampling.temperature)
        reshard(model)
        return [one.log_probs for one in scores]

    def score_with_gradient(self, pack: list[Group]) -> list[GroupScores]:
        """The groups' log-probs and entropies, with gradient."""
        with self.checkpointing():
            return score(self.policy, pack, self.sampling.temperature) if pack else []

    @contextmanager
    def checkpointing(self) -> Iterator[None]:
        """transformers checkpoints gradients in training mode alone, and then can't decode with a cache."""
        self.policy.train(self.gradient_checkpointing)
        yield
        self.policy.eval()

    def judge_pack(
        self,
        pack: list[Group],
        scores: list[GroupScores],
        shuffled: list[Tensor | None],
        reference: list[Tensor | None],
        log: StepLog,
    ) -> list[JudgedGroup]:
        """Rewards and weights of each group. The pass that carries the gradient gives the gap's original log-probs and the
        old ones, too."""
        judged = []
        for group, own, other, ref in zip(pack, scores, shuffled, reference, strict=True):
            gaps = None if other is None else compute_gaps(group, own.log_probs, other, self.temporal_reward.tokens)
            judgement = judge(group, gaps, self.temporal_reward, self.advantages)
            log.add_group(group, judgement, own.entropy)
            self.log_mismatch(group, own.log_probs.detach(), log)
            judged.append(JudgedGroup(group, judgement, own.log_probs.detach(), ref))
        return judged

    def log_mismatch(self, group: Group, log_probs: Tensor, log: StepLog) -> None:
        """How far the engine's log-probs are from the policy's, (G, C)."""
        mismatch = measure_mismatch(log_probs, group.engine_log_probs, group.sampled_mask)
        if mismatch is None:
            return
        log.add_mean("mismatch_kl", mismatch.kl, mismatch.tokens)
        log.add_mean("sampling/sampling_logp_difference/mean", mismatch.difference_mean, mismatch.tokens)
        log.add_max("sampling/sampling_logp_difference/max", mismatch.difference_max)
        if mismatch.difference_mean > LARGEST_MISMATCH and not self.warned_of_mismatch:
            self.warned_of_mismatch = True
            rank_zero_warn(
                f"the engine's log-probs are {mismatch.difference_mean:.3f} nats off the policy's on average, more than "
                f"{LARGEST_MISMATCH}: are its weights, its dtype and its kernels the policy's? Logged as "
                "sampling/sampling_logp_difference."
            )

    def backward_pack(self, judged: list[JudgedGroup], scores: list[GroupScores], tokens: int, log: StepLog) -> None:
        """Add the gradient of the pack's part of the loss. Ranks are added up when all packs are done."""
        losses = [self.group_loss(one, own.log_probs, tokens, log) for one, own in zip(judged, scores, strict=True)]
        with self.checkpointing():  # so that ranks gather weights in the same order
            loss = torch.stack(losses).sum() if losses else score_nothing(self.policy)
        if self.sharded:
            self.manual_backward(loss * world_size())  # FSDP2 takes the mean over ranks
            return
        with self.trainer.strategy.block_backward_sync() if self.trainer.world_size > 1 else nullcontext():
            self.manual_backward(loss)

    def group_loss(self, judged: JudgedGroup, log_probs: Tensor, denominator: int, log: StepLog) -> Tensor:
        """Sum over the group's tokens, divided by `denominator`: the surrogate and the KL."""
        device, example = log_probs.device, judged.group.example
        # A vision token that another engine let through can't be learned from: its log-prob is -inf by definition.
        mask = self.learned_mask(judged.group) & ~log_probs.isneginf()
        importance = None
        if not self.engine.is_policy and self.loss.importance_cap is not None:
            importance = importance_weights(
                judged.old_log_probs, judged.group.engine_log_probs, judged.group.sampled_mask & mask, self.loss.importance_cap
            )
        policy = policy_loss(
            log_probs,
            judged.old_log_probs,
            judged.judgement.weights.to(device),
            mask,
            example.constructed.to(device),
            clip_low=self.loss.clip_low,
            clip_high=self.loss.clip_high,
            dual_clip=self.loss.dual_clip,
            log_ratio_bound=self.loss.log_ratio_bound,
            importance=importance,
            denominator=denominator,
        )
        loss = policy.loss
        if judged.ref_log_probs is not None:
            kl = kl_loss(
                log_probs,
                judged.ref_log_probs,
                mask,
                log_ratio_bound=self.loss.log_ratio_bound,
                value_bound=self.loss.kl_bound,
                denominator=denominator,
            )
            loss = loss + self.loss.kl_coefficient * kl.loss
            log.add_mean("kl", kl.kl, mask.sum())
        log.add_mean("clip_ratio/region_mean", policy.clip_ratio, mask.sum())
        log.add_sum("loss", loss.detach())
        return loss

    def optimizer_step_now(self, log: StepLog) -> bool:
        """Add up over ranks, clip, step, zero. A gradient that is not finite never reaches the weights: the update is left out
        and counted. Returns whether it was finite."""
        optimizer = self.optimizers()
        if not self.sharded:
            sum_gradients(self.trained_parameters())
        norm = whole_weight(nn.utils.clip_grad_norm_(self.trained_parameters(), self.optimizer_settings.clip_norm))
        finite = bool(norm.isfinite())
        log.add_mean("skipped_steps", float(not finite), 1)
        if finite:
            self.updated_step = steps_done(self.trainer) + 1
            self.engine.weights_changed()
            self.skipped_in_a_row = 0
            log.add_mean("grad_norm", norm, 1)
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate()
            optimizer.step()
        else:
            self.skipped_in_a_row += 1
        optimizer.zero_grad()
        return finite

    def learning_rate(self) -> float:
        """Of this step. It follows from the step and the settings alone: no checkpoint has to keep it."""
        settings, data = self.optimizer_settings, self.trainer.datamodule
        plan = Plan.of(self.trainer, len(data.samples["train"]), data.prompts_per_step, self.loss.updates)
        return settings.learning_rate * learning_rate_factor(
            steps_done(self.trainer),
            plan.steps,
            schedule=settings.schedule,
            warmup_steps=settings.warmup_steps,
            final_share=settings.final_share,
        )

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """
        Raises:
            FloatingPointError: too many updates in a row had to be left out. Their batches have been written by now.
        """
        if self.skipped_in_a_row >= self.optimizer_settings.most_skipped:
            raise FloatingPointError(
                f"the gradient was not finite in {self.skipped_in_a_row} updates in a row; the weights are those from before. "
                "Look at the batches in the run's folder skipped/; lower model.optimizer.learning_rate, or set "
                "trainer.precision to 32-true"
            )

    def trained_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.policy.parameters() if parameter.requires_grad]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        settings = self.optimizer_settings
        return torch.optim.AdamW(
            self.trained_parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )

    def log_step(self, log: StepLog, failed: list[TrainingExample]) -> None:
        log.add_sum("data/failed", float(len(failed)))
        for name, value in {"learning_rate": self.learning_rate(), **peak_memory(self.device)}.items():
            log.add_max(name, value)
        if self.features is not None:
            for name, count in asdict(self.features.cache.counts).items():  # of the run so far
                log.add_sum(f"feature_cache/{name}", float(count))
        shown = {"loss", "reward", "kl", "timing_s/step"}
        # Lightning writes what it was given last until the epoch is over: what this step has no value for is nan.
        values = dict.fromkeys(self.logged, float("nan")) | log.values()
        self.logged = tuple(values)
        for name, value in values.items():
            self.log(name, value, prog_bar=name in shown, batch_size=max(1, len(log.records)))

    # Validation and test: greedy answers.

    def validation_step(self, batch: list[GroundingExample], batch_idx: int) -> None:
        self.evaluate_batch(batch, self.validation_metrics)

    def test_step(self, batch: list[GroundingExample], batch_idx: int) -> None:
        self.evaluate_batch(batch, self.test_metrics)

    def evaluate_batch(self, batch: list[GroundingExample], metrics: GroundingMetrics) -> None:
        """Answer the batch and count it; what can't be answered counts as failed."""
        examples = [example for example in batch if example.prompt is not None]
        with torch.no_grad(), gathered(self.policy):
            features = [self.encode(example) if self.engine.is_policy else None for example in examples]
        requests = [
            RolloutPrompt(example.prompt, ((),), (0,), feature) for example, feature in zip(examples, features, strict=True)
        ]
        groups = self.engine.generate(requests, self.greedy)
        texts = [self.builder.decode(group.completions[0]) for group in groups]
        metrics.update(
            [parse_answer(text) for text in texts],
            [example.sample.spans for example in examples],
            texts,
            failed=len(batch) - len(examples),
        )

    def on_validation_epoch_end(self) -> None:
        self.log_metrics(self.validation_metrics, "vtg")

    def on_test_epoch_end(self) -> None:
        self.log_metrics(self.test_metrics, "test")

    def log_metrics(self, metrics: GroundingMetrics, prefix: str) -> None:
        for name, value in metrics.compute().items():
            self.log(f"{prefix}/{name}", value.float(), prog_bar=False, sync_dist=True)  # the same on all ranks already
        metrics.reset()
