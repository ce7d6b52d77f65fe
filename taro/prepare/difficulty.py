"""How hard samples are for a model, and which of them to train on: see --help, `select --help`, and docs/data.md.

Scoring asks the model for answers to each sample and writes the samples with `difficulty`, the mean IoU of its answers with the
truth in percent, and `ious`, the IoU of each answer. An answer that can't be read has IoU 0. A sample whose video or prompt
can't be used gets neither, but `difficulty_failure`. The samples are shown as training shows them. What is done is kept in
G.difficulty/: the same command goes on after a stop.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

from taro.command_line import answer_at_once, parse_settings
from taro.prepare.commands import DIFFICULTY

if __name__ == "__main__" and sys.argv[1:2] != ["select"]:
    answer_at_once(DIFFICULTY, sys.argv[1:])  # before the imports that take seconds

from pydantic import Field

from taro.data.samples import Sample, save_like
from taro.errors import TaroError, clean_exit
from taro.evaluation.answers import still_to_ask
from taro.evaluation.predictions import Answer, Iou, Prediction, list_failures
from taro.evaluation.questions import Questions
from taro.jsonl import ResumableFolder, Shard
from taro.messages import list_problems
from taro.models.settings import GroundingSettings
from taro.prepare import selection
from taro.prepare.paths import resumable_problems
from taro.prepare.selection import histogram, with_ious
from taro.prompts import parse_spans
from taro.ranges import FiniteNonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from taro.rollout import VLLMSettings
from taro.rollout.start import engine_problems
from taro.rows import OptionalString, String, read_objects
from taro.seeds import stable_seed

NAME = "answers"  # of the file of samples that are done


class DifficultyError(TaroError):
    """Settings that can't work; all of them are named."""


@dataclass(frozen=True)
class DifficultySettings:
    """Score samples with a model: how well its answers agree with the truth.

    Args:
        model: folder or hub name of a Qwen2.5-VL, Qwen3-VL or Qwen3.5 model.
        input: samples, JSON lines.
        output: the same samples with `difficulty` and `ious`. Beside F.jsonl comes F.difficulty/ with what is done so far.
        samples: answers to each sample.
        temperature: of the answers; 0 takes the most likely one.
        seed: of the answers, together with the id of the sample.
        engine: what generates: `native`, or `vllm`.
        video_root: folder that relative video paths start from; the input's own unless given.
        limit: only the first so many samples.
        shard: `i/n` scores the i-th of n parts, i from 0, for one process on each GPU or machine; the last one to finish
            writes the output of all.
        max_tokens: of an answer with its reasoning.
        repetition_penalty: 1 samples as training does.
        batch_size: samples worked on at once.
        workers: processes that decode videos ahead.
        device: cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.
        dtype: of the weights; auto is bfloat16 on a GPU and float32 on a CPU.
        vllm: settings of that engine.
        grounding: prompt and video settings; those in the model's folder unless given, or else the defaults. The ones of
            training are used.
    """

    model: str
    input: str
    output: str
    samples: PositiveInt = 8
    temperature: FiniteNonNegativeFloat = 1.0
    seed: int = 0
    engine: Literal["native", "vllm"] = "native"
    video_root: str | None = None
    limit: PositiveInt | None = None
    shard: str | None = None
    max_tokens: PositiveInt = 1024
    repetition_penalty: PositiveFloat = 1.0
    batch_size: PositiveInt = 16
    workers: NonNegativeInt = 2
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    vllm: VLLMSettings = field(default_factory=lambda: VLLMSettings(gpu_memory_utilization=0.9))
    grounding: GroundingSettings | None = None

    @property
    def folder(self) -> Path:
        """With what is done so far."""
        return Path(self.output).with_suffix(".difficulty")


@dataclass(frozen=True)
class ScoredSample:
    """What a model said of one sample, by completion; or the `failure`, a key of `taro.evaluation.predictions.FAILURES`, why it
    was not asked, and the `reason` in words. IoUs are with the true span that fits an answer best."""

    id: String
    ious: Annotated[tuple[Iou, ...], Field(description="a list of numbers from 0 to 1")] = ()
    answers: Annotated[tuple[Answer, ...], Field(description="a list of spans, or null for none")] = ()
    completions: Annotated[tuple[str, ...], Field(description="a list of texts")] = ()
    failure: OptionalString = None
    reason: OptionalString = None

    @classmethod
    def of(cls, predictions: Sequence[Prediction]) -> ScoredSample:
        """From the predictions of one sample's completions, or the one that says why there are none."""
        first = predictions[0]
        if first.completion is None:
            return cls(first.id, failure=first.failure, reason=first.reason)
        return cls(first.id, *zip(*((one.iou, one.answer, one.completion) for one in predictions), strict=True))


def score_samples(settings: DifficultySettings) -> list[ScoredSample | None]:
    """Score this shard's missing samples; write the output as soon as none is missing. Returns the scores in the order of the
    input, None for those that other shards have not done yet.

    Raises DifficultyError for settings that can't work, all named, before anything is loaded; and what samples, a folder of
    another configuration, and an engine raise.
    """
    if problems := list(find_problems(settings)):
        raise DifficultyError(list_problems("can't score:", problems))
    file, temperature = Path(settings.input), settings.temperature

    def seeds(sample: Sample) -> list[int]:
        return [stable_seed("difficulty", settings.seed, sample.id, number) for number in range(settings.samples)]

    with closing(Questions.load(settings, file, settings.video_root, evaluating=False, temperature=temperature)) as questions:
        folder = ResumableFolder(settings.folder, _configuration(settings, questions), Shard.parse(settings.shard), NAME)
        there = read_objects(ScoredSample, folder.read(), "sample", complete=True)
        todo = still_to_ask(folder.shard.of(questions.samples), {id: score.failure for id, score in there.items()})
        folder.append(asdict(ScoredSample.of(group)) for group in questions.ask(todo, "difficulty", seeds))
    is_whole = folder.finish([sample.id for sample in questions.samples])
    done = read_objects(ScoredSample, folder.read(), "sample", complete=True)
    if is_whole:
        pairs = [(sample, done[sample.id]) for sample in questions.samples]
        scored = [with_ious(sample, own.ious, own.failure and f"{own.failure}: {own.reason}") for sample, own in pairs]
        save_like(scored, settings.output, settings.input, settings.video_root)
    return [done.get(sample.id) for sample in questions.samples]


def _configuration(settings: DifficultySettings, questions: Questions) -> dict[str, Any]:
    """All that determines the answers."""
    video = asdict(questions.model.grounding.video)
    del video["timeout"]  # decides whether there are frames, not which
    own = {"answers": settings.samples, "seed": settings.seed, "prompt": questions.model.grounding.prompt, "video": video}
    if questions.model.grounding.instructions:
        own["instructions"] = questions.model.grounding.instructions
    return questions.describe() | own


def describe(scores: Sequence[ScoredSample | None], output: str) -> str:
    """What came of it, in lines."""
    done = [score for score in scores if score is not None]
    ious = [fmean(score.ious) for score in done if score.ious]
    failed = [score for score in done if score.failure is not None]
    texts = [text for score in done for text in score.completions]
    lines = [f"{output}: {len(ious)} of {len(scores)} samples scored, {len(failed)} could not be asked"]
    if len(done) < len(scores):
        lines.append(f"so far: other shards have {len(scores) - len(done)} still to do, the last one writes the output")
    lines += list_failures(failed)
    if ious:
        unread = [parse_spans(text) for text in texts].count(None)  # "none" is an answer
        lines.append(f"mean IoU {fmean(ious):.3f}; {unread} of {len(texts)} completions without an answer that can be read")
        lines.append(histogram(ious))
    return "\n".join(lines)


def find_problems(settings: DifficultySettings) -> Iterator[str]:
    """All that can't work, each with the flag to change."""
    paths = settings.input, settings.output, settings.video_root
    yield from resumable_problems(*paths, settings.shard, settings.folder)
    if settings.temperature == 0 and settings.samples > 1:
        yield f"--samples {settings.samples}: with --temperature 0 all answers are the same; take 1, or raise the temperature"
    yield from engine_problems(settings.engine, settings.device, settings.vllm)


# ---- Command line ----


def main(arguments: Sequence[str] | None = None) -> None:
    """Score, or with `select` as the first argument select; print what came of it. DifficultyError where no sample could be
    asked about."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["select"]:
        print(selection.select(selection.parse(arguments[1:])))
        return
    settings = parse(arguments)
    scores = score_samples(settings)
    print(describe(scores, settings.output))
    if all(score is None or score.failure is not None for score in scores):
        raise DifficultyError("no sample has been scored; the reasons are above")
    if None not in scores:
        print(f"{settings.output} is written")
        print(f"next: python -m taro.prepare.difficulty select --input {settings.output} --output CHOSEN.jsonl --range 0 0.7")


def parse(arguments: Sequence[str]) -> DifficultySettings:
    """The settings of scoring."""
    return parse_settings(DifficultySettings, DIFFICULTY, arguments)


if __name__ == "__main__":
    with clean_exit():
        main()
