"""Captions as a captioner makes them: about the right events, at about the right times, and not of all.

How good a real one's captions of synthetic videos are, is measured by

    python -m taro.synthetic.tiny --captioner --start assets/tiny-qwen2.5-vl-start --output outputs/tiny-captioner
    python -m taro.prepare.caption --input data/synthetic/train.jsonl --output data/synthetic/captioned.jsonl \\
        --model outputs/tiny-captioner --prompt "What happens in these {seconds} seconds?" --max_tokens 160 \\
        --video.max_frames 64 --video.max_tokens 112 --video.resize torch
    python -m taro.synthetic.captions --input data/synthetic/captioned.jsonl

where `--start` is the tiny base before its last stage. It made 569 captions of 644 events (12 % fewer). 268 of them have a
wrong word, so that 53 % of the events are not described in theirs. Of those that are, quantiles; seconds after the truth:

| | 5 % | 25 % | 50 % | 75 % | 95 % |
|---|---|---|---|---|---|
| start, the captioner | -1.0 | 0.0 | 0.0 | +1.0 | +5.5 |
| start, `loose` | -1.8 | -1.0 | -0.4 | +0.2 | +0.8 |
| start, `looser` | -3.7 | -1.8 | -0.5 | +0.6 | +1.5 |
| end, the captioner | -2.0 | 0.0 | +0.5 | +2.0 | +5.0 |
| end, `loose` | -0.8 | -0.1 | +0.5 | +1.2 | +1.8 |
| end, `looser` | -1.5 | -0.2 | +1.0 | +2.3 | +3.5 |
| IoU, the captioner | 0.00 | 0.40 | 0.67 | 0.88 | 1.00 |
| IoU, `loose` | 0.49 | 0.64 | 0.75 | 0.84 | 0.92 |
| IoU, `looser` | 0.31 | 0.47 | 0.58 | 0.71 | 0.87 |

So `looser` is about as good in all (mean IoU 0.59; the captioner about 0.61), between what it left out and what it left out or
misnamed (38 %), and has no gross errors and no wrong words; `loose` is better than the captioner. `looser` is the default.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from taro.command_line import Parser
from taro.data.samples import Caption, Sample, load_samples
from taro.errors import clean_exit
from taro.spans import temporal_iou
from taro.tasks import DEFAULT

SHORTEST = 0.5  # seconds of a caption


@dataclass(frozen=True)
class CaptionNoise:
    """How a video's captions differ from what happens in it. The default is no difference.

    Args:
        start: a caption begins this many seconds after its event does, drawn evenly from (least, most); negative is before.
        end: the same for its end.
        missing: share of the events that are not described. One at least is.
    """

    start: tuple[float, float] = (0.0, 0.0)
    end: tuple[float, float] = (0.0, 0.0)
    missing: float = 0.0

    def __post_init__(self) -> None:
        pairs = {"start": self.start, "end": self.end}
        problems = [f"{name} is (least, most), got {pair}" for name, pair in pairs.items() if pair[0] > pair[1]]
        if not 0 <= self.missing < 1:
            problems.append(f"missing is a share from 0 to below 1, got {self.missing}")
        if problems:
            raise ValueError("; ".join(problems))


CAPTIONERS = {
    "exact": CaptionNoise(),
    "loose": CaptionNoise(start=(-2.0, 1.0), end=(-1.0, 2.0), missing=0.25),
    "looser": CaptionNoise(start=(-4.0, 2.0), end=(-2.0, 4.0), missing=0.4),
}


def describe(truth: Sequence[Caption], duration: float, noise: CaptionNoise, seed: int) -> tuple[Caption, ...]:
    """What a captioner makes of a video's events.

    Args:
        truth: a caption of each event, exact.
        duration: of the video, seconds.
        seed: of the video: its captions are the same whatever is asked about it.
    """
    rng = random.Random(f"captions {seed}")
    described = []
    for event in truth:
        middle = (event.start + event.end) / 2
        start = min(event.start + rng.uniform(*noise.start), middle - SHORTEST / 2)
        end = max(event.end + rng.uniform(*noise.end), middle + SHORTEST / 2)
        described.append((rng.random(), Caption(round(max(0.0, start), 2), round(min(duration, end), 2), event.text)))
    kept = [caption for draw, caption in described if draw >= noise.missing]
    return tuple(kept or [max(described, key=lambda pair: pair[0])[1]])


@dataclass(frozen=True)
class CaptionerErrors:
    """How a captioner's captions differ from the truth; seconds. V captions of events, by their words."""

    events: int
    missing: int  # events that no caption has the words of
    invented: int  # captions with words of no event
    starts: tuple[float, ...]  # (V) later than the truth
    ends: tuple[float, ...]  # (V)
    ious: tuple[float, ...]  # (V)


def measure(samples: Iterable[Sample]) -> CaptionerErrors:
    """From samples of the synthetic world, one for each event, with a captioner's captions; other questions are left out."""
    videos: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.task == DEFAULT:
            videos.setdefault(sample.video, []).append(sample)
    missing, invented, starts, ends, ious = 0, 0, [], [], []
    for rows in videos.values():
        truth = {sample.query: sample.spans[0] for sample in rows}
        said = {caption.text.strip(" ."): caption for caption in rows[0].captions}
        missing += len(truth.keys() - said.keys())
        invented += len(said.keys() - truth.keys())
        for text in truth.keys() & said.keys():
            (start, end), caption = truth[text], said[text]
            starts.append(caption.start - start)
            ends.append(caption.end - end)
            ious.append(temporal_iou((caption.start, caption.end), (start, end)))
    return CaptionerErrors(sum(map(len, videos.values())), missing, invented, tuple(starts), tuple(ends), tuple(ious))


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(description="How good a captioner's captions of synthetic videos are.")
    parser.add_argument("--input", required=True, help="samples of python -m taro.synthetic with captions of a captioner")
    errors = measure(load_samples(parser.parse_args(arguments).input))
    print(f"{errors.events} events: {errors.missing} not described; {errors.invented} captions of no event")
    for name, values in (("start", errors.starts), ("end", errors.ends), ("IoU", errors.ious)):
        quantiles = ", ".join(f"{value:+.2f}" for value in np.quantile(values or [np.nan], [0.05, 0.25, 0.5, 0.75, 0.95]))
        print(f"{name}: quantiles of 5, 25, 50, 75, 95 %: {quantiles}")


if __name__ == "__main__":
    with clean_exit():
        main()
