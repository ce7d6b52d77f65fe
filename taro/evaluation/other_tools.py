"""What models said, from a folder of `eval.py --output` or from files of other evaluations as they are.

A format is known by its rows: lines of JSON, entries of one JSON value, or rows of a table. Spans are (start, end) in seconds.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from taro.evaluation.prediction_files import PARTS, Placed, describe_row, is_key, read_rows
from taro.evaluation.predictions import EvaluationError, load_predictions
from taro.jsonl import CONFIG_NAME
from taro.messages import MISSING, describe_fault, list_lines, shorten
from taro.prompts import spans_in
from taro.rows import is_number
from taro.spans import Span

Row = Mapping[str, Any]

NOT_ASKED = "Failed to obtain answer"  # what VLMEvalKit writes in place of an answer, as the start of it
VIDEO_ENDINGS = re.compile(r"\.(?:mp4|mkv|webm|avi|mov|m4v)$", re.IGNORECASE)
SPANS_ALLOWED = "[start, end] or [[start, end], ...], finite numbers (seconds)"


@dataclass(frozen=True)
class Text:
    """What a model said to one query.

    Attributes:
        id: the sample's, or what the file names it by.
        text: None where the model was not asked, because the video is missing or broken, or the file has no line of it.
        truths: the true spans, as far as the file states them.
        video: name of its file, without folder and ending; None where the line doesn't say.
        query: None where the line doesn't say.
        prompt: with the query in it, where the line has no other.
    """

    id: str
    text: str | None
    truths: tuple[Span, ...]
    video: str | None = None
    query: str | None = None
    prompt: str | None = None


@dataclass(frozen=True)
class Texts:
    """Those of a data set, and what is to be said of them."""

    texts: list[Text]
    remarks: list[str]


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Args:
        name: whose files they are.
        shape: of its rows, in words.
        fits: whether a row is of this kind.
        read: of a row. Raises ValueError where a value is not as it should be, KeyError where it is missing.
        last_counts: its evaluation counts the last of several rows with one id; else they are refused.
    """

    name: str
    shape: str
    fits: Callable[[Row], bool]
    read: Callable[[Row], Text]
    last_counts: bool = True


def load_texts(path: str | Path) -> Texts:
    """Texts of a folder of `eval.py --output`, of a file of another evaluation, or of a folder with its parts (*.jsonl).

    Raises:
        EvaluationError: the format is not known, rows can't be read (all are named), or ids come more than once where the
            tool has no rule for it.
        RowError: predictions of `eval.py` that can't be read.
    """
    path = Path(path)
    parts = [] if (path / CONFIG_NAME).exists() else sorted(path.glob("*.jsonl"))
    if path.is_dir() and not parts:
        return Texts([Text(one.id, one.completion, one.spans, query=one.query) for one in load_predictions(path)], [])
    if parts:
        rows = [(f"{part.name}, {place}", row) for part in parts for place, row in read_rows(part)]
    else:
        rows = read_rows(path)
    if not rows:
        raise EvaluationError(f"{path}: no predictions in it")
    place, first = rows[0]
    found = next((one for one in FORMATS if isinstance(first, Mapping) and one.fits(first)), None)
    if found is None:
        known = ["a folder of eval.py --output", *(f"{one.name}: {one.shape}" for one in FORMATS)]
        head = f"{path}: no predictions that are known ({place}: {describe_row(first)}). Known are"
        raise EvaluationError("\n- ".join([head, *known]))
    return _count_once(path, found, _read_texts(path, found, rows))


def _read_texts(path: Path, found: Format, rows: Placed) -> list[Text]:
    texts, faults = [], []
    for place, row in rows:
        try:
            if not (isinstance(row, Mapping) and found.fits(row)):
                raise ValueError(f"{describe_row(row)}; allowed: {found.shape}")
            texts.append(found.read(row))
        except KeyError as error:
            faults.append(f"{place}: {error.args[0]}: got {shorten(MISSING)}; allowed: {found.shape}")
        except ValueError as error:
            faults.append(f"{place}: {error}")
    if faults:
        raise EvaluationError(list_lines(f"{path}: {len(faults)} of {len(rows)} rows of {found.name} can't be read:", faults))
    return texts


def _count_once(path: Path, found: Format, texts: Sequence[Text]) -> Texts:
    """One text of each id."""
    counts = Counter(one.id for one in texts)
    twice = [f"{id}: {count} rows" for id, count in counts.items() if count > 1]
    if not twice:
        return Texts(list(texts), [])
    head = f"{path}: {len(twice)} ids come more than once"
    if not found.last_counts:
        raise EvaluationError(list_lines(f"{head}: keep one row of each", twice))
    head += f"; the last row of each counts, as in {found.name}'s own evaluation, and the others don't:"
    return Texts(list({one.id: one for one in texts}.values()), [list_lines(head, twice)])


# ---- What a row says ----


def video_name(path: str) -> str:
    """Of a video file, without its folder and its ending."""
    return VIDEO_ENDINGS.sub("", re.split(r"[/\\]", path)[-1])


def _read_key(key: str, text: str) -> Text:
    video, rest = key.split(PARTS, 1)
    query, truth = rest.rsplit(PARTS, 1)
    return Text(key, text, _spans("the truth in the key", truth), video_name(video), query)


def _spans(field: str, value: Any) -> tuple[Span, ...]:
    """Of one span, of several, or of the text of either."""
    read = value
    if isinstance(value, str):
        try:
            read = json.loads(value.replace("(", "[").replace(")", "]"))
        except (ValueError, RecursionError):
            read = None
    pairs = [read] if isinstance(read, list | tuple) and read and not isinstance(read[0], list | tuple) else read
    if not isinstance(pairs, list | tuple) or not all(_is_span(pair) for pair in pairs):
        raise ValueError(describe_fault(field, value, SPANS_ALLOWED))
    return tuple((float(start), float(end)) for start, end in pairs)


def _is_span(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(is_number, value))


def _string(row: Row, name: str) -> str:
    if not isinstance(row[name], str):
        raise ValueError(describe_fault(name, row[name], "text"))
    return row[name]


# ---- Formats ----


def _read_time_r1(row: Row) -> Text:
    return Text(str(row["qid"]), _string(row, "output_text"), _spans("target", row["target"]))


def _only_value(row: Row) -> Any:
    """Of a row that is one key of video, query and truth; None of another one."""
    (key, value), *others = list(islice(row.items(), 2)) or [(None, None)]
    return value if is_key(key) and not others else None


def _read_timelens(row: Row) -> Text:
    ((key, said),) = row.items()
    return _read_key(key, _string(said, "answers"))


def _read_lmms_eval(row: Row) -> Text:
    ((key, said),) = row.items()
    return _read_key(key, said)


def _read_lmms_eval_samples(row: Row) -> Text:
    """What its own scores are of: answers that a filter has left. Metrics that come with the row have its key."""
    said = row["filtered_resps"]
    while isinstance(said, list) and len(said) == 1:
        said = said[0]
    if not isinstance(said, str):
        raise ValueError(describe_fault("filtered_resps", row["filtered_resps"], "a list of one text"))
    for value in row.values():
        if isinstance(value, Mapping) and len(value) == 1 and is_key(next(iter(value))):
            return _read_key(next(iter(value)), said)
    prompt = row.get("input")
    return Text(str(row["doc_id"]), said, _spans("target", row["target"]), prompt=prompt if isinstance(prompt, str) else None)


def _read_vlmevalkit(row: Row) -> Text:
    said, video, question = row["prediction"], row.get("video"), row.get("question")
    said = "" if said is None or said != said else str(said)  # an empty cell, in JSON nan
    name = next((name for name in ("gt_span", "gt", "answer") if row.get(name) is not None), "gt_span, gt or answer")
    truths = tuple(spans_in(str(row[name]))) if name == "answer" else _spans(name, row[name])
    if not truths and name == "answer":
        raise ValueError(describe_fault(name, row[name], "text with spans, such as `3 - 5 seconds`"))
    return Text(
        str(row["index"]),
        None if said.startswith(NOT_ASKED) else said,
        truths,
        None if video is None else video_name(str(video)),
        prompt=None if question is None else str(question),
    )


FORMATS = (
    Format(
        "Time-R1",
        'lines {"qid", "output_text", "target": [start, end]}',
        lambda row: {"qid", "output_text"} <= row.keys(),
        _read_time_r1,
    ),
    Format(
        "TimeLens",
        'lines {"video>>>query>>>[start, end]": {"answers": text}}',
        lambda row: isinstance(_only_value(row), Mapping),
        _read_timelens,
    ),
    Format(
        "lmms-eval",
        '{"video>>>query>>>[start, end]": text, ...}',
        lambda row: isinstance(_only_value(row), str),
        _read_lmms_eval,
    ),
    Format(
        "lmms-eval --log_samples",
        'lines {"doc_id", "target": "[start, end]", "filtered_resps": [text]}',
        lambda row: {"doc_id", "filtered_resps"} <= row.keys(),
        _read_lmms_eval_samples,
    ),
    Format(
        "VLMEvalKit",
        "a table (.tsv, .xlsx, .json) with the columns index, prediction, and gt_span, gt or answer",
        lambda row: {"index", "prediction"} <= row.keys(),
        _read_vlmevalkit,
        last_counts=False,
    ),
)
