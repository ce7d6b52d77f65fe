"""MUSEG (arXiv 2505.20715): several segments, matched as a whole and one by one; in stage 1 the reasoning must name them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from taro.prompts import has_format, numbers_in, think_span
from taro.rl.rewards.completion import Completion, Form, Method
from taro.spans import Span, merge_spans, overlap_length, span_length, total_length

MOST_NAMED = 10  # times that a number may be named in the reasoning
_FORMAT = re.compile(r"\s*<think>(.*?)</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_FAR = (1e9, 1e9 + 1)  # what the released code pairs a missing segment with


def global_f1(predicted: Sequence[Span], truth: Sequence[Span]) -> float:
    """2 overlap / (|predicted| + |truth|) of the unions, in [0, 1]; 1 where both are empty lists."""
    if not predicted and not truth:
        return 1.0
    lengths = total_length(predicted) + total_length(truth)
    return 2 * overlap_length(predicted, truth) / lengths if lengths else 0.0


def local_matching(predicted: Sequence[Span], truth: Sequence[Span]) -> float:
    """Mean over pairs in order of time of (1 + GIoU) / 2, in [0, 1]; what the longer side has more is 0."""
    if not predicted and not truth:
        return 1.0
    pairs = zip(sorted(predicted), sorted(truth), strict=False)
    return sum(_half_giou(*pair) for pair in pairs) / max(len(predicted), len(truth))


def _half_giou(span: Span, truth: Span) -> float:
    """(1 + IoU - (hull - union) / hull) / 2; 0 where one of the spans has no length."""
    if not span_length(span) or not span_length(truth):
        return 0.0
    overlap = max(0.0, min(span[1], truth[1]) - max(span[0], truth[0]))
    union = span_length(span) + span_length(truth) - overlap
    hull = max(span[1], truth[1]) - min(span[0], truth[0])
    return (1 + overlap / union - (hull - union) / hull) / 2


def released_f1(predicted: Sequence[Span], truth: Sequence[Span]) -> float:
    """As released: the truth is not merged, so what two true segments share counts twice."""
    mine = merge_spans(predicted)
    overlap = sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a in mine for b in truth)
    precision = overlap / (total_length(mine) + 1e-6)
    recall = overlap / (sum(end - start for start, end in truth) + 1e-6)
    return 2 * precision * recall / (precision + recall + 1e-6)


def released_local(predicted: Sequence[Span], truth: Sequence[Span]) -> float:
    """As released: pairs in the order of the output, what is missing lies far away."""
    most = max(len(predicted), len(truth))
    sides = [[*spans, *[_FAR] * (most - len(spans))] for spans in (predicted, truth)]
    return sum(_half_giou(*pair) for pair in zip(*sides, strict=True)) / most if most else 0.0


@dataclass(frozen=True)
class Museg(Method):
    """Format + global + local matching. Format is 1; 0.2 where no segment can be read; in stage 1 0.6 where a time of the
    answer is not named in the reasoning, or more than 10 times; 0 without the tags.

    released: segments are `a-b c-d` and nothing else, and one that is reversed or empty makes all matching 0, as does a second
    answer tag, or none. A time is looked for as the text of a float, and as a pattern: `7.0` is found in `17.0` and in `7x0`,
    and not in `7 s`. The truth is neither merged nor cut to the video, and segments are paired in the order of the output.

    Args:
        stage: 1 or 2; the second doesn't look for times in the reasoning.
    """

    stage: Literal[1, 2] = 1
    form: Form = "published"

    def __call__(self, completion: Completion) -> dict[str, float]:
        if self.form == "released":
            return self._released(completion)
        spans, text = completion.spans, completion.text
        names_all = _names(numbers_in(text[slice(*think_span(text))]), spans or ())
        return {
            "format": _grade(has_format(text), spans is not None, self.stage == 2 or names_all),
            "global": 0.0 if spans is None else global_f1(spans, completion.truth),
            "local": 0.0 if spans is None else local_matching(spans, completion.truth),
        }

    def _released(self, completion: Completion) -> dict[str, float]:
        whole = _FORMAT.fullmatch(completion.text) if has_format(completion.text) else None
        found = _ANSWER.search(completion.text)
        segments = read_segments(found[1].split()) if found else None
        times = [time for segment in segments or () for time in segment]
        counts = [len(re.findall(str(time), whole[1] if whole else "")) for time in times]
        named = all(1 <= count <= MOST_NAMED for count in counts)
        once = all(completion.text.count(tag) == 1 for tag in ("<answer>", "</answer>"))
        valid = once and segments is not None and all(0 <= start < end for start, end in segments)
        truth = completion.sample.spans
        return {
            "format": _grade(whole is not None, segments is not None, self.stage == 2 or named),
            "global": released_f1(segments, truth) if valid else 0.0,
            "local": released_local(segments, truth) if valid else 0.0,
        }


def _grade(whole: bool, readable: bool, named: bool) -> float:
    if not whole:
        return 0.0
    return (1.0 if named else 0.6) if readable else 0.2


def _names(named: Sequence[float], spans: Sequence[Span]) -> bool:
    return all(1 <= named.count(time) <= MOST_NAMED for span in spans for time in span)


def read_segments(words: Sequence[str]) -> list[Span] | None:
    """Of words `a-b`, as the released code reads them; None where one is something else."""
    try:
        return [(float(parts[0]), float(parts[1])) for parts in (word.split("-") for word in words)]
    except (ValueError, IndexError):
        return None
