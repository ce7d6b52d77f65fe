"""What lies between training and whatever generates completions: `RolloutEngine`, and what goes in and comes out.

G completions of a prompt, C_i tokens of completion i.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from taro.distributed import world_size
from taro.errors import TaroError
from taro.models.prompt import Prompt
from taro.models.qwen_vl import QwenVL, VisionFeatures
from taro.models.sharding import gathered, reshard
from taro.models.weights import Weight
from taro.ranges import FiniteNonNegativeFloat, PositiveFloat, PositiveInt

Result = TypeVar("Result")


@dataclass(frozen=True)
class SamplingSettings:
    """How completions are drawn.

    Args:
        temperature: divides the logits; 0 takes the most likely token.
        max_tokens: of a completion, its constructed prefix included.
        repetition_penalty: divides positive logits, and multiplies negative ones, of tokens that the prompt or the
            completion has already (arXiv 1909.05858). For evaluation: with anything but 1 the samples are not the policy's.
    """

    temperature: FiniteNonNegativeFloat = 1.0
    max_tokens: PositiveInt = 1024
    repetition_penalty: PositiveFloat = 1.0


@dataclass(frozen=True)
class RolloutPrompt:
    """One prompt and the group that is asked of it. Filled by the training step or by evaluation, read by engines."""

    prompt: Prompt
    prefixes: tuple[tuple[int, ...], ...]  # for each of the G completions the token ids that it starts with, or ()
    seeds: tuple[int, ...]  # (G) one for each completion: the same seed draws the same completion
    features: VisionFeatures | None = None  # of the video, where the caller has them already


@dataclass(frozen=True)
class RolloutGroup:
    """The G completions of one prompt. Filled by an engine."""

    completions: tuple[Tensor, ...]  # (C_i,) int64 token ids, prefix included, the end token too where there is one
    log_probs: tuple[Tensor, ...]  # (C_i,) float32 under the engine at the sampling temperature; nan on prefix tokens
    finished: tuple[bool, ...]  # False: cut at max_tokens


class EngineError(TaroError):
    """An engine that can't be started, or failed."""


def require_room(prompts: Sequence[RolloutPrompt], sampling: SamplingSettings) -> None:
    """Check that each completion has a token to draw.

    Raises:
        ValueError: a constructed prefix that leaves no room for a token.
    """
    for number, prompt in enumerate(prompts):
        longest = max(len(prefix) for prefix in prompt.prefixes)
        if longest >= sampling.max_tokens:
            raise ValueError(
                f"prompt {number} has a constructed prefix of {longest} tokens, sampling.max_tokens = "
                f"{sampling.max_tokens} leaves no room after it: raise it, or use fewer captions"
            )


@runtime_checkable
class RolloutEngine(Protocol):
    """Generates completions with weights that follow the policy's."""

    is_policy: bool  # the policy itself samples, so its log-probs are the engine's
    stale: bool  # it has no weights, or none that are known to be the policy's: `sync` comes first

    def generate(self, prompts: Sequence[RolloutPrompt], sampling: SamplingSettings) -> list[RolloutGroup]:
        """One group for each prompt, in their order."""
        ...

    def stream(
        self, prompts: Iterable[RolloutPrompt], sampling: SamplingSettings, at_once: int
    ) -> Iterator[tuple[int, RolloutGroup]]:
        """Groups as they are finished, with the numbers of their prompts, which are taken when there is room: at most
        `at_once` are worked on."""
        ...

    def sync(self, named_parameters: Iterable[tuple[str, Weight]]) -> None:
        """Take over the policy's weights, by their transformers names. Comes before the first `generate` and after each
        `sleep` and `restart`."""
        ...

    def sleep(self) -> None:
        """Give back, until the next rollout, what memory can be given back."""
        ...

    def restart(self) -> None:
        """Start anew after an EngineError."""
        ...

    def close(self) -> None:
        """Give back for good what it holds."""
        ...


@dataclass(frozen=True)
class Begun:
    """Rollouts that a thread waits for."""

    prompts: Sequence[RolloutPrompt]
    sampling: SamplingSettings
    groups: Future[list[RolloutGroup]]


class SyncedEngine:
    """Hands the policy's weights to an engine when they have changed, and replaces one that fails once, unless other ranks
    would have to wait."""

    def __init__(self, engine: RolloutEngine, policy: QwenVL) -> None:
        self.engine, self.policy, self.synced = engine, policy, False
        self.begun: Begun | None = None

    @property
    def is_policy(self) -> bool:
        return self.engine.is_policy

    def weights_changed(self) -> None:
        """Have the next `generate`, or `begin`, hand over the policy's weights."""
        self.synced = False

    def generate(self, prompts: Sequence[RolloutPrompt], sampling: SamplingSettings) -> list[RolloutGroup]:
        """One group for each prompt. What was begun is waited for, and stays there."""
        generate = partial(self._generate, prompts, sampling)
        return self._twice(generate, generate)

    def begin(self, prompts: Sequence[RolloutPrompt], sampling: SamplingSettings) -> None:
        """Begin with one group for each prompt, by the weights as they are now, which may change meanwhile. Only for an engine
        that neither the policy's weights nor its hardware are needed for."""
        self._twice(self._sync, self._sync)
        thread = ThreadPoolExecutor(1)
        self.begun = Begun(prompts, sampling, thread.submit(self.engine.generate, prompts, sampling))
        thread.shutdown(wait=False)

    def finish(self) -> list[RolloutGroup]:
        """What was begun, [] where nothing was. Where that failed it is made again, by the weights as they are now."""
        begun, self.begun = self.begun, None
        if begun is None:
            return []
        return self._twice(begun.groups.result, partial(self._generate, begun.prompts, begun.sampling))

    def _twice(self, attempt: Callable[[], Result], again: Callable[[], Result]) -> Result:
        try:
            return attempt()
        except EngineError as error:
            if world_size() > 1:
                raise
            rank_zero_warn(f"{error}. Once more, with a fresh engine.")
        self.engine.restart()
        return again()

    def _generate(self, prompts: Sequence[RolloutPrompt], sampling: SamplingSettings) -> list[RolloutGroup]:
        self._sync()
        with gathered(self.policy, decoder=True) if self.is_policy else nullcontext():
            return self.engine.generate(prompts, sampling)

    def wait(self) -> None:
        """For what was begun, however it ends."""
        if self.begun is not None:
            wait([self.begun.groups])

    def _sync(self) -> None:
        self.wait()  # no weights change under it
        if self.engine.stale or not self.synced:
            reshard(self.policy)
            self.engine.sync(self.policy.named_weights())
            self.synced = True

    def sleep(self) -> None:
        """Give memory back until the next rollout."""
        self.engine.sleep()
