"""A model that is asked about videos, one question after the other: in a notebook, and by the demo.

    from taro import Grounder
    answer = Grounder("outputs/tiny/hf").ask("video.mp4", "the red square moves left")
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal

import torch

from taro.data.examples import TrainingExample
from taro.data.samples import Sample
from taro.messages import list_problems
from taro.models.prompt import Prompt
from taro.models.qwen_vl import QwenVL
from taro.models.settings import GroundingSettings
from taro.ranges import PositiveFloat, PositiveInt, range_problems
from taro.rl.group import group_log_probs, make_group, shuffled_log_probs
from taro.rl.group_rewards import compute_gaps
from taro.rl.settings import TemporalRewardSettings
from taro.rollout import NativeEngine, RolloutGroup, RolloutPrompt, VLLMSettings
from taro.rollout.start import AskedModel, engine_problems, load_model
from taro.video.load import load_video
from taro.view.answer import Answer
from taro.view.timeline import ViewError, token_gaps

RADIUS = TemporalRewardSettings().radius  # seconds
UNFINISHED = "\ufffd"  # at the end of a text: a character of which a token is still missing


@dataclass(frozen=True)
class GrounderSettings:
    """Which model is asked, and how it answers: as `eval.py` has it.

    Args:
        model: folder or hub name of a Qwen2.5-VL, Qwen3-VL or Qwen3.5 model.
        engine: what generates: `native`, or `vllm`.
        max_tokens: of an answer with its reasoning.
        repetition_penalty: as in `eval.py`.
        device: cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.
        dtype: of the weights; auto is bfloat16 on a GPU and float32 on a CPU.
        vllm: settings of that engine.
        grounding: prompt and video settings; those in the model's folder unless given, or else the defaults.
    """

    model: str
    engine: Literal["native", "vllm"] = "native"
    max_tokens: PositiveInt = 1024
    repetition_penalty: PositiveFloat = 1.0
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    vllm: VLLMSettings = field(default_factory=lambda: VLLMSettings(gpu_memory_utilization=0.9))
    grounding: GroundingSettings | None = None


class Grounder:
    """Answers when events happen in videos: greedily, with the prompt and the frames of evaluation.

    Args:
        model: folder or hub name of a Qwen2.5-VL, Qwen3-VL or Qwen3.5 model.
        settings: others of `GrounderSettings`, as `engine="vllm"`; checked as a command's.

    Raises:
        ModelError: not a Qwen-VL model, or not a whole one.
        EngineError: vLLM can't run the model.
        ViewError: settings that can't work here.
    """

    def __init__(self, model: str, **settings: Any) -> None:
        known = [one.name for one in fields(GrounderSettings)]
        if unknown := sorted(settings.keys() - set(known)):
            raise ViewError(f"no such setting: {', '.join(unknown)}; there are {', '.join(known)}")
        own = GrounderSettings(model, **settings)
        if problems := [*range_problems(own), *engine_problems(own.engine, own.device, own.vllm)]:
            raise ViewError(list_problems("can't ask:", problems))
        self.model = AskedModel.load(own, evaluating=True)
        self.engine = self.model.start()

    @property
    def streams(self) -> bool:
        """Whether `stream` gives an answer in pieces: vLLM's comes as a whole."""
        return isinstance(self.engine, NativeEngine)

    def ask(self, video: str, query: str) -> Answer:
        """When something happens in a video.

        Raises:
            VideoError: the video can't be read.
            PromptError: the prompt can't be built, or is too long.
            ViewError: there is no question.
        """
        stream = self.stream(video, query)
        for _ in stream:
            pass
        return stream.answer

    def stream(self, video: str, query: str) -> AnswerStream:
        """The same in pieces of text, as they are generated. Raises as `ask`, before the first piece."""
        if not isinstance(query, str) or not query.strip():
            raise ViewError("the question is empty: say what is to be found in the video")
        shown = load_video(video, clip=None, settings=self.model.grounding.video, geometry=self.model.builder.geometry)
        return AnswerStream(self, str(video), query, self.model.builder.build(query, shown))

    def close(self) -> None:
        """Give back what the engine holds."""
        self.engine.close()

    def follow(self, prompt: Prompt) -> Iterator[RolloutGroup]:
        """The only completion of a prompt as far as it is; the last one is whole."""
        request, sampling = RolloutPrompt(prompt, ((),), (0,)), self.model.sampling
        yield from self.engine.follow(request, sampling) if self.streams else self.engine.generate([request], sampling)

    @cached_property
    def policy(self) -> QwenVL:
        """The model that scores answers. vLLM has no use for shuffled frames, so beside it the weights are loaded again."""
        if self.streams:
            return self.engine.policy
        settings = self.model.settings
        return load_model(settings.model, settings.device, settings.dtype)

    @torch.no_grad()
    def gap(self, answer: Answer, *, radius: float = RADIUS, seed: int = 0) -> Answer:
        """The same answer, with how much less likely each of its tokens is when frames are shuffled around its spans.

        Args:
            answer: of this model.
            radius: frames within so many seconds of a start or an end are shuffled.
            seed: of the shuffle.

        Raises:
            ViewError: there is no span, or no frame to be moved.
        """
        if not answer.spans:
            raise ViewError("the answer names no span to shuffle frames around")
        sample = Sample("", answer.video, answer.query, answer.spans, answer.duration)
        prompt = answer.prompt.to(self.policy.device)
        example = TrainingExample(sample, prompt, prefixes=((),), seeds=(0,), shuffle_seed=seed)
        ids, log_probs = (torch.tensor([getattr(one, name) for one in answer.tokens]) for name in ("id", "log_prob"))
        rollout = RolloutGroup((ids,), (log_probs,), (answer.finished,))
        group = make_group(example, rollout, self.policy.encode_video(prompt.video.frames), self.model.builder)
        settings = TemporalRewardSettings(radius=radius)
        if not group.moves_frames(settings.shuffle):
            raise ViewError(f"fewer than two frames are within {radius:g} s of the answer's start or end: raise the radius")
        (true,) = group_log_probs(self.policy, [group], 1.0)
        (shuffled,) = shuffled_log_probs(self.policy, [group], settings, 1.0)
        gaps = token_gaps(group.token_spans[0], true.log_probs[0].tolist(), shuffled[0].tolist())
        mean = float(compute_gaps(group, true.log_probs, shuffled, "think"))
        return replace(answer, gaps=gaps, temporal_gap=mean if mean == mean else None)


class AnswerStream:
    """Pieces of an answer's text as they are generated; when they are through, `answer` is the whole."""

    def __init__(self, grounder: Grounder, video: str, query: str, prompt: Prompt) -> None:
        self.grounder, self.video, self.query, self.prompt = grounder, video, query, prompt
        self.answer: Answer | None = None

    def __iter__(self) -> Iterator[str]:
        started, builder, shown = time.perf_counter(), self.grounder.model.builder, 0
        for group in self.grounder.follow(self.prompt):
            text = builder.decode(group.completions[0])
            if len(text) > shown and not text.endswith(UNFINISHED):
                yield text[shown:]
                shown = len(text)
        seconds = time.perf_counter() - started
        self.answer = Answer.of(self.video, self.query, self.prompt, group, builder, seconds)
        if len(self.answer.text) > shown:
            yield self.answer.text[shown:]
