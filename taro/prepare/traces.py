"""Traces to learn from, for `python train.py --stage sft`: the best completions of a run's rollouts.

    python -m taro.prepare.traces outputs/tiny --output data/traces.jsonl --min_iou 0.7 --per_sample 2

What is written are the samples that the run was trained on, each with its best completions as `traces`; those without any are
left out.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from taro.command_line import Parser
from taro.data.samples import save_samples
from taro.data.traces import TRACES, TraceError
from taro.errors import clean_exit
from taro.prepare.paths import path_problems
from taro.prepare.selection import histogram
from taro.prompts import has_format
from taro.rl.rollout_log import Record, find_samples, list_steps, read_groups


@dataclass(frozen=True)
class TraceSettings:
    """The flags of the command, which `parse` describes."""

    run: Path
    output: Path
    min_iou: float
    min_reward: float
    per_sample: int
    any_format: bool
    constructed: bool


def make_traces(settings: TraceSettings) -> str:
    """Write the samples with their traces; says what came of it in lines.

    Raises:
        TraceError: settings that can't work, rollouts of other samples than those that are there now, or no trace is left.
        RolloutLogError: the run has no rollouts, or ones that can't be read, or its samples are not there.
    """
    if settings.per_sample < 1:
        raise TraceError(f"--per_sample {settings.per_sample}: must be at least 1")
    if problems := path_problems([], outputs=[("--output", settings.output)]):
        raise TraceError(problems[0])
    files, samples = list_steps(settings.run), find_samples(settings.run)
    ious, rewards, reasons, good = [], [], Counter(), []
    for step, paths in files.items():
        for record in (one for group in read_groups(step, paths) for one in group.records):
            if record.id not in samples or samples[record.id].query != record.query:
                raise TraceError(f"{settings.run}: the sample {record.id} of its step {step} is another one now: put it back")
            ious.append(record.iou)
            rewards.append(record.reward)
            if reason := fault(record, settings):
                reasons[reason] += 1
            else:
                good.append(record)
    chosen = choose(good, settings.per_sample)
    kept = [one for own in chosen.values() for one in own]
    if len(good) > len(kept):
        reasons[f"the same text again, or beyond --per_sample {settings.per_sample}"] = len(good) - len(kept)
    lines = [f"left out, {reason}: {count}" for reason, count in reasons.most_common()]
    lines += [f"rewards: {spread(rewards)}", f"rewards of what is taken: {spread([one.reward for one in kept])}"]
    lines.append(histogram(ious, [one.iou for one in kept]))
    if not kept:
        head = f"{settings.run}: none of its {len(ious)} completions is left; lower what leaves them out:"
        raise TraceError("\n".join([head, *lines]))
    texts = {id: [one.completion for one in own] for id, own in chosen.items()}
    save_samples((replace(samples[id], extra=samples[id].extra | {TRACES: own}) for id, own in texts.items()), settings.output)
    head = f"{settings.output}: {len(kept)} of {len(ious)} completions, for {len(chosen)} of {len(samples)} samples"
    return "\n".join([head, *lines])


def fault(record: Record, settings: TraceSettings) -> str | None:
    """Why a completion is no trace; None for one that is."""
    if not record.finished:
        return "cut off at max_tokens"
    if record.constructed and not settings.constructed:
        return "with a constructed path (--constructed takes them)"
    if not settings.any_format and not has_format(record.completion):
        return "without the format (--any_format takes them)"
    if record.iou < settings.min_iou:
        return f"below --min_iou {settings.min_iou:g}"
    return f"below --min_reward {settings.min_reward:g}" if record.reward < settings.min_reward else None


def choose(records: Sequence[Record], per_sample: int) -> dict[str, list[Record]]:
    """The best of each sample by id, of equal rewards the later ones; each text once."""
    by_sample: dict[str, dict[str, Record]] = defaultdict(dict)
    for record in sorted(reversed(records), key=lambda one: one.reward, reverse=True):
        own = by_sample[record.id]
        if len(own) < per_sample:
            own.setdefault(record.completion, record)
    return {id: list(own.values()) for id, own in by_sample.items()}


def spread(rewards: Sequence[float]) -> str:
    """The lowest, the quartiles and the highest."""
    marks = np.quantile(rewards, [0, 0.25, 0.5, 0.75, 1]) if rewards else []
    return f"{', '.join(f'{mark:.2f}' for mark in marks) or 'none'} (lowest, quartiles, highest)"


def parse(arguments: Sequence[str] | None) -> TraceSettings:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a run of train.py, as outputs/tiny, with rollouts_every 1")
    parser.add_argument("--output", type=Path, required=True, help="samples with traces, JSON lines")
    parser.add_argument("--min_iou", type=float, default=0.5, help="IoU of a trace's answer, at least (0.5)")
    parser.add_argument("--min_reward", type=float, default=-math.inf, help="total reward of a trace in the run, at least")
    parser.add_argument("--per_sample", type=int, default=1, help="traces of a sample, the best ones, at most (1)")
    parser.add_argument("--any_format", action="store_true", help="take what is not one think and one answer block, too")
    parser.add_argument("--constructed", action="store_true", help="take what starts with a constructed path, too")
    return TraceSettings(**vars(parser.parse_args(arguments)))


def main(arguments: Sequence[str] | None = None) -> None:
    settings = parse(arguments)
    print(make_traces(settings))
    print(f"next: python train.py --stage sft --data.train_file {settings.output}, and the settings of the run")


if __name__ == "__main__":
    with clean_exit():
        main()
