"""The metrics of a data set of temporal grounding, and of samples of several tasks. Spans are (start, end) in seconds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from taro.data.samples import Sample
from taro.evaluation.scores import METRICS, score_answer, score_iou
from taro.spans import Span, temporal_iou
from taro.tasks import DEFAULT, NO_ANSWER, TASKS, Answer, Task, find_task

__all__ = ["GroundingMetrics", "TaskMetrics", "temporal_iou"]

OF_TEXTS = ("timestamp_rate", "format_rate")


class GroundingMetrics(Metric):
    """R1@0.3/0.5/0.7 (share with IoU >= level), mIoU, and the shares of texts that parse, name times, keep the format.

    The denominator is the number of samples asked for: a failed sample (missing video, failed decode, engine error)
    scores 0 everywhere. The states are sums, so they reduce across ranks. `score_answer` says what an answer scores.

    Args:
        strict: R1 counts IoU > level instead.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    sums: Tensor  # of the scores, in the order of METRICS
    texts: Tensor  # completions seen
    failed: Tensor
    samples: Tensor  # asked for, failed ones included

    def __init__(self, strict: bool = False, **settings):
        super().__init__(**settings)
        self.strict = strict
        self.add_state("sums", torch.zeros(len(METRICS), dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("texts", "failed", "samples"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self,
        spans: Sequence[Span | None],
        truths: Sequence[Sequence[Span]],
        texts: Sequence[str] | None = None,
        failed: int = 0,
    ) -> None:
        """Adds N samples that were answered and `failed` more that were not.

        `spans`: N parsed answers, None where unparsable. `truths`: for each its true spans, at least one. `texts`: the
        N completions, for the timestamp and format rates. Raises ValueError when lengths differ or a truth is missing.
        """
        if len(spans) != len(truths) or (texts is not None and len(texts) != len(spans)):
            raise ValueError(
                f"spans, truths and texts must have one entry for each sample, got {len(spans)} spans, "
                f"{len(truths)} truths and {'no' if texts is None else len(texts)} texts"
            )
        for index, (span, true_spans) in enumerate(zip(spans, truths, strict=True)):
            if not len(true_spans):
                raise ValueError(f"sample {index} has no true span, each needs at least one")
            scores = score_answer(span, true_spans, None if texts is None else texts[index], self.strict)
            self.sums += self.sums.new_tensor(scores)
        self.texts += len(texts or ())
        self.failed += failed
        self.samples += len(spans) + failed

    def compute(self) -> dict[str, Tensor]:
        """Scalars, rates as shares in [0, 1]; nan without samples, and for the text rates without texts."""
        values = dict(zip(METRICS, self.sums / self.samples, strict=True))
        if not self.texts:
            values |= {name: torch.full_like(values[name], torch.nan) for name in OF_TEXTS}
        return {**values, "failed": self.failed.clone(), "samples": self.samples.clone()}


class TaskMetrics(GroundingMetrics):
    """The same for samples of any task, with IoUs as each task has them; and where one of them is not of the default task, the
    same and the task's own metrics by task, as `TASK/NAME`."""

    task_sums: Tensor  # of the scores of each task, one after the other, as `_slots` says
    task_samples: Tensor  # (tasks)

    def __init__(self, strict: bool = False, **settings):
        super().__init__(strict, **settings)
        self._slots = [(task.name, name) for task in TASKS.values() for name in (*METRICS, *_own_names(task))]
        self.add_state("task_sums", torch.zeros(len(self._slots), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("task_samples", torch.zeros(len(TASKS), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, samples: Sequence[Sample], texts: Sequence[str | None]) -> None:
        """Adds N samples with their completions, None where there was none."""
        for sample, text in zip(samples, texts, strict=True):
            task = find_task(sample.task)
            answer, truth = NO_ANSWER if text is None else task.read(text), task.truth(sample)
            scores = score_iou(task.iou(answer, truth), answer.spans is not None, text, self.strict)
            self.sums += self.sums.new_tensor(scores)
            values = dict(zip(METRICS, scores, strict=True)) | task.scores(answer, truth)
            own = {slot: values[slot[1]] for slot in self._slots if slot[0] == task.name}
            self.task_sums += self.task_sums.new_tensor([own.get(slot, 0.0) for slot in self._slots])
            self.task_samples[list(TASKS).index(task.name)] += 1
        answered = sum(text is not None for text in texts)
        self.texts += answered
        self.failed += len(texts) - answered
        self.samples += len(texts)

    def compute(self) -> dict[str, Tensor]:
        """As `GroundingMetrics`, and by task."""
        values, counts = super().compute(), dict(zip(TASKS, self.task_samples.tolist(), strict=True))
        if all(name == DEFAULT or not count for name, count in counts.items()):
            return values
        sums = dict(zip(self._slots, self.task_sums.tolist(), strict=True))
        for name, count in counts.items():
            if count:
                own = {key: sums[name, key] for key in _own_names(TASKS[name])}
                found = {key: sums[name, key] / count for key in METRICS} | TASKS[name].metrics(own, count)
                values |= {f"{name}/{key}": self.sums.new_tensor(value) for key, value in found.items()}
        return values


def metric_names(task: Task) -> list[str]:
    """What `TaskMetrics` computes for a task; of all of them more is better."""
    return [*METRICS, *task.metrics(task.scores(NO_ANSWER, Answer(())), 1)]


def _own_names(task: Task) -> list[str]:
    """Of a task's own scores."""
    return list(task.scores(NO_ANSWER, Answer(())))
