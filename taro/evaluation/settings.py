"""What is evaluated and how: the flags of `eval.py`, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from taro.evaluation.bootstrap import RESAMPLES
from taro.evaluation.predictions import EvaluationError
from taro.evaluation.probes import Probe, read_probes
from taro.evaluation.registry import Benchmark, find_benchmark, load_benchmarks
from taro.jsonl import ResumeError, Shard
from taro.messages import list_problems
from taro.models.settings import GroundingSettings
from taro.ranges import NonNegativeInt, PositiveFloat, PositiveInt
from taro.rollout import VLLMSettings
from taro.rollout.start import engine_problems


@dataclass(frozen=True)
class EvaluationSettings:
    """Evaluate a model on a benchmark of temporal grounding, or on samples of one's own.

    Args:
        dataset: a name in configs/datasets.yaml (Charades, ActivityNet, QVHighlights, TVGBench, Synthetic, ...), or in
            `datasets`; not needed with `annotations`.
        model: folder or hub name of a Qwen2.5-VL, Qwen3-VL or Qwen3.5 model.
        engine: what generates: `native`, or `vllm`.
        datasets: registry of benchmarks to use in place of configs/datasets.yaml, in the same form.
        annotations: samples file: one's own, or that of `dataset` where it is not in its usual place.
        video_root: folder of the videos, likewise; that of `annotations` unless given.
        fit: training samples that the blind answers beside the result are fitted on, too; the training file of the run that
            made the model, where that is there, unless given.
        limit: only the first so many samples.
        output: folder for `predictions.jsonl`, `metrics.json` and `config.yaml`; an evaluation that was stopped goes on with
            what is missing there.
        shard: `i/n` answers the i-th of n parts, i from 0, for one process on each GPU or machine; the last one to finish
            writes the metrics of all into `output`, which they share.
        strict: R1@m counts IoU > m, as Time-R1's evaluation does, and not IoU >= m.
        max_tokens: of an answer with its reasoning.
        probe: ask about videos that were changed: blind, one_frame, reversed, shuffled, shuffled_at_boundaries,
            shuffled_elsewhere, shuffled_inside or shifted_labels. Several, with commas between them, are asked beside the
            unchanged videos, with one table; see taro/evaluation/probes.py.
        gap: measure how much less likely the answers get when frames are shuffled around the true boundaries; costs two
            passes over each answer.
        answer_only: ask for answers without reasoning, too, once and with as many tokens; see taro/evaluation/answer_only.py.
        zoom: answer in two passes, for long videos: the whole, then the part around the first answer with as many frames; see
            taro/evaluation/zoom.py.
        repetition_penalty: 1.05 is what TaRO's and Time-R1's published numbers were made with.
        batch_size: samples worked on at once.
        workers: processes that decode videos ahead.
        resamples: of the bootstrap that the intervals come from.
        device: cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.
        dtype: of the weights; auto is bfloat16 on a GPU and float32 on a CPU.
        vllm: settings of that engine.
        grounding: prompt and video settings; those in the model's folder unless given, or else the defaults.
    """

    model: str
    dataset: str | None = None
    engine: Literal["native", "vllm"] = "native"
    datasets: str | None = None
    annotations: str | None = None
    video_root: str | None = None
    fit: str | None = None
    limit: PositiveInt | None = None
    output: str | None = None
    shard: str | None = None
    strict: bool = False
    probe: str | None = None
    gap: bool = False
    answer_only: bool = False
    zoom: bool = False
    max_tokens: PositiveInt = 1024
    repetition_penalty: PositiveFloat = 1.0
    batch_size: PositiveInt = 16
    workers: NonNegativeInt = 2
    resamples: PositiveInt = RESAMPLES
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    vllm: VLLMSettings = field(default_factory=lambda: VLLMSettings(gpu_memory_utilization=0.9))
    grounding: GroundingSettings | None = None

    @property
    def probes(self) -> tuple[Probe, ...]:
        """Those that are asked for. Raises EvaluationError."""
        return read_probes(self.probe)

    @property
    def several(self) -> bool:
        """Whether other answers are asked for beside those to the questions as they are."""
        return len(self.probes) > 1 or self.gap or self.answer_only


def resolve(settings: EvaluationSettings) -> Benchmark:
    """The benchmark with the samples file and the video root that are asked for.

    Raises:
        EvaluationError: settings that can't work, all of them named.
    """
    problems, benchmark = [], None
    try:
        benchmark = _find_benchmark(settings)
    except EvaluationError as error:
        problems.append(str(error))
    try:
        Shard.parse(settings.shard)
    except ResumeError as error:
        problems.append(str(error))
    if settings.shard is not None and settings.output is None:
        problems.append("--shard needs --output, the folder that the shards share")
    if settings.fit is not None and not Path(settings.fit).is_file():
        problems.append(f"--fit {settings.fit}: no such samples file")
    try:
        problems += _probe_problems(settings)
    except EvaluationError as error:
        problems.append(str(error))
    problems += engine_problems(settings.engine, settings.device, settings.vllm)
    if problems:
        raise EvaluationError(list_problems("can't evaluate:", problems))
    return benchmark


def _probe_problems(settings: EvaluationSettings) -> Iterator[str]:
    """Raises EvaluationError for a probe that there is not."""
    if settings.zoom and settings.probe is not None:
        yield "--zoom and --probe: choose one, true spans that a probe needs are not those of a part"
    beside = [f"--{name}" for name in ("gap", "answer_only") if getattr(settings, name)]
    if settings.zoom and beside:
        yield f"--zoom and {' and '.join(beside)}: choose one, answers in two passes were made from two prompts"
    if settings.several and settings.output is None:
        named = beside or [f"--probe {settings.probe}"]
        yield f"{' and '.join(named)} needs --output, the folder that the answers of each kind are kept in"
    if settings.answer_only and settings.shard is not None:
        yield "--answer_only and --shard: choose one, how often is asked follows from the tokens of all answers"


def _find_benchmark(settings: EvaluationSettings) -> Benchmark:
    own = settings.annotations
    if settings.dataset is not None:
        benchmark = find_benchmark(settings.dataset, load_benchmarks(settings.datasets))
    elif own is None:
        raise EvaluationError("what to evaluate on: give --dataset, the name of a benchmark, or --annotations, a samples file")
    else:
        benchmark = Benchmark(Path(own).stem or "custom", own, split="all", license="unknown", homepage="none", make="none")
    if own is not None:
        benchmark = replace(benchmark, annotations=own, video_root=None)
    if not Path(benchmark.annotations).is_file():
        if own is not None:
            raise EvaluationError(f"--annotations {own}: no such samples file")
        raise EvaluationError(
            f"--dataset {settings.dataset}: its samples file {benchmark.annotations} is not there; make it, or name it with "
            f"--annotations. {benchmark.how_to_get()}"
        )
    return replace(benchmark, video_root=settings.video_root or benchmark.video_root)
