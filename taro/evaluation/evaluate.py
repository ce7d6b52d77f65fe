"""A model's answers to the queries of a benchmark, and their metrics. Every sample that was asked for counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from taro.data.samples import Sample
from taro.evaluation.answer_only import OFTEN, ONCE, START, TEMPERATURE, count_affordable, draw_seeds, take_median
from taro.evaluation.answers import still_to_ask
from taro.evaluation.beside import Beside, put_beside
from taro.evaluation.predictions import EvaluationError, Prediction, read_predictions
from taro.evaluation.probes import SHIFT, SHIFTED_LABELS, Probe, find_change
from taro.evaluation.protocols import make_cut
from taro.evaluation.questions import Questions
from taro.evaluation.registry import Benchmark
from taro.evaluation.report import Report, make_report
from taro.evaluation.scorers import SCORERS, SUBMISSIONS
from taro.evaluation.settings import EvaluationSettings, resolve
from taro.evaluation.training_file import Fit, find_fit, load_fit
from taro.evaluation.zoom import LARGEST, MARGIN, zoom_in
from taro.files import write_json
from taro.jsonl import ResumableFolder, Shard, write_lines
from taro.tasks import DEFAULT

FIRST_PASS = "first_pass"  # folder of the answers about whole videos, in that of the final ones
ZOOM = {"zoom": {"margin": MARGIN, "largest": LARGEST}}


@dataclass(frozen=True)
class Way:
    """How the questions are asked; by default as they are.

    Attributes:
        probe: which changes the videos.
        start: what completions begin with.
        draws: answers to each question, whose median is taken; None: one, and none is drawn.
    """

    probe: Probe | None = None
    start: str = ""
    draws: int | None = None

    @property
    def name(self) -> str:
        """Of its folder within that of the answers to the questions as they are."""
        return self.probe or ((ONCE if self.draws is None else OFTEN) if self.start else "")

    def describe(self) -> dict[str, Any]:
        """What of it determines the answers, for `config.yaml`."""
        about: dict[str, Any] = {"probe": self.probe} if self.probe else {}
        if self.probe == SHIFTED_LABELS:
            about["label_shift"] = SHIFT
        if self.start:
            about["completion_start"] = self.start
        return about if self.draws is None else about | {"median_of": self.draws, "median_temperature": TEMPERATURE}


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found."""

    report: Report
    predictions: list[Prediction]  # in the order of the samples; without those of shards that are not done
    asked: int  # samples
    beside: Beside  # empty as long as shards are not done
    configuration: dict[str, Any]  # all that determines the answers, as in `config.yaml`

    @property
    def metrics(self) -> dict[str, float]:
        return self.report.metrics | {"failed": self.report.failed, "samples": self.report.samples}


def evaluate(settings: EvaluationSettings) -> Evaluation:
    """Greedy answers of a model to a benchmark, and what they are worth.

    With `settings.output` they are written there as they come, and those that are there already are not asked for again. When
    all are there, `metrics.json` is written, too. Several probes, and answers without reasoning, have a folder each within it,
    of the same form; what is returned are the answers to the questions as they are.

    Raises:
        EvaluationError: settings that can't work, all named, before anything is loaded; or a probe that the model can't have,
            or questions without a span that are to be answered without reasoning.
        SampleError: rows that can't be read, of the training samples to fit on, too, or not one video is there.
        ResumeError: the output folder holds the answers of another configuration.
        ModelError: not a Qwen-VL model.
        EngineError: vLLM is not installed, or can't run the model.
    """
    benchmark = resolve(settings)
    fit = load_fit(settings.fit) if settings.fit is not None else find_fit(settings.model)
    output = settings.output and Path(settings.output)
    with closing(Questions.load(settings, Path(benchmark.annotations), benchmark.video_root, evaluating=True)) as questions:
        for probe in settings.probes:
            find_change(probe, questions.model.builder.family)
        others = sorted({sample.task for sample in questions.samples} - {DEFAULT})
        if settings.answer_only and others:
            raise EvaluationError(f"--answer_only is for questions about one span, there are some of {', '.join(others)}")
        if not settings.several:
            return _evaluate(questions, benchmark, output, Way(*settings.probes), fit)

        def ask(way: Way) -> Evaluation:
            return _evaluate(questions, benchmark, output / way.name, way, fit)

        whole = ask(Way())
        for probe in settings.probes:
            ask(Way(probe))
        if settings.answer_only:
            once = ask(Way(start=START))
            ask(Way(start=START, draws=count_affordable(whole.predictions, once.predictions)))
    return whole


def _evaluate(questions: Questions, benchmark: Benchmark, output: Path | None, way: Way, fit: Fit | None) -> Evaluation:
    """The answers of one kind, and what they are worth."""
    settings, configuration = questions.settings, _configuration(questions, benchmark, way)
    found = _answer_all(questions, benchmark, output, way, configuration)
    samples = [sample for sample in questions.samples if sample.id in found]
    predictions = [found[sample.id] for sample in samples]
    whole = len(samples) == len(questions.samples)
    official = SCORERS[benchmark.scorer](samples, predictions, settings.strict) if whole and benchmark.scorer else {}
    report = make_report(samples, predictions, benchmark.breakdowns, settings.strict, settings.resamples, official)
    beside = put_beside(samples, predictions, make_cut(questions.model.builder.tokenizer), fit) if whole else Beside()
    if output is not None and whole:
        about = {"dataset": benchmark.name, "annotations": benchmark.annotations, "video_root": benchmark.video_root}
        about |= {"model": settings.model, "probe": way.probe} | ({"zoom": True} if settings.zoom else {})
        if benchmark.scorer in SUBMISSIONS:
            write_lines(SUBMISSIONS[benchmark.scorer](samples, predictions), output / "submission.jsonl")
        write_json(output / "metrics.json", about | report.to_json() | asdict(beside))
    return Evaluation(report, predictions, len(questions.samples), beside, configuration)


def _answer_all(
    questions: Questions, benchmark: Benchmark, output: Path | None, way: Way, configuration: dict[str, Any]
) -> dict[str, Prediction]:
    """The predictions by id, in one pass or in two."""
    settings, samples = questions.settings, questions.samples
    of_sample = {sample.id: sample for sample in samples}
    how: dict[str, Any] = {"change": find_change(way.probe, questions.model.builder.family), "start": way.start}
    if way.draws is not None:
        how |= {"seeds": partial(draw_seeds, count=way.draws), "temperature": TEMPERATURE}

    def ask(samples: Sequence[Sample], name: str = way.name) -> Iterator[Prediction]:
        for group in questions.ask(samples, ", ".join(filter(None, [benchmark.name, name])), **how):
            yield group[0] if way.draws is None else take_median(of_sample[group[0].id], group)

    shard = Shard.parse(settings.shard)
    if not settings.zoom:
        return _answer(samples, ask, output, configuration, shard)
    first = _answer(samples, ask, output and output / FIRST_PASS, configuration, shard)
    again = partial(zoom_in, first=first, ask=partial(ask, name="second pass"))
    return _answer(samples, again, output, configuration | ZOOM, shard)


def _answer(
    samples: Sequence[Sample],
    ask: Callable[[Sequence[Sample]], Iterator[Prediction]],
    output: Path | None,
    configuration: dict[str, Any],
    shard: Shard,
) -> dict[str, Prediction]:
    """The predictions by id; with an output folder those that are there are not asked for, and those of other shards are among
    them as far as they are there."""
    if output is None:
        return {one.id: one for one in ask(samples)}
    folder = ResumableFolder(output, configuration, shard)
    there = read_predictions(folder.read())
    todo = still_to_ask(folder.shard.of(samples), {name: one.failure for name, one in there.items()})
    folder.append(prediction.to_row() for prediction in ask(todo))
    folder.finish([sample.id for sample in samples])
    return read_predictions(folder.read())


def _configuration(questions: Questions, benchmark: Benchmark, way: Way) -> dict[str, Any]:
    """All that determines the answers, for `config.yaml`."""
    return {"dataset": benchmark.name, **way.describe(), **questions.describe(), "grounding": questions.describe_grounding()}
