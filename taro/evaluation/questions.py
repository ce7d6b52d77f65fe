"""Samples that are put to a model: what is loaded before its weights, and its answers as they come."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from taro.data.before_run import look_for_videos
from taro.data.samples import Sample, load_samples
from taro.evaluation.answers import Seeds, answer_samples, one_greedy
from taro.evaluation.fingerprints import describe_model, describe_packages, describe_samples
from taro.evaluation.predictions import Prediction
from taro.models.prompt import PromptBuilder
from taro.models.settings import GroundingSettings
from taro.progress import track_items
from taro.rollout import RolloutEngine, SamplingSettings, VLLMSettings
from taro.rollout.start import longest_prompt, resolve_device, resolve_dtype, start_engine

logger = logging.getLogger(__name__)


class ModelSettings(Protocol):
    """What commands that ask a model have in common; each says in its own settings what it is."""

    model: str
    engine: str
    limit: int | None
    max_tokens: int
    repetition_penalty: float
    batch_size: int
    workers: int
    device: str
    dtype: str
    vllm: VLLMSettings
    grounding: GroundingSettings | None


@dataclass(frozen=True)
class Questions:
    """All that the answers of a model follow from, but its weights."""

    settings: ModelSettings
    file: Path  # of the samples
    video_root: str | None  # that relative videos start from; None: the folder of the file
    samples: list[Sample]
    grounding: GroundingSettings
    builder: PromptBuilder
    sampling: SamplingSettings

    @classmethod
    def load(
        cls, settings: ModelSettings, file: Path, video_root: str | None, *, evaluating: bool, temperature: float = 0.0
    ) -> Questions:
        """
        Args:
            settings: of the command.
            file: of the samples.
            video_root: that relative videos start from.
            evaluating: whether samples are shown as evaluation shows them, and not as training does.
            temperature: of the answers.

        Raises:
            SampleError: rows that can't be read.
            ModelError: not a Qwen-VL model.
        """
        samples = load_samples(file, video_root=video_root, bad_rows="keep", limit=settings.limit)
        grounding = settings.grounding or GroundingSettings.load(settings.model) or GroundingSettings()
        if evaluating:
            grounding = grounding.for_evaluation()
        longest = longest_prompt(grounding.max_prompt_tokens, settings.max_tokens, settings.engine, settings.vllm)
        builder = PromptBuilder(settings.model, grounding.prompt, longest)
        sampling = SamplingSettings(temperature, settings.max_tokens, settings.repetition_penalty)
        return cls(settings, file, video_root, samples, grounding, builder, sampling)

    def describe(self) -> dict[str, Any]:
        """What determines the answers, prompt and videos apart, as JSON's types."""
        settings = self.settings
        return {
            "samples": describe_samples(self.samples),
            "model": settings.model,
            "model_files": describe_model(settings.model, self.builder.config),
            "engine": settings.engine,
            "dtype": resolve_dtype(settings.dtype, resolve_device(settings.device)),
            "sampling": asdict(self.sampling),
            "max_prompt_tokens": self.builder.max_tokens,
            "packages": describe_packages("torch", "transformers", *(["vllm"] if settings.engine == "vllm" else [])),
        }

    def ask(self, samples: Sequence[Sample], name: str, seeds: Seeds = one_greedy) -> Iterator[list[Prediction]]:
        """The predictions of each sample, as they come.

        Args:
            samples: some of them, or all.
            name: of the work, for the progress line.
            seeds: of the completions of a sample.

        Raises:
            SampleError: not one video of all samples is there.
            EngineError: vLLM can't run the model.
        """
        if not samples:
            return
        videos, folder = [sample.video for sample in self.samples], self.video_root or self.file.parent
        for remark in look_for_videos(videos, of=str(self.file), folder=folder, setting="--video_root"):
            logger.warning(remark)
        answers = answer_samples(
            samples,
            self._start,
            self.builder,
            self.grounding,
            self.sampling,
            at_once=self.settings.batch_size,
            workers=self.settings.workers,
            seeds=seeds,
        )
        yield from track_items(answers, name, len(samples), lambda group: group[0].completion is None)

    def _start(self) -> RolloutEngine:
        settings = self.settings
        return start_engine(
            settings.engine,
            self.builder,
            max_tokens=settings.max_tokens,
            device=settings.device,
            dtype=settings.dtype,
            vllm=settings.vllm,
        )
