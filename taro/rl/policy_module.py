"""A policy with its reference and its rollout engine, as a LightningModule that loads them, updates the weights by the
gradients that it is given, and is evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from taro.cache import DiskCacheSettings, TensorCache
from taro.data.examples import GroundingExample
from taro.distributed import world_size
from taro.evaluation.metrics import TaskMetrics
from taro.models.adapters import LoRASettings
from taro.models.compiled import compile_layers
from taro.models.feature_cache import FeatureCache
from taro.models.loading import load_policy, reload_policy
from taro.models.log_probs import empty_pass
from taro.models.prompt import PromptBuilder
from taro.models.qwen_vl import QwenVL, VisionFeatures
from taro.models.sharding import ShardedStrategy, gathered
from taro.progress import Plan, steps_done
from taro.rl.settings import LossSettings, OptimizerSettings
from taro.rl.step_log import StepLog
from taro.rl.update import learning_rate, make_optimizer, require_updates, sum_and_clip
from taro.rollout import RolloutEngine, RolloutPrompt, SamplingSettings, SyncedEngine


class PolicyModule(L.LightningModule):
    """What a method needs around the policy. Subclasses train it, start its engine, and set `greedy` and `loss`. Validation and
    test count greedy answers, logged as `vtg/...` and `test/...`.

    Args: as `GRPOModule`'s; `with_reference`: keep a frozen copy of the first weights, where adapters can't be left out.
    """

    greedy: SamplingSettings  # of validation and test
    loss: LossSettings  # which says how many updates a step has

    def __init__(
        self,
        name_or_path: str,
        dtype: str,
        *,
        lora: LoRASettings | None,
        attention: str,
        with_reference: bool,
        gradient_checkpointing: bool,
        torch_compile: bool,
        feature_cache: DiskCacheSettings | None,
        optimizer: OptimizerSettings,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.name_or_path, self.dtype_name, self.lora, self.attention = name_or_path, dtype, lora, attention
        self.with_reference, self.gradient_checkpointing = with_reference, gradient_checkpointing
        self.torch_compile, self.feature_cache, self.optimizer_settings = torch_compile, feature_cache, optimizer
        self.skipped_in_a_row = 0
        self.updated_step = 0  # the last step, from 1, that has changed the weights
        self.validation_metrics, self.test_metrics = TaskMetrics(), TaskMetrics()
        self.policy: QwenVL | None = None
        self.reference: QwenVL | None = None
        self.engine: SyncedEngine | None = None
        self.features: FeatureCache | None = None

    def start_engine(self) -> RolloutEngine:
        """The policy is loaded by then."""
        raise NotImplementedError

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
            with_reference=self.with_reference,
            mesh=mesh and mesh["data_parallel"],
            compute_dtype=torch.bfloat16 if self.trainer.precision == "bf16-mixed" else None,
        )
        if self.gradient_checkpointing:
            self.policy.model.gradient_checkpointing_enable({"use_reentrant": False})
        for model in filter(None, (self.policy, self.reference)) if self.torch_compile else ():
            compile_layers(model.decoder)
        if self.feature_cache is not None:
            cache = TensorCache.from_settings(self.feature_cache, "model.feature_cache")
            self.features = FeatureCache(cache, self.policy.tower, self.policy.geometry)
        self.engine = SyncedEngine(self.start_engine(), self.policy)

    def restore_base(self) -> None:
        """Give the policy back the weights that training started from. Called by all ranks."""
        reload_policy(self.policy, self.name_or_path, self.dtype_name, self.lora)

    @property
    def builder(self) -> PromptBuilder:
        return self.trainer.datamodule.builder(training=self.trainer.training)

    @property
    def sharded(self) -> bool:
        return isinstance(self.trainer.strategy, ShardedStrategy)

    @property
    def compute_dtype(self) -> str:
        return "bfloat16" if self.trainer.precision == "bf16-mixed" else self.dtype_name

    def trained_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.policy.parameters() if parameter.requires_grad]

    @contextmanager
    def checkpointing(self) -> Iterator[None]:
        """transformers checkpoints gradients in training mode alone, and then can't decode with a cache. Backward passes belong
        in it, too: layers that are compiled are compiled for each mode."""
        self.policy.train(self.gradient_checkpointing)
        yield
        self.policy.eval()

    def encode(self, example: GroundingExample) -> VisionFeatures:
        """Features of an example's video, from disk where they are kept there."""
        frames, sample = example.prompt.video.frames, example.sample
        encode = partial(self.policy.encode_video, frames)
        if self.features is None:
            return encode()
        grounding = self.trainer.datamodule.grounding
        settings = (grounding if self.trainer.training else grounding.for_evaluation()).video
        return self.features.features(sample.video, sample.clip, settings, frames, encode)

    def add_gradient(self, losses: list[Tensor]) -> None:
        """Add the gradient of a pack's losses, () each, also of none. Ranks are added up when all packs are done."""
        with self.checkpointing():  # so that ranks gather weights in the same order
            total = torch.stack(losses).sum() if losses else empty_pass(self.policy)
            if self.sharded:
                self.manual_backward(total * world_size())  # FSDP2 takes the mean over ranks
                return
            with self.trainer.strategy.block_backward_sync() if self.trainer.world_size > 1 else nullcontext():
                self.manual_backward(total)

    def update(self, log: StepLog) -> bool:
        """Update the weights. A gradient that is not finite never reaches them: the update is left out and counted. Returns
        whether it was finite."""
        optimizer = self.optimizers()
        gradient = sum_and_clip(self.trained_parameters(), self.optimizer_settings.clip_norm, sharded=self.sharded)
        log.add_gradient(gradient)
        if gradient.finite:
            self.updated_step = steps_done(self.trainer) + 1
            self.engine.weights_changed()
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate()
            optimizer.step()
        self.skipped_in_a_row = 0 if gradient.finite else self.skipped_in_a_row + 1
        optimizer.zero_grad()
        return gradient.finite

    def learning_rate(self) -> float:
        """Of this step."""
        plan = Plan.of(self.trainer, self.trainer.datamodule, self)
        return learning_rate(self.optimizer_settings, steps_done(self.trainer), plan.steps)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return make_optimizer(self.trained_parameters(), self.optimizer_settings)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Raises FloatingPointError; the batches without an update are written down by now."""
        require_updates(self.skipped_in_a_row, self.optimizer_settings)

    def on_train_end(self) -> None:
        """A server is left with nothing to do."""
        self.engine.wait()

    def forget_sync(self) -> None:
        """Weights may have been loaded meanwhile."""
        self.engine.weights_changed()

    on_train_start = on_validation_start = on_test_start = forget_sync

    def evaluate_batch(self, batch: list[GroundingExample], metrics: TaskMetrics) -> None:
        """Answer the batch greedily and count it; what has no prompt counts as failed."""
        examples = [example for example in batch if example.prompt is not None]
        features: list[VisionFeatures | None] = [None] * len(examples)
        if self.engine.is_policy:  # others have a tower of their own
            with torch.no_grad(), gathered(self.policy):
                features = [self.encode(example) for example in examples]
        requests = [
            RolloutPrompt(example.prompt, ((),), (0,), feature) for example, feature in zip(examples, features, strict=True)
        ]
        texts = iter([self.builder.decode(group.completions[0]) for group in self.engine.generate(requests, self.greedy)])
        answered = [None if example.prompt is None else next(texts) for example in batch]
        metrics.update([example.sample for example in batch], answered)

    def log_metrics(self, metrics: TaskMetrics, prefix: str) -> None:
        for name, value in metrics.compute().items():
            self.log(f"{prefix}/{name}", value.float(), prog_bar=False, sync_dist=True)  # the same on all ranks already
        metrics.reset()

    def validation_step(self, batch: list[GroundingExample], batch_idx: int) -> None:
        self.evaluate_batch(batch, self.validation_metrics)

    def test_step(self, batch: list[GroundingExample], batch_idx: int) -> None:
        self.evaluate_batch(batch, self.test_metrics)

    def on_validation_epoch_end(self) -> None:
        self.log_metrics(self.validation_metrics, "vtg")

    def on_test_epoch_end(self) -> None:
        self.log_metrics(self.test_metrics, "test")
