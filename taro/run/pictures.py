"""What numbers don't show of a run, in TensorBoard: how IoUs and temporal gaps are spread, and now and then a group."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn

from taro.distributed import gather
from taro.progress import steps_done
from taro.rl.group_loss import TrainingGroup
from taro.view.figure import draw_timeline
from taro.view.frames import make_strip
from taro.view.group import group_timeline
from taro.view.timeline import Timeline, seconds_text

HISTOGRAMS = {"iou": "rollout/IoU", "temporal_gap": "taro/temporal_gap"}  # key of a record, and name in the log


class TrainingPictures(L.Callback):
    """Histograms as often as numbers are logged, over all ranks; and of the groups of rank 0 the one whose rewards differ most,
    as a figure and as text. Steps are counted from 0, as in the rest of the log.

    Args:
        every: steps from one group to the next; 0: none.
    """

    def __init__(self, every: int = 20) -> None:
        self.every = every
        self.most = 0.0  # the largest reward so far: the colour of its bar
        self.failed = False

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: dict[str, Any], batch: Any, batch_idx: int
    ) -> None:
        step, groups = steps_done(trainer), outputs["groups"]
        self.most = max([self.most, *(float(one.rewards.total.max()) for one in groups)])
        writers = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if trainer.log_every_n_steps and step % trainer.log_every_n_steps == 0:
            for key, name in HISTOGRAMS.items():
                ranks = gather([record[key] for record in outputs["rollouts"] if record[key] is not None])
                values = np.array([value for rank in ranks for value in rank])
                for writer in writers if len(values) and not self.failed else ():
                    with self._going_on(step):
                        writer.add_histogram(name, values, step - 1)
        if self.every and step % self.every == 0 and groups and trainer.is_global_zero and not self.failed:
            with self._going_on(step):
                self._show(most_telling(groups), writers, step)

    @contextmanager
    def _going_on(self, step: int) -> Iterator[None]:
        """A picture that can't be drawn is no reason to end a run: it is said, and there are no more."""
        try:
            yield
        except Exception as error:
            rank_zero_warn(
                f"a picture of step {step} can't be drawn ({type(error).__name__}: {error}); training goes on without pictures"
            )
            self.failed = True

    def _show(self, chosen: TrainingGroup, writers: Sequence[Any], step: int) -> None:
        group = chosen.group
        log_probs = () if chosen.shuffled_log_probs is None else (chosen.old_log_probs, chosen.shuffled_log_probs)
        strip = make_strip(group.example.prompt.video)
        timeline = group_timeline(group, chosen.rewards, self.most, *log_probs, strip=strip)
        query = group.example.sample.query
        for writer in writers:
            writer.add_text("rollout/group", as_markdown(query, timeline), step - 1)
            if importlib.util.find_spec("matplotlib") is not None:
                writer.add_figure("rollout/group", draw_timeline(timeline, f"step {step}: {query}"), step - 1)


def most_telling(groups: Sequence[TrainingGroup]) -> TrainingGroup:
    """The one whose rewards differ most, of those whose temporal gaps were measured, if there are any."""
    return max(groups, key=lambda one: (one.shuffled_log_probs is not None, float(one.rewards.total.std(correction=0))))


def as_markdown(query: str, timeline: Timeline) -> str:
    """The query, the truth and all completions, as blocks of code: nothing in them is read as markup."""
    lines = [query, f"truth: {', '.join(map(seconds_text, timeline.truths))}"]
    for track in timeline.tracks:
        answer = "no answer" if track.span is None else seconds_text(track.span)
        lines += ["", f"{track.label}: {answer}, {track.note}", *(track.text or "").splitlines()]
    return "\n".join(f"    {line}" for line in "\n".join(lines).splitlines())
