import copy
import json
import math
import random
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from taro.evaluation import qvhighlights
from taro.evaluation.qvhighlights import SubmissionError, make_submission, score_submission

ROOT = Path(__file__).parent.parent.parent
VALIDATION = ROOT.parent / "shared" / "annotations" / "qvhighlights_val.jsonl"


def moments(*windows_and_truths):
    """A submission and its truth from (predicted windows, true windows) of each query."""
    pairs = list(enumerate(windows_and_truths))
    predictions = [{"qid": qid, "pred_relevant_windows": windows} for qid, (windows, _) in pairs]
    return predictions, [{"qid": qid, "relevant_windows": true} for qid, (_, true) in pairs]


def highlights(*videos):
    """A submission and its truth from (saliency, duration, {clip: ratings}) of each query."""
    predictions = [{"qid": qid, "pred_saliency_scores": saliency} for qid, (saliency, _, _) in enumerate(videos)]
    return predictions, [
        {"qid": qid, "duration": duration, "relevant_clip_ids": [*ratings], "saliency_scores": [*ratings.values()]}
        for qid, (_, duration, ratings) in enumerate(videos)
    ]


# ---- Worked out by hand ----

# Query 0 is ranked [20, 60], [20, 58], [0, 8]; their IoUs are 1 and 0.95 with [20, 60], and 0.8 with [0, 10].
#   Levels 0.5 to 0.8 (7): the second finds [20, 60] taken, the third hits. AP = (1/1 + 2/3) / 2 = 5/6.
#   Levels 0.85 to 0.95 (3): the first alone hits. AP = 1/2. Mean over the levels: (7 * 5/6 + 3 * 1/2) / 10 = 11/15.
#   Short, [0, 10] alone: the third hits at 7 levels, AP = 1/3 there: 0.7/3. Long, [20, 60] alone: 1.
#   R1: [0, 8] is listed first: 0.8.
# Query 1: IoU 0.5 with a middle window: AP 1 at the level 0.5, mean 0.1. Query 2: no window; its true one is middle too.
MOMENTS = moments(
    ([[0, 8, 0.5], [20, 60, 0.9], [20, 58, 0.7]], [[0, 10], [20, 60]]),
    ([[30, 40, 1.0]], [[30, 50]]),
    ([], [[0, 30]]),
)
MOMENT_SCORES = {
    "MR-full-mAP": 27.78,  # (11/15 + 0.1 + 0) / 3
    "MR-full-mAP@0.5": 61.11,  # (5/6 + 1 + 0) / 3
    "MR-full-mAP@0.75": 27.78,  # (5/6 + 0 + 0) / 3
    "MR-short-mAP": 23.33,
    "MR-middle-mAP": 5.0,  # (0.1 + 0) / 2
    "MR-long-mAP": 100.0,
    "MR-full-R1@0.5": 66.67,
    "MR-full-R1@0.7": 33.33,
}

# Query 0, 5 clips: clip 1, then 2 and 3 together, 4, 0: precision is taken after 1, 3, 4 and 5 clips.
#   Fair: two raters have {1, 2, 4}: precision 1, 2/3, 3/4, made (1, 3/4, 3/4): 5/6. The third has none: 0. Mean 5/9.
#   Good: {1, 2}: (1 + 2/3) / 2 = 5/6; {2}: 1/3; none: 0. Mean 7/18. Very good: {1}: 1; {2}: 1/3; none: 0. Mean 4/9.
#   The top clip, 1, is always positive for the first rater.
# Query 1, 2 clips, all positive: AP 1. Its top score lies after the end of the video: no hit.
# Query 2, 3 clips with the scores -1, 0, 0: clip 0 is found last, for one rater: 1/3, mean 1/9. It is top of what was
#   submitted: a hit. Nothing is very good: 0 and no hit.
HIGHLIGHTS = highlights(
    ([0.1, 0.9, 0.5, 0.5, 0.2], 10.9, {1: [4, 2, 0], 2: [3, 4, 1], 4: [2, 2, 1]}),
    ([0.0, -1, 5.0], 4, {0: [4, 4, 4], 1: [4, 4, 4]}),
    ([-1.0], 6, {0: [3, 0, 0]}),
)
HIGHLIGHT_SCORES = {
    "HL-min-Fair-mAP": 55.56,  # (5/9 + 1 + 1/9) / 3
    "HL-min-Fair-Hit1": 66.67,
    "HL-min-Good-mAP": 50.0,  # (7/18 + 1 + 1/9) / 3
    "HL-min-Good-Hit1": 66.67,
    "HL-min-VeryGood-mAP": 48.15,  # (4/9 + 1 + 0) / 3
    "HL-min-VeryGood-Hit1": 33.33,
}


def test_strict_r1_leaves_out_what_just_reaches_the_level():
    assert score_submission(*MOMENTS, strict_r1=True) == MOMENT_SCORES | {"MR-full-R1@0.5": 33.33}


def test_by_hand_both_at_once_in_any_order():
    predictions, truth = ([a | b for a, b in zip(*rows, strict=True)] for rows in zip(MOMENTS, HIGHLIGHTS, strict=True))
    assert score_submission(predictions[::-1], truth) == MOMENT_SCORES | HIGHLIGHT_SCORES


# ---- Against a slow and obvious scorer, in fractions ----


def slow_scores(predictions, truth, strict_r1=False):
    predictions = {row["qid"]: row for row in predictions}
    lengths = {"full": (-999, 999), "short": (0, 10), "middle": (10, 30), "long": (30, 150)}
    levels = [Fraction(percent, 100) for percent in range(50, 100, 5)]
    scores = {}
    for name, (above, up_to) in lengths.items():
        table = {level: [] for level in levels}
        for row in truth:
            true = [window for window in row["relevant_windows"] if above < window[1] - window[0] <= up_to]
            for level in levels if true else ():
                table[level].append(slow_window_precision(predictions[row["qid"]]["pred_relevant_windows"], true, level))
        scores[f"MR-{name}-mAP"] = mean([value for values in table.values() for value in values])
        if name == "full":
            scores |= {f"MR-full-mAP@{float(level)}": mean(table[level]) for level in (levels[0], levels[5])}
    for level in (levels[0], levels[4]):
        hits = []
        for row in truth:
            windows = predictions[row["qid"]]["pred_relevant_windows"]
            best = max(slow_iou(windows[0], true) for true in row["relevant_windows"]) if windows else 0
            hits.append(best > level if strict_r1 else best >= level)
        scores[f"MR-full-R1@{float(level)}"] = mean(hits)
    for name, level in (("Fair", 2), ("Good", 3), ("VeryGood", 4)):
        precisions, hits = [], []
        for row in truth:
            saliency = predictions[row["qid"]]["pred_saliency_scores"]
            clips, top = int(row["duration"] / 2), saliency.index(max(saliency))
            raters = [[clip for clip, r in zip(row["relevant_clip_ids"], row["saliency_scores"], strict=True) if r[i] >= level]
                      for i in range(3)]  # fmt: skip
            hits.append(any(top in positive for positive in raters))
            padded = [saliency[clip] if clip < len(saliency) else 0 for clip in range(clips)]
            precisions += [slow_clip_precision(padded, positive) for positive in raters]
        scores[f"HL-min-{name}-mAP"], scores[f"HL-min-{name}-Hit1"] = mean(precisions), mean(hits)
    return {name: float(100 * score) for name, score in scores.items()}


def mean(values):
    return Fraction(sum(values)) / len(values) if values else math.nan


def slow_iou(window, true):
    """Of spans with whole seconds: cells that both cover, of those that either covers."""
    cells, true_cells = set(range(window[0], window[1])), set(range(true[0], true[1]))
    return Fraction(len(cells & true_cells), len(cells | true_cells) or 1)


def slow_window_precision(windows, true, level):
    free, hits, precisions = list(true), 0, []
    for rank, window in enumerate(sorted(windows[:10], key=lambda window: window[2], reverse=True), start=1):
        ious = [slow_iou(window, candidate) for candidate in free]
        if ious and max(ious) >= level:
            del free[max(range(len(free)), key=lambda i: (ious[i], i))]
            hits += 1
            precisions.append(Fraction(hits, rank))
    return Fraction(sum(max(precisions[i:]) for i in range(hits))) / len(true)


def slow_clip_precision(scores, positive):
    precisions, found = [], [0]
    for score in sorted(set(scores), reverse=True):
        kept = [clip for clip in range(len(scores)) if scores[clip] >= score]
        found.append(len([clip for clip in kept if clip in positive]))
        precisions.append(Fraction(found[-1], len(kept)))
    return mean([max(precisions[i:]) for i in range(len(precisions)) if found[i + 1] > found[i]]) if positive else 0


def random_rows(rng):
    """A submission and its truth with few different times and scores, so that everything that can be equal often is."""
    latest = rng.choice([6, 25, 60])
    predictions, truth = [], []
    for qid in rng.sample(range(1000), rng.randint(1, 8)):
        duration = rng.choice([9, 20, 20.9])
        clips = rng.sample(range(int(duration / 2)), rng.randint(0, int(duration / 2)))
        windows = [sorted(rng.choices(range(latest), k=2)) for _ in range(rng.choice([0, 1, 4, 25]))]
        true = [sorted(rng.sample(range(latest), 2)) for _ in range(rng.choice([1, 2, 5]))]
        for window in windows:
            if rng.random() < 0.5:
                window[:] = rng.choice(true)
        for window in windows + true:
            if rng.random() < 0.02:
                window.reverse()
        ratings = [0, 2, 3, 4] if rng.random() < 0.8 else [rng.choice([0, 4])]
        saliency = [rng.randint(-2, 2) for _ in range(rng.randint(1, 12))]
        predictions.append({
            "qid": qid, "pred_saliency_scores": saliency,
            "pred_relevant_windows": [[*window, rng.choice([0.1, 0.5, 2])] for window in windows],
        })  # fmt: skip
        truth.append({
            "qid": qid, "relevant_windows": true, "duration": duration, "relevant_clip_ids": clips,
            "saliency_scores": [rng.choices(ratings, k=3) for _ in clips],
        })  # fmt: skip
    rng.shuffle(predictions)
    return predictions, truth


@pytest.mark.slow
def test_random_submissions_match_the_slow_scorer_and_stay_as_they_are():
    rng = random.Random(0)
    for number in range(60):
        rows, strict = random_rows(rng), bool(number % 2)
        before, expected = copy.deepcopy(rows), slow_scores(*rows, strict_r1=strict)
        assert score_submission(*rows, strict_r1=strict) == pytest.approx(expected, abs=0.00501, nan_ok=True)
        assert rows == before


# ---- Edge cases ----


@pytest.mark.parametrize(
    ("windows", "true", "score"),
    [
        ([[0, 10, -3.0]], [[0, 10]], 100.0),  # one window
        ([[50, 60, 0.5]] * 9 + [[0, 10, 0.9]] + [[50, 60, 0.5]] * 15, [[0, 10]], 100.0),  # of 25 the tenth is seen
        ([[50, 60, 0.5]] * 10 + [[0, 10, 0.9]] + [[50, 60, 0.5]] * 14, [[0, 10]], 0.0),  # and the eleventh is not
        ([[50, 60, 0.5], [0, 10, 0.5]], [[0, 10]], 50.0),  # equal scores: as listed
        ([[0, 10, 0.5], [50, 60, 0.5]], [[0, 10]], 100.0),
        ([[0, 10, 0.9], [0, 10, 0.8], [20, 30, 0.7]], [[0, 10], [20, 30]], 83.33),  # the same window hits once: (1 + 2/3) / 2
        ([[0, 10, 0.9], [0, 10, 0.8]], [[0, 10], [0, 10]], 100.0),  # unless it is there twice
        ([[50, 60, 0.9], [0, 10, 0.8], [20, 30, 0.7]], [[0, 10], [20, 30]], 66.67),  # the better precision, 2/3, of 1/2 and 2/3
        ([[0, 10, 1.0]], [[0, 10], [20, 30], [40, 50], [60, 70]], 25.0),  # one of four
        ([[0, 10, 1.0]], [[0, 10]] * 25, 4.0),
        ([], [[0, 10]], 0.0),
        ([[10, 0, 1.0]], [[0, 10]], 0.0),  # reversed, where the union comes out as 0
        ([[5, 5, 1.0]], [[0, 10]], 0.0),
        ([[5, 5, 1.0]], [[5, 5]], 0.0),
        ([[0, 10, 1.0]], [[10, 0]], 0.0),
        ([[0, 10, 1.0]], [[10, 0], [0, 10]], 50.0),  # it counts all the same
    ],
)
def test_full_map(windows, true, score):
    assert score_submission(*moments((windows, true)))["MR-full-mAP"] == score


@pytest.mark.parametrize(("windows", "score"), [([[50, 60, 0.9], [0, 10, 1.0]], 0.0), ([[0, 10, 0.1], [50, 60, 0.9]], 100.0)])
def test_r1_takes_the_window_that_is_listed_first(windows, score):
    scores = score_submission(*moments((windows, [[80, 90], [0, 10]])))
    assert scores["MR-full-R1@0.5"] == scores["MR-full-R1@0.7"] == score


@pytest.mark.parametrize(
    ("length", "names"), [(10, ["short"]), (10.5, ["middle"]), (30, ["middle"]), (30.5, ["long"]), (150, ["long"]), (0, [])]
)
def test_lengths(length, names):
    scores = score_submission(*moments(([[0, length, 1.0]], [[0, length]])))
    assert [name for name in ("short", "middle", "long") if not math.isnan(scores[f"MR-{name}-mAP"])] == names


def test_other_lengths_are_as_if_they_were_not_there():
    scores = score_submission(*moments(([[0, 50, 0.9], [60, 65, 0.8]], [[0, 50], [60, 65]]), ([[0, 50, 1.0]], [[0, 50]])))
    assert (scores["MR-short-mAP"], scores["MR-long-mAP"]) == (50.0, 100.0)


def test_iou_is_rounded_as_in_the_official_scorer():
    """IoU 0.5 on paper: its mAP finds 0.49999999999999994, its R1 0.5."""
    scores = score_submission(*moments(([[1.2, 3.4, 1.0]], [[2, 4]])))
    assert (scores["MR-full-mAP@0.5"], scores["MR-full-R1@0.5"]) == (0.0, 100.0)


ALL, NONE = {0: [4, 4, 4], 1: [4, 4, 4], 2: [4, 4, 4]}, {1: [1, 1, 1]}


@pytest.mark.parametrize(
    ("saliency", "duration", "ratings", "precision", "hit"),
    [
        ([0.1, 0.9, 0.5], 6, NONE, 0.0, 0.0),  # all negative
        ([0.1, 0.9, 0.5], 6, {}, 0.0, 0.0),
        ([0.1, 0.9, 0.5], 6, ALL, 100.0, 100.0),  # all positive
        ([0.1, 0.9, 0.5], 6, {1: [4, 4, 4]}, 100.0, 100.0),
        ([0.1, 0.9, 0.5], 6, {1: [4, 0, 0]}, 33.33, 100.0),  # one rater is enough for a hit
        ([0.5, 0.5, 0.5], 6, {0: [4, 4, 4]}, 33.33, 100.0),  # equal scores: the first is the top clip
        ([0.5, 0.5, 0.5], 6, {2: [4, 4, 4]}, 33.33, 0.0),
        ([0.9, 0.9, 0.1, 0.5], 8, {0: [4] * 3, 1: [4] * 3, 2: [4] * 3}, 87.5, 100.0),  # (1 + 3/4) / 2: equals are one step
        ([0.1, 0.5, 0.9, 0.5], 4, {1: [4] * 3}, 100.0, 0.0),  # cut; its top clip lies after the end
        ([0.5], 7.9, {0: [4] * 3}, 100.0, 100.0),  # padded with 0
        ([-0.5], 7.9, {0: [4] * 3}, 33.33, 100.0),
    ],
)
def test_highlight_cases(saliency, duration, ratings, precision, hit):
    scores = score_submission(*highlights((saliency, duration, ratings)))
    assert (scores["HL-min-VeryGood-mAP"], scores["HL-min-VeryGood-Hit1"]) == (precision, hit)


# ---- The benchmark's own file ----


@pytest.fixture(scope="module")
def validation():
    if not VALIDATION.is_file():
        pytest.skip(f"{VALIDATION} is not here")
    return [json.loads(line) for line in VALIDATION.read_text().splitlines()]


@pytest.mark.slow
def test_perfect_submission(validation):
    predictions = []
    for row in validation:
        saliency = [-1.0] * int(row["duration"] / 2)
        for clip, ratings in zip(row["relevant_clip_ids"], row["saliency_scores"], strict=True):
            saliency[clip] = float(min(ratings))
        windows = [[*window, 1.0] for window in row["relevant_windows"]]
        predictions.append({"qid": row["qid"], "pred_relevant_windows": windows, "pred_saliency_scores": saliency})
    scores = score_submission(predictions, validation)
    counts = [len(row["relevant_windows"]) for row in validation]
    best = round(100 * sum(min(count, 10) / count for count in counts) / len(counts), 2)  # ten windows of up to 25
    assert scores["MR-full-mAP"] == scores["MR-full-mAP@0.5"] == scores["MR-full-mAP@0.75"] == best > 99
    assert scores["MR-full-R1@0.5"] == scores["MR-full-R1@0.7"] == 100.0
    assert score_submission(predictions, validation, strict_r1=True)["MR-full-R1@0.7"] == 100.0


@pytest.mark.parametrize(("name", "above", "up_to"), [("short", 0, 10), ("middle", 10, 30), ("long", 30, 150)])
def test_perfect_windows_of_one_length(validation, name, above, up_to):
    predictions = [
        {"qid": row["qid"], "pred_relevant_windows": [[*w, 1.0] for w in windows[:10]]}
        for row in validation
        for windows in [[window for window in row["relevant_windows"] if above < window[1] - window[0] <= up_to]]
        if len(windows) <= 10
    ]
    kept = {row["qid"] for row in predictions}
    scores = score_submission(predictions, [row for row in validation if row["qid"] in kept])
    assert [key for key in ("short", "middle", "long") if scores[f"MR-{key}-mAP"] == 100.0] == [name]


def test_saliency_of_a_single_rater(validation):
    """One who rates like the first rater, and is alone: all that can be found is found first."""
    rows, predictions = [], []
    for row in validation:
        first = [ratings[0] for ratings in row["saliency_scores"]]
        if max(first) < 4:
            continue
        saliency = dict(zip(row["relevant_clip_ids"], first, strict=True))
        clips = range(int(row["duration"] / 2))
        predictions.append({"qid": row["qid"], "pred_saliency_scores": [saliency.get(clip, 0) for clip in clips]})
        rows.append(row | {"saliency_scores": [[rating] * 3 for rating in first]})
    assert len(rows) > 500
    assert set(score_submission(predictions, rows).values()) == {100.0}


@pytest.mark.slow
def test_one_perfect_window_for_each_query(validation):
    """The ceilings that `make_submission` speaks of."""
    predictions = [{"id": str(row["qid"]), "answer": row["relevant_windows"][0]} for row in validation]
    scores = score_submission(make_submission(predictions, validation), validation)
    assert scores["MR-full-mAP"] == 78.86
    assert f"{scores['MR-full-mAP']} the best possible MR-full-mAP" in make_submission.__doc__
    assert scores["MR-full-R1@0.7"] == 100.0
    assert not any(name.startswith("HL") for name in scores)


# ---- The command ----


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_command(tmp_path, capsys):
    predictions, truth = (write(tmp_path / name, rows) for name, rows in zip("pt", MOMENTS, strict=True))
    output = tmp_path / "new" / "scores.json"
    qvhighlights.main(["--submission", predictions, "--truth", truth, "--output", str(output)])
    assert json.loads(output.read_text()) == MOMENT_SCORES
    shown = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert {name: float(value) for name, value in shown.items()} == MOMENT_SCORES
    strict = qvhighlights.main(["--submission", predictions, "--truth", truth, "--strict_r1"])
    assert strict["MR-full-R1@0.5"] == 33.33


def test_command_takes_predictions_and_writes_valid_json(tmp_path):
    predictions = write(tmp_path / "predictions.jsonl", [{"id": "5", "answer": [0.0, 8.0]}])
    truth = write(tmp_path / "truth.jsonl", [{"qid": 5, "relevant_windows": [[0, 10]]}])
    output = tmp_path / "scores.json"
    qvhighlights.main(["--submission", predictions, "--truth", truth, "--output", str(output)])

    def refuse(constant):
        raise ValueError(constant)

    scores = json.loads(output.read_text(), parse_constant=refuse)
    assert (scores["MR-full-mAP"], scores["MR-full-R1@0.7"], scores["MR-long-mAP"]) == (70.0, 100.0, None)


def test_lines_that_are_not_json(tmp_path):
    predictions, truth = (write(tmp_path / name, rows) for name, rows in zip("pt", MOMENTS, strict=True))
    Path(truth).write_text('{"qid": 0}\n \n{"qid":\n')
    with pytest.raises(SubmissionError, match=r"1 fault to mend:\n- --truth .*, line 3: not JSON"):
        qvhighlights.main(["--submission", predictions, "--truth", truth])


@pytest.mark.slow
def test_command_says_what_is_wrong_without_a_traceback_and_needs_no_framework(tmp_path):
    code = """
import runpy, sys
try:
    runpy.run_module("taro.evaluation.qvhighlights", run_name="__main__")
finally:
    assert "torch" not in sys.modules
"""
    files = ["--submission", str(tmp_path / "missing.jsonl"), "--truth", "t"]
    done = subprocess.run([sys.executable, "-c", code, *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: --submission {tmp_path}/missing.jsonl: no such file; allowed: ")
    assert done.stderr.count("\n") == 1
