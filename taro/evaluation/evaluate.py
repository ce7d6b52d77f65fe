"""A model's answers to the queries of a benchmark, and their metrics. Every sample that was asked for counts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from taro.data.samples import Sample
from taro.evaluation.answers import still_to_ask
from taro.evaluation.predictions import Prediction, read_predictions
from taro.evaluation.questions import Questions
from taro.evaluation.qvhighlights import make_submission, score_submission
from taro.evaluation.registry import Benchmark
from taro.evaluation.report import Report, make_report
from taro.evaluation.settings import EvaluationSettings, resolve
from taro.jsonl import ResumableFolder, write_lines


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found."""

    report: Report
    predictions: list[Prediction]  # in the order of the samples; without those of shards that are not done
    asked: int  # samples

    @property
    def metrics(self) -> dict[str, float]:
        return self.report.metrics | {"failed": self.report.failed, "samples": self.report.samples}


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
    resolved = resolve(settings)
    benchmark = resolved.benchmark
    questions = Questions.load(settings, resolved.annotations, resolved.video_root, evaluating=True)
    if settings.output is None:
        folder, found = None, {one.id: one for one in _ask(questions, questions.samples, benchmark)}
    else:
        folder = ResumableFolder(settings.output, _configuration(questions, benchmark), resolved.shard)
        found = _fill(folder, questions, benchmark)
    samples = [sample for sample in questions.samples if sample.id in found]
    predictions = [found[sample.id] for sample in samples]
    whole = len(samples) == len(questions.samples)
    official = _score_officially(benchmark, samples, predictions, settings.strict, folder) if whole else None
    report = make_report(samples, predictions, benchmark.breakdowns, settings.strict, settings.resamples, official)
    if folder is not None and whole:
        folder.finish([sample.id for sample in samples])
        about = {"dataset": benchmark.name, "annotations": str(questions.file), "video_root": questions.video_root}
        metrics = about | {"model": settings.model} | report.to_json()
        folder.write("metrics.json", json.dumps(metrics, indent=2) + "\n")
    return Evaluation(report, predictions, len(questions.samples))


def _configuration(questions: Questions, benchmark: Benchmark) -> dict[str, Any]:
    """All that determines the answers, for `config.yaml`."""
    grounding = asdict(questions.grounding)
    for video in (grounding["video"], grounding["evaluation_video"] or {}):
        video.pop("timeout", None)  # decides whether there are frames, never which
    return {"dataset": benchmark.name, **questions.describe(), "grounding": grounding}


def _fill(folder: ResumableFolder, questions: Questions, benchmark: Benchmark) -> dict[str, Prediction]:
    """Have this shard's missing answers made; returns all that are there then."""
    failures = {name: prediction.failure for name, prediction in read_predictions(folder.read()).items()}
    todo = still_to_ask(folder.shard.of(questions.samples), failures)
    folder.append(prediction.to_row() for prediction in _ask(questions, todo, benchmark))
    return read_predictions(folder.read())


def _ask(questions: Questions, samples: Sequence[Sample], benchmark: Benchmark) -> Iterator[Prediction]:
    return (prediction for (prediction,) in questions.ask(samples, benchmark.name))


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
