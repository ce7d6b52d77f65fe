import json
import random
from fractions import Fraction
from pathlib import Path

import pytest

from taro.data.samples import load_samples
from taro.evaluation.other_tools import Text
from taro.evaluation.predictions import Prediction
from taro.evaluation.protocols import PROTOCOLS, find_cut, load_cut, main, print_protocols, remarks_on, score_protocol
from taro.jsonl import ResumableFolder

ROOT = Path(__file__).parents[2]
CHARADES = ROOT.parent / "shared" / "annotations" / "charades_sta_test.jsonl"
BY_NAME = {protocol.name: protocol for protocol in PROTOCOLS}
JOINERS = ("to", "and", "–")
REASONED = "<think>\nFrom 1.0s to 2.0s, a cat.\n</think>\n<answer>3.0s to 5.0s</answer>"


def read(name, text):
    return BY_NAME[name].read(text)


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        (REASONED, {"taro": (3, 5), "taro_release": (3, 5), "tempr1": (3, 5), "lmms_eval": None}),
        ("3 to 5", {"taro": None, "time_r1": (3, 5), "videochat_r1": (3, 5), "lmms_eval": (3, 5), "taro_release": (3, 5)}),
        ("<answer>1 to 2</answer> or 7 and 9", {"taro": (1, 2), "time_r1": (7, 9), "lmms_eval": (1, 2)}),
        ("It happens in 9.6 - 4.5 seconds.", {"lmms_eval": (4.5, 9.6), "timelens": (4, 10), "time_r1": None}),
        ("It starts at 7.4.\nIt ends at 12!", {"lmms_eval": (7.4, 12), "timelens": (7, 12), "taro_release": (7.4, 12)}),
        ("the event\nat 3 and 5 s", {"lmms_eval": None, "time_r1": (3, 5)}),
        ("5..2 - 7", {"lmms_eval": None}),
        ("", dict.fromkeys(BY_NAME)),
    ],
)
def test_what_each_rule_reads(text, spans):
    for name, span in spans.items():
        assert read(name, text) == ([] if span is None else [span]), name


def number_from(text, place, after_point):
    """End of the number that starts at a place, or None. `after_point`: least digits behind a point."""
    end = place
    while end < len(text) and text[end].isdigit():
        end += 1
    digits = end + 1
    while digits < len(text) and text[digits].isdigit():
        digits += 1
    if end > place and text[end : end + 1] == "." and digits - end - 1 >= after_point:
        return digits
    return end if end > place else None


def pairs_of(text, joiners):
    """(first, second) of two numbers with a joiner between them, from left to right, none in two pairs."""
    found, place = [], 0
    while place < len(text):
        end = None if place and text[place - 1].isdigit() else number_from(text, place, 0)
        starts = [end + len(one) for one in joiners if end is not None and text.startswith(one, end)]
        ends = [(start, stop) for start in starts if (stop := number_from(text, start, 0)) is not None]
        if ends:
            found.append((float(text[place:end]), float(text[ends[0][0] : ends[0][1]])))
        place = ends[0][1] if ends else place + 1
    return found


def numbers_of(text):
    found, place = [], 0
    while place < len(text):
        end = number_from(text, place, 1)
        found += [float(text[place:end])] if end else []
        place = end or place + 1
    return found


def test_each_rule_is_what_it_says_on_random_texts():
    """Read character by character."""
    rng = random.Random(1)
    pieces = ["1", "23", "4.5", "6.", ".7", " ", " to ", " and ", "to", " - ", "-", "\n", "a dog ", "<answer>", "</answer>"]
    seen = 0
    for _ in range(1000):
        text = "".join(rng.choices(pieces, k=rng.randint(2, 14)))
        last, numbers = pairs_of(text, (" to ", " and "))[-1:], numbers_of(text)[-2:]
        assert read("time_r1", text) == read("videochat_r1", text) == last, text
        assert read("taro_release", text) == ([tuple(sorted(numbers))] if len(numbers) == 2 else []), text
        spaces = [" " * k for k in range(4)]
        dashes = [a + "-" + b for a in spaces for b in spaces]
        first = pairs_of(text.replace("\n", " ").replace("to", "-"), dashes)[:1]
        if ".." not in text:
            expected = [tuple(sorted(span)) for span in first]
            assert read("lmms_eval", text) == expected, text
            assert read("timelens", text) == [(round(start), round(end)) for start, end in expected], text
        seen += bool(last) + bool(first)
    assert seen > 200


def pairs_in(pieces):
    """(first, second) of each number, joiner, number in a row."""
    return [
        (number, float(a[:-1]), float(b[:-1]))
        for number, (a, joiner, b) in enumerate(zip(pieces, pieces[1:], pieces[2:], strict=False))
        if a[-1] == b[-1] == "s" and joiner in JOINERS
    ]


def test_the_last_answer_block_is_read_piece_by_piece():
    rng, read_ones = random.Random(2), 0
    for _ in range(1000):
        blocks = [rng.choices(("1s", "23s", "4.5s", "06.2s", *JOINERS, "a dog", ","), k=rng.randrange(14)) for _ in range(3)]
        closed = rng.randrange(3)  # answer blocks
        parts = [" ".join(blocks[0]), *(f"<answer>{' '.join(block)}</answer>" for block in blocks[1 : 1 + closed])]
        text = " ".join([*parts, rng.choice(["", "<answer>1s to 2s", "7s to 8s"])])
        found, spans, free = pairs_in(blocks[closed]) if closed else [], [], 0
        for place, *span in found:
            if place >= free:
                spans.append(tuple(span))
                free = place + 3
        assert read("tempr1", text) == spans, text
        assert read("taro", text) == [tuple(span) for _, *span in found[-1:]], text
        read_ones += bool(found)
    assert read_ones > 100


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda one: one.name)
def test_what_counts_as_a_hit(protocol):
    """Of an answer that covers k tenths of the truth."""
    for tenths in range(1, 11):
        iou = Fraction(tenths, 10)
        levels = [Fraction(level, 10) for level in (3, 5, 7)]
        expected = tuple(float(iou > level if protocol.strict else iou >= level) for level in levels)
        text = f"<answer>0 to {tenths}</answer>" if "taro" in protocol.name or protocol.union else f"0 to {tenths}"
        assert score_protocol(protocol, [Text("a", text, ((0.0, 10.0),))]).r1 == expected, tenths
    assert {one.name for one in PROTOCOLS if one.strict} == {"time_r1"}


@pytest.mark.slow
def test_nothing_breaks_a_reader():
    rng = random.Random(0)
    pieces = ["1", "2.5", ".", " ", " - ", " to ", "and", "\n", "ends ", "<answer>", "</answer>", "<think>", "9" * 400]
    pieces += ["١", "é"]
    for _ in range(2000):
        text = "".join(rng.choices(pieces, k=rng.randint(0, 15)))
        for protocol in PROTOCOLS:
            assert all(start == start and end == end for start, end in protocol.read(text))
    for text in ("1" * 50_000, "1." * 20_000, "start 1\n" * 5000):
        for protocol in PROTOCOLS:
            protocol.read(text)


def test_time_r1_wants_more_than_the_level():
    half = [Text("a", "<answer>0 to 5</answer>", ((0.0, 10.0),))]
    assert score_protocol(BY_NAME["time_r1"], half).r1 == (1, 0, 0)
    assert score_protocol(BY_NAME["videochat_r1"], half).r1 == score_protocol(BY_NAME["taro"], half).r1 == (1, 1, 0)


def test_what_was_not_asked_is_left_out_by_some():
    said, truth = ("<answer>0 to 5</answer>", None, "no"), ((0.0, 5.0),)
    texts = [Text(name, text, truth) for name, text in zip("abc", said, strict=True)]
    for name, counted, unread in (("taro", 3, 2), ("time_r1", 3, 2), ("taro_release", 2, 1), ("lmms_eval", 2, 1)):
        scores = score_protocol(BY_NAME[name], texts)
        assert (scores.counted, scores.unread) == (counted, unread) and scores.miou == pytest.approx(1 / counted)


def test_all_spans_count_together_for_tempr1():
    one = Text("a", "<answer>0 to 2, 6 to 8</answer>", ((0.0, 4.0), (6.0, 8.0)))
    assert score_protocol(BY_NAME["tempr1"], [one]).miou == pytest.approx(4 / 6)
    assert score_protocol(BY_NAME["taro"], [one]).miou == 1


def test_lmms_eval_cuts_a_reasoning_before_its_answer():
    one = Text("a", " so" * 60 + " 3 to 5", ((3.0, 5.0),))
    cut = score_protocol(BY_NAME["lmms_eval"], [one], load_cut(str(ROOT / "assets" / "tiny-qwen2.5-vl")))
    assert cut.cut and cut.miou == 0 and not score_protocol(BY_NAME["lmms_eval"], [one]).cut
    assert score_protocol(BY_NAME["lmms_eval"], [one]).miou == 1


def test_a_model_that_is_not_here_cuts_nothing():
    assert find_cut("no/such model") is find_cut("nobody/nothing") is None
    assert find_cut(str(ROOT / "assets" / "tiny-qwen2.5-vl"))(" 3 to 5", 1) != " 3 to 5"


def test_each_rule_is_told_below_the_table(capsys):
    rows = [score_protocol(protocol, [Text("a", "<answer>3s to 5s</answer>", ((3.0, 5.0),))]) for protocol in PROTOCOLS]
    print_protocols(rows)
    shown = capsys.readouterr().out.splitlines()
    told = {line.partition(":")[0]: line for line in shown if line.partition(":")[0] in BY_NAME}
    assert all(protocol.source in told[protocol.name] for protocol in PROTOCOLS) and max(map(len, told.values())) <= 128
    assert "; IoU > m; failed video a miss; " in told["time_r1"] and "; IoU >= m; failed video left" in told["timelens"]
    assert " in 50 tokens; " in told["lmms_eval"]


def test_what_the_numbers_do_not_say():
    def remarks(*texts, cut=None):
        asked = [Text("a", text, ((3.0, 5.0),)) for text in texts]
        return remarks_on([score_protocol(protocol, asked, cut) for protocol in PROTOCOLS])

    unread, whole = remarks("<answer>3.0s to 5.0s</answer>")
    assert unread.startswith("no text could be read by time_r1, videochat_r1, lmms_eval, timelens: ")
    assert whole.startswith("lmms_eval cuts texts at 50 tokens, here they are whole")
    assert remarks("<answer>3 to 5</answer>", cut=lambda text, tokens: text) == []
    assert [line.split()[0] for line in remarks(None)] == ["1", "lmms_eval"]  # no text is there: none has a wrong form


@pytest.mark.slow
def test_made_answers_to_a_real_set():
    """Perfect ones in whole seconds lose 6 points of mIoU, and the reader that rounds takes them from exact ones."""
    if not CHARADES.exists():
        pytest.skip("charades_sta_test.jsonl is not here")
    samples = load_samples(CHARADES, bad_rows="keep")

    def answers(write):
        return [Text(one.id, f"<answer>{write(one)}</answer>", one.spans) for one in samples]

    def miou(name, texts):
        return round(100 * score_protocol(BY_NAME[name], texts).miou, 1)

    exact = answers(lambda one: f"{one.spans[0][0]} to {one.spans[0][1]}")
    assert {name: miou(name, exact) for name in BY_NAME} == {**dict.fromkeys(BY_NAME, 100.0), "timelens": 93.8}
    rounded = answers(lambda one: f"{round(one.spans[0][0])} to {round(one.spans[0][1])}")
    assert {miou(name, rounded) for name in BY_NAME} == {93.8}
    for share, levels, mean in ((0.3, (40.3, 30.6, 15.2), 28.1), (0.45, (48.8, 27.5, 11.9), 30.5)):  # the best constants
        scores = score_protocol(BY_NAME["taro"], answers(lambda one, share=share: f"0 to {share * one.duration:.6f}"))
        assert tuple(round(100 * value, 1) for value in scores.r1) == levels and round(100 * scores.miou, 1) == mean


def test_another_tool_s_file(tmp_path, capsys):
    (tmp_path / "lmms.json").write_text(
        json.dumps({"a.mp4>>>a dog>>>[1.0, 3.0]": "1 - 3", "a.mp4>>>a cat>>>[2.0, 4.0]": "none"})
    )
    found = {row.protocol: row for row in main([f"{tmp_path}/lmms.json", f"--json={tmp_path}/matrix.json"])}
    assert found["lmms_eval"].miou == 0.5 and found["lmms_eval"].unread == 1
    shown = capsys.readouterr().out
    assert "time_r1" in shown and "warning" not in shown and "not asked" not in shown
    assert len(json.loads((tmp_path / "matrix.json").read_text())) == len(PROTOCOLS)


def test_a_folder_says_what_its_texts_were_made_with(tmp_path, capsys):
    prediction = Prediction("a", "a dog", ((1.0, 3.0),), "<answer>1 to 3</answer>")
    video = {"fps": 2.0, "max_frames": 1024, "max_tokens": 4096}
    about = {"model": "m", "engine": "vllm", "dtype": "bfloat16", "packages": {"vllm": "0.32.0"}, "samples": {"count": 1}}
    about |= {"sampling": {"max_tokens": 99}, "grounding": {"prompt": "when: {query}", "video": video}}
    ResumableFolder(tmp_path, about).append([prediction.to_row()])
    assert main([str(tmp_path)])[0].miou == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "made with m (vllm, bfloat16; vllm 0.32.0): 2.0 frames a second, at most 1024 of 4096 tokens in all" in shown
    assert 'answers of at most 99 tokens; prompt "when: {query}"' in shown


def test_predictions_and_samples_that_differ(tmp_path, capsys):
    """What is in one of them only is said, and counts as each rule has it."""
    spans = {"a dog": [1.0, 3.0], "a cat": [2.0, 4.0], "a bird": [0.0, 1.0]}
    samples = [
        {"id": query, "video": "a.mp4", "query": query, "spans": [span], "duration": 9.0} for query, span in spans.items()
    ]
    (tmp_path / "samples.jsonl").write_text("\n".join(map(json.dumps, samples)))
    said = {f"a.mp4>>>{query}>>>{span}": "{} to {}".format(*span) for query, span in spans.items() if query != "a bird"}
    (tmp_path / "lmms.json").write_text(json.dumps(said | {"b.mp4>>>a dog>>>[1.0, 3.0]": "1 to 3"}))
    rows = main([f"{tmp_path}/lmms.json", f"--annotations={tmp_path}/samples.jsonl"])
    counted = {row.protocol: (row.counted, row.left_out, row.miou) for row in rows}
    assert counted["lmms_eval"] == counted["timelens"] == counted["videochat_r1"] == (2, 1, 1.0)
    assert counted["time_r1"] == (3, 0, pytest.approx(2 / 3)) and counted["taro"] == (3, 0, 0.0)
    shown = " ".join(capsys.readouterr().out.split())
    assert "warning: 1 samples have no prediction: they count as not asked: - a bird" in shown
    assert "warning: 1 predictions are of no sample: they don't count: - b.mp4>>>a dog>>>[1.0, 3.0]" in shown
    leaving = "taro_release, videochat_r1, lmms_eval, timelens"
    assert f"1 samples were not asked: {leaving} leave them out, to the others they are misses" in shown
