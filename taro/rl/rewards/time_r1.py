"""Time-R1 (arXiv 2503.13377, the video model): format + timestamp IoU."""

from dataclasses import dataclass

from taro.rl.rewards.completion import Completion, Form, Method
from taro.rl.rewards.parts import has_format, timestamp_iou
from taro.rl.rewards.released import bare_span, hull_iou, loose_format
from taro.spans import Span


@dataclass(frozen=True)
class TimeR1(Method):
    """Format + IoU (1 - |s - s*| / T) (1 - |e - e*| / T).

    released: `8.50s to 12.40s`, with a unit, can't be read; the truth is not cut to the video; and the two factors are not cut
    to 0, so an answer that is off by more than T at one end costs, and at both ends pays.
    """

    form: Form = "published"

    def __call__(self, completion: Completion) -> dict[str, float]:
        if self.form == "published":
            return {"format": has_format(completion), "iou": timestamp_iou(completion)}
        truth = completion.sample.spans
        iou = unclamped_iou(bare_span(completion.text), truth[0], completion.duration) if truth else 0.0
        return {"format": loose_format(completion.text), "iou": iou}


def unclamped_iou(span: Span | None, truth: Span, duration: float) -> float:
    """As released."""
    iou = hull_iou(span, truth)
    if iou == 0:
        return 0.0
    start_closeness, end_closeness = (1 - abs(own - true) / duration for own, true in zip(span, truth, strict=True))
    return iou * start_closeness * end_closeness
