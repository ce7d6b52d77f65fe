"""Which of another tool's texts answers which sample: by id, or by video, query and true span.

Every sample gets a text, or None; no row is left out without a word.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from taro.data.rows import TIME_TOLERANCE
from taro.data.samples import Sample
from taro.evaluation.other_tools import Text, Texts, video_name
from taro.evaluation.predictions import EvaluationError
from taro.messages import first_names, list_lines


def match_samples(texts: Sequence[Text], samples: Sequence[Sample]) -> Texts:
    """A text of each sample, in their order, with the true spans of the samples; None where there is no row of it.

    Raises:
        EvaluationError: not one row is of a sample.
    """
    by_id, by_video = {sample.id: sample for sample in samples}, defaultdict(list)
    for sample in samples:
        by_video[video_name(sample.video)].append(sample)
    found: dict[str, Text] = {}
    strangers, again = [], []
    for text in texts:
        fitting = _fitting(text, by_id, by_video)
        if not fitting:
            of_another = ": a sample has this id, but another query, video or true span" if text.id in by_id else ""
            strangers.append(f"{text.id}{of_another}")
            continue
        sample = next((one for one in fitting if one.id not in found), fitting[0])
        if sample.id in found:
            again.append(f"{text.id} answers {sample.id}, as {found[sample.id].id} does")
        found[sample.id] = text
    if not found:
        raise EvaluationError(
            f"not one of {len(texts)} predictions is of a sample: neither its id nor its video, query and true span. "
            f"Predictions are {first_names(text.id for text in texts)}; samples are {first_names(by_id)}. Name the samples "
            "that they were made of with --annotations"
        )
    alone = [sample.id for sample in samples if sample.id not in found]
    remarks = [
        (alone, "samples have no prediction: they count as not asked:"),
        (strangers, "predictions are of no sample: they don't count:"),
        (again, "predictions are of a sample that has one already: the last one counts:"),
    ]
    return Texts(
        [Text(one.id, found[one.id].text if one.id in found else None, one.spans) for one in samples],
        [list_lines(f"{len(lines)} {about}", lines) for lines, about in remarks if lines],
    )


def _fitting(text: Text, by_id: dict[str, Sample], by_video: dict[str, list[Sample]]) -> list[Sample]:
    """The samples that a text may be of; of several whose queries are in one prompt, those with the longest."""
    if text.id in by_id and _agree(text, by_id[text.id]):
        return [by_id[text.id]]
    if text.video is None or (text.query is None and text.prompt is None):
        return []
    fitting = [sample for sample in by_video.get(text.video, ()) if _agree(text, sample)]
    longest = max((len(_plain(sample.query)) for sample in fitting), default=0)
    return [sample for sample in fitting if len(_plain(sample.query)) == longest]


def _agree(text: Text, sample: Sample) -> bool:
    """Whether all that a row says of video, query and truth is so of the sample; other tools may state one of several spans."""
    query = _plain(sample.query)
    return (
        text.video in (None, video_name(sample.video))
        and (text.query is None or _plain(text.query) == query)
        and (text.prompt is None or query in _plain(text.prompt))
        and all(any(_same(truth, span) for span in sample.spans) for truth in text.truths)
    )


def _same(first: Sequence[float], second: Sequence[float]) -> bool:
    return all(abs(a - b) <= TIME_TOLERANCE for a, b in zip(first, second, strict=True))


def _plain(query: str) -> str:
    """As tools write it: without case, double spaces and periods at its ends."""
    return " ".join(query.casefold().split()).strip(" .")
