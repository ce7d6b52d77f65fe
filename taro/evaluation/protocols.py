"""The same texts under every rule that published numbers were made with.

    python -m taro.evaluation.protocols outputs/eval/tvgbench [--annotations F] [--tokenizer MODEL] [--json FILE]

reads a folder of `eval.py --output`, or another tool's predictions (`taro.evaluation.other_tools`). A protocol is a reader of
texts, a way to count and what it does with failures; prompt, frames and model are those that the texts were made with, and no
rule changes them.

Spans are (start, end) in seconds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from taro.command_line import Parser, new_file
from taro.data.samples import load_samples
from taro.errors import clean_exit
from taro.evaluation.made_with import describe_asked
from taro.evaluation.other_tools import Text, load_texts
from taro.evaluation.scores import IOU_LEVELS
from taro.evaluation.texts_of_samples import match_samples
from taro.files import write_json
from taro.jsonl import CONFIG_NAME, read_config
from taro.messages import print_table
from taro.prompts import parse_answer, parse_spans
from taro.spans import Span, best_iou, union_iou

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Cut = Callable[[str, int], str]
LMMS_EVAL_TOKENS = 50  # max_new_tokens of lmms-eval's charades_sta


# ---- Readers: what counts as the answer in a text ----


def read_last_pair(text: str) -> list[Span]:
    """The last `a to b` or `a and b` of the whole text, reasoning included, with single spaces and no units."""
    pairs = re.findall(r"(?<!\d)(\d+(?:\.\d*)?) (?:to|and) (\d+(?:\.\d*)?)", text)
    return [(float(pairs[-1][0]), float(pairs[-1][1]))] if pairs else []


def read_last_numbers(text: str) -> list[Span]:
    """The last two numbers of the whole text, in order of time."""
    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)[-2:]]
    return [(min(numbers), max(numbers))] if len(numbers) == 2 else []


def read_first_dash(text: str) -> list[Span]:
    """The first `a - b` or `a to b` (any `to`, inside of words as well); without one, the first numbers of the first two
    sentences that speak of a start, an end or a happening. In order of time."""
    text = text.lower().replace("a specific example is : 20.8 - 30.0 seconds", "").replace("to", "-")
    times = re.search(r"(?<!\d)(\d+(?:\.+\d*)?)\s*-\s*(\d+(?:\.+\d*)?)", text)
    if times is None:
        about = (sentence for sentence in re.split(r"[!?\n]", text) if re.search(r"start|end|happen", sentence))
        found = (re.search(r"\b(\d+\.\d+|\d+)\b", sentence) for sentence in about)
        times = [time[0] for time in found if time][:2]
    else:
        times = times.groups()
    if len(times) < 2 or any(".." in time for time in times):
        return []
    first, second = map(float, times)
    return [(min(first, second), max(first, second))]


def read_first_dash_whole(text: str) -> list[Span]:
    """As `read_first_dash`, rounded to whole seconds."""
    return [(_whole(start), _whole(end)) for start, end in read_first_dash(text)]


def _whole(seconds: float) -> float:
    return float(round(seconds)) if math.isfinite(seconds) else seconds  # of a number with hundreds of digits


def read_answer(text: str) -> list[Span]:
    """The last range of the last answer block (`taro.prompts.parse_answer`)."""
    span = parse_answer(text)
    return [] if span is None else [span]


def read_all(text: str) -> list[Span]:
    """All ranges of the last answer block."""
    return parse_spans(text) or []


# ---- Protocols ----


@dataclass(frozen=True)
class Protocol:
    """One rule.

    Args:
        name: of the rule.
        source: where it is from.
        read: the spans that a text answers; none where it can't be read.
        reads: what that is, in words.
        strict: a hit is IoU > level, and not IoU >= level.
        union: the IoU is that of all spans of the answer with all true ones, and not the best of one with one.
        leaves_out_unasked: a sample whose video failed is not counted; else it is, and misses.
        max_tokens: longer texts are cut.
    """

    name: str
    source: str
    read: Callable[[str], list[Span]]
    reads: str
    strict: bool = False
    union: bool = False
    leaves_out_unasked: bool = False
    max_tokens: int | None = None

    def describe(self) -> tuple[str, str, str]:
        """What it reads, what a hit is and what becomes of a sample whose video failed, in words."""
        where = f" in {self.max_tokens} tokens" if self.max_tokens else ""
        return self.reads + where, "IoU > m" if self.strict else "IoU >= m", "left out" if self.leaves_out_unasked else "a miss"

    def iou(self, text: str | None, truths: Sequence[Span]) -> float:
        """Of one answer; 0 where there is none."""
        spans = [] if text is None else self.read(text)
        if not spans:
            return 0.0
        return union_iou(spans, truths) if self.union else best_iou(spans[0], truths)


LAST_PAIR = 'last "a to b" without units'
FIRST_DASH = 'first "a - b" or "a to b"'

PROTOCOLS = (
    Protocol("taro", "this project", read_answer, "last range of the answer block"),
    Protocol(
        "taro_release",
        "TaRO's evaluation (arXiv 2606.09248)",
        read_last_numbers,
        "last two numbers",
        leaves_out_unasked=True,
    ),
    Protocol("time_r1", "xiaomi-research/time-r1 evaluate.py, eval_all.py", read_last_pair, LAST_PAIR, strict=True),
    Protocol("videochat_r1", "OpenGVLab/VideoChat-R1 evaluate_tg.py", read_last_pair, LAST_PAIR, leaves_out_unasked=True),
    Protocol(
        "lmms_eval",
        "EvolvingLMMs-Lab/lmms-eval charades_sta",
        read_first_dash,
        FIRST_DASH,
        leaves_out_unasked=True,
        max_tokens=LMMS_EVAL_TOKENS,
    ),
    Protocol(
        "timelens",
        "TencentARC/TimeLens eval_dataloader.py",
        read_first_dash_whole,
        f"{FIRST_DASH}, in whole seconds",
        leaves_out_unasked=True,
    ),
    Protocol("tempr1", "TempR1 (arXiv 2512.03963)", read_all, "union of all ranges of the answer block", union=True),
)


@dataclass(frozen=True)
class ProtocolScores:
    """What the texts score under one protocol."""

    protocol: str
    r1: tuple[float, ...]  # at each of IOU_LEVELS
    miou: float
    counted: int  # samples
    unread: int  # of them, those without an answer that the rule can read
    cut: bool  # whether texts were cut where the rule says so
    left_out: int = 0  # samples that were not asked and are not counted


def score_protocol(protocol: Protocol, texts: Sequence[Text], cut: Cut | None = None) -> ProtocolScores:
    """
    Args:
        protocol: the rule.
        texts: of a whole data set.
        cut: a text and a number of tokens, to so much of the text; None: no rule cuts.
    """
    kept = [one for one in texts if one.text is not None or not protocol.leaves_out_unasked]
    said, cuts = [one.text for one in kept], protocol.max_tokens is not None and cut is not None
    if cuts:
        said = [None if text is None else cut(text, protocol.max_tokens) for text in said]
    ious = [protocol.iou(text, one.truths) for text, one in zip(said, kept, strict=True)]
    hits = (sum(iou > level if protocol.strict else iou >= level for iou in ious) for level in IOU_LEVELS)
    count = len(kept)
    return ProtocolScores(
        protocol.name,
        tuple(hit / count if count else float("nan") for hit in hits),
        sum(ious) / count if count else float("nan"),
        count,
        sum(text is None or not protocol.read(text) for text in said),
        cuts,
        len(texts) - count,
    )


def make_cut(tokenizer: PreTrainedTokenizerBase) -> Cut:
    """By its tokens."""

    def cut(text: str, tokens: int) -> str:
        ends = [end for _, end in tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]]
        return text[: ends[tokens - 1]] if len(ends) > tokens else text

    return cut


def load_cut(model: str, local_files_only: bool = False) -> Cut:
    """By the tokens of a model. Raises as `AutoTokenizer.from_pretrained`."""
    from transformers import AutoTokenizer

    return make_cut(AutoTokenizer.from_pretrained(model, local_files_only=local_files_only))


def find_cut(model: str) -> Cut | None:
    """By the tokens of a model that is on this machine, as a folder or from the hub; None where it isn't."""
    try:
        return load_cut(model, local_files_only=True)
    except (OSError, ValueError):
        return None


def print_protocols(rows: Sequence[ProtocolScores]) -> None:
    """As a table, in percent, with each rule below it."""
    lines = []
    for row in rows:
        values = [f"{100 * value:.1f}" for value in (*row.r1, row.miou)]
        lines.append([row.protocol, *values, str(row.unread), str(row.counted)])
    print_table(["protocol", *(f"R1@{level}" for level in IOU_LEVELS), "mIoU", "unread", "counted"], lines)
    for protocol in PROTOCOLS:
        reads, hit, failed = protocol.describe()
        print(f"{protocol.name}: {reads}; {hit}; failed video {failed}; {protocol.source}")
    for remark in remarks_on(rows):
        print(remark)


def remarks_on(rows: Sequence[ProtocolScores]) -> list[str]:
    """What the numbers alone don't say. `rows`: of all protocols, on the same texts."""
    remarks, leaving = [], [row for row in rows if row.left_out]
    if leaving:
        names = ", ".join(row.protocol for row in leaving)
        remarks.append(f"{leaving[0].left_out} samples were not asked: {names} leave them out, to the others they are misses")
    names = ", ".join(row.protocol for row in rows if row.unread == row.counted)
    if names and min(row.counted for row in rows):  # there are texts: some rules count no others
        form = "the texts don't have the form that such a rule reads, which doesn't say that the answers are wrong"
        remarks.append(f"no text could be read by {names}: {form}")
    if not any(row.cut for row in rows):
        how = "python -m taro.evaluation.protocols with --tokenizer, the model, cuts them"
        remarks.append(f"lmms_eval cuts texts at {LMMS_EVAL_TOKENS} tokens, here they are whole: {how}")
    return remarks


def main(arguments: list[str] | None = None) -> list[ProtocolScores]:
    """Print the matrix and return it."""
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("predictions", type=Path, help="folder of eval.py --output, or a file of another tool")
    parser.add_argument("--annotations", metavar="F", type=Path, help="samples that all count, with a prediction or without")
    parser.add_argument("--tokenizer", metavar="MODEL", help="whose tokens are counted where a rule cuts texts")
    parser.add_argument("--json", metavar="FILE", type=new_file, help="write the matrix there, too")
    args = parser.parse_args(arguments)
    found, made_here = load_texts(args.predictions), (args.predictions / CONFIG_NAME).is_file()
    config = read_config(args.predictions) if made_here else {}
    cut = load_cut(args.tokenizer) if args.tokenizer else find_cut(config["model"]) if "model" in config else None
    remarks = found.remarks
    if args.annotations is not None:
        found = match_samples(found.texts, load_samples(args.annotations, bad_rows="keep"))
        remarks = remarks + found.remarks
    for remark in remarks:
        print(f"warning: {remark}")
    rows = [score_protocol(protocol, found.texts, cut) for protocol in PROTOCOLS]
    print_protocols(rows)
    if config:
        print(describe_asked(config))
    if args.json is not None:
        write_json(args.json, rows)
    return rows


if __name__ == "__main__":
    with clean_exit():
        main()
