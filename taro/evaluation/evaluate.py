"""A model's answers to the queries of a benchmark, and their metrics. Every sample that was asked for counts."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from taro.data.before_run import look_for_videos
from taro.data.samples import Sample, load_samples
from taro.evaluation.answers import answer_samples, still_to_ask
from taro.evaluation.fingerprints import describe_model, describe_packages, describe_samples
from taro.evaluation.predictions import Prediction, read_predictions
from taro.evaluation.qvhighlights import make_submission, score_submission
from taro.evaluation.registry import Benchmark
from taro.evaluation.report import Report, make_report
from taro.evaluation.settings import EvaluationSettings, Resolved, resolve
from taro.jsonl import ResumableFolder, write_lines
from taro.models.prompt import PromptBuilder
from taro.models.settings import GroundingSettings
from taro.progress import track_items
from taro.rollout import RolloutEngine, SamplingSettings
from taro.rollout.start import longest_prompt, start_engine

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found."""

    report: Report
    predictions: list[Prediction]  # in the order of the samples; without those of shards that are not done
    asked: int  # samples

    @property
    def metrics(self) -> dict[str, float]:
        return self.report.metrics | {"failed": self.report.failed, "samples": self.report.samples}


@dataclass(frozen=True)
class _Task:
    """All that the answers follow from, checked; no weights are loaded yet."""

    settings: EvaluationSettings
    resolved: Resolved
    samples: list[Sample]
    builder: PromptBuilder
    grounding: GroundingSettings
    sampling: SamplingSettings


def evaluate(settings: EvaluationSettings) -> Evaluation:
    """Greedy answers of a model to a benchmark, and what they are worth.

    With `settings.output` they are written there as they come, and those that are there already are not asked for again. When
    all are there, `metrics.json` is written, too.

    Raises:
        EvaluationError: settings that can't work, all named, before anything is loaded.
        SampleError: rows that can't be read, or not one video is there.
        ResumeError: the output folder holds the answers of another configuration.
        ModelError: not a Qwen-VL model.
        EngineError: vLLM is not installed, or can't run the model.
    """
    task = _prepare(settings)
    if settings.output is None:
        folder, found = None, {prediction.id: prediction for prediction in _predict(task, task.samples)}
    else:
        folder = ResumableFolder(settings.output, _configuration(task), task.resolved.shard)
        found = _fill(folder, task)
    samples = [sample for sample in task.samples if sample.id in found]
    predictions = [found[sample.id] for sample in samples]
    whole = len(samples) == len(task.samples)
    official = _score_officially(task.resolved.benchmark, samples, predictions, settings.strict, folder) if whole else None
    breakdowns = task.resolved.benchmark.breakdowns
    report = make_report(samples, predictions, breakdowns, settings.strict, settings.resamples, official)
    if folder is not None and whole:
        folder.finish([sample.id for sample in samples])
        folder.write("metrics.json", json.dumps(_about(task) | report.to_json(), indent=2) + "\n")
    return Evaluation(report, predictions, len(task.samples))


def _prepare(settings: EvaluationSettings) -> _Task:
    resolved = resolve(settings)
    samples = load_samples(resolved.annotations, video_root=resolved.video_root, bad_rows="keep", limit=settings.limit)
    grounding = (settings.grounding or GroundingSettings.load(settings.model) or GroundingSettings()).for_evaluation()
    longest = longest_prompt(grounding.max_prompt_tokens, settings.max_tokens, settings.engine, settings.vllm)
    builder = PromptBuilder(settings.model, grounding.prompt, longest)
    sampling = SamplingSettings(0.0, settings.max_tokens, settings.repetition_penalty)
    return _Task(settings, resolved, samples, builder, grounding, sampling)


def _configuration(task: _Task) -> dict[str, Any]:
    """All that determines the answers, for `config.yaml`."""
    settings, grounding = task.settings, asdict(task.grounding)
    for video in (grounding["video"], grounding["evaluation_video"] or {}):
        video.pop("timeout", None)  # decides whether there are frames, never which
    packages = ("torch", "transformers", *(["vllm"] if settings.engine == "vllm" else []))
    return {
        "dataset": task.resolved.benchmark.name,
        "samples": describe_samples(task.samples),
        "model": settings.model,
        "model_files": describe_model(settings.model, task.builder.config),
        "engine": settings.engine,
        "dtype": task.resolved.dtype,
        "sampling": asdict(task.sampling),
        "max_prompt_tokens": task.builder.max_tokens,
        "grounding": grounding,
        "packages": describe_packages(*packages),
    }


def _about(task: _Task) -> dict[str, Any]:
    """What the metrics are of."""
    return {
        "dataset": task.resolved.benchmark.name,
        "annotations": str(task.resolved.annotations),
        "video_root": task.resolved.video_root,
        "model": task.settings.model,
    }


# ---- Answers ----


def _fill(folder: ResumableFolder, task: _Task) -> dict[str, Prediction]:
    """Have this shard's missing answers made; returns all that are there then."""
    failures = {name: prediction.failure for name, prediction in read_predictions(folder.read()).items()}
    todo = still_to_ask(folder.shard.of(task.samples), failures)
    folder.append(prediction.to_row() for prediction in _predict(task, todo))
    return read_predictions(folder.read())


def _predict(task: _Task, samples: Sequence[Sample]) -> Iterator[Prediction]:
    """As they come. Raises SampleError where there is not one video."""
    settings, resolved = task.settings, task.resolved
    if samples:
        for remark in look_for_videos(
            [sample.video for sample in task.samples],
            of=str(resolved.annotations),
            folder=resolved.video_root or resolved.annotations.parent,
            setting="--video_root",
        ):
            logger.warning(remark)

    def start() -> RolloutEngine:
        return start_engine(
            settings.engine,
            task.builder,
            max_tokens=settings.max_tokens,
            device=resolved.device,
            dtype=resolved.dtype,
            vllm=settings.vllm,
        )

    answers = answer_samples(
        samples,
        start,
        task.builder,
        task.grounding,
        task.sampling,
        at_once=settings.batch_size,
        workers=settings.workers,
    )
    predictions = (prediction for (prediction,) in answers)
    yield from track_items(predictions, resolved.benchmark.name, len(samples), lambda one: one.completion is None)


# ---- Official scorers ----


def _score_officially(
    benchmark: Benchmark,
    samples: Sequence[Sample],
    predictions: Sequence[Prediction],
    strict: bool,
    folder: ResumableFolder | None,
) -> dict[str, float]:
    """Scores of the benchmark's own scorer, where it has one; writes what would be submitted to it."""
    if benchmark.scorer is None:
        return {}
    truth = [_truth_row(sample) for sample in samples]
    submission = make_submission([prediction.to_row() for prediction in predictions], truth)
    if folder is not None:
        write_lines(submission, folder.folder / "submission.jsonl")
    return score_submission(submission, truth, strict_r1=strict)


def _truth_row(sample: Sample) -> dict[str, Any]:
    """A row as QVHighlights has it; its ids are whole numbers."""
    row = {"qid": int(sample.id) if sample.id.isdecimal() else sample.id, "query": sample.query}
    row |= {name: sample.extra[name] for name in ("vid",) if name in sample.extra}
    return row | {"relevant_windows": sample.spans}
