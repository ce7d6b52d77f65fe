"""Selection, by difficulty and by the rollouts of a run."""

import itertools
import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from taro.data.difficulties import DifficultyError
from taro.data.samples import Sample, load_samples, save_samples
from taro.prepare.convert import convert
from taro.prepare.difficulty import main
from taro.prepare.selection import (
    SelectionError,
    choose,
    draw_around,
    find_problems,
    histogram,
    parse,
    read_difficulties,
    read_rollouts,
    with_ious,
)
from taro.run import train

ROOT = Path(__file__).parent.parent.parent
TIME_R1 = ROOT.parent / "shared" / "annotations" / "timer1_train_2k5.json"


def read_rows(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def make(number, **extra):
    return Sample(f"q{number}", f"videos/{number}.mp4", f"query {number}", ((1.0, 2.0),), 10.0, extra=extra)


@pytest.fixture
def scored(tmp_path):
    """Samples with IoU 0, 0.1, ..., 1, and one without."""
    samples = [make(k, difficulty=10.0 * k, source="here") for k in range(11)]
    rows = [replace(sample, video=str(tmp_path / sample.video)) for sample in [*samples, make(11, difficulty=None)]]
    save_samples(rows, tmp_path / "in.jsonl", relative_to=tmp_path)
    return tmp_path / "in.jsonl"


def select(scored, *flags, output="out.jsonl"):
    output = scored.parent / output
    main(["select", f"--input={scored}", f"--output={output}", *flags])
    return [row["id"] for row in read_rows(output)]


# ---- Ranges ----


def test_a_range_leaves_out_its_low_end_and_keeps_its_high_one(scored, capsys):
    assert select(scored, "--range", "0", "0.7") == [f"q{k}" for k in range(1, 8)]
    shown = capsys.readouterr().out
    assert "7 of 12 samples, mean IoU 0.500 before, 0.400 after" in shown
    assert "without an IoU, and left out (--keep_unscored keeps them): 1 (q11)" in shown
    assert select(scored, "--range", "-1", "0") == ["q0"]
    assert select(scored, "--range", "0.9", "1", "--keep_unscored") == ["q10", "q11"]
    assert "and kept: 1 (q11)" in capsys.readouterr().out


def test_rows_stay_as_they_are(scored):
    select(scored, "--range", "0", "1")
    assert read_rows(scored.parent / "out.jsonl") == read_rows(scored)[1:11]


@pytest.mark.parametrize(("flags", "relative"), [([], False), (["--video_root={}"], True)])
def test_videos_are_found_again(tmp_path, synthetic, flags, relative):
    rows = [with_ious(sample, [0.5]) for sample in load_samples(synthetic / "train.jsonl")]
    (tmp_path / "a").mkdir()
    save_samples(rows, tmp_path / "a" / "in.jsonl", relative_to=synthetic if flags else tmp_path / "a")
    flags = [flag.format(synthetic) for flag in flags]
    for output, same_folder in (("out.jsonl", True), ("b/out.jsonl", False)):
        select(tmp_path / "a" / "in.jsonl", "--range", "0", "1", *flags, output=output)
        written = tmp_path / "a" / output
        assert all(Path(row["video"]).is_absolute() != (relative or same_folder) for row in read_rows(written))
        samples = load_samples(written, video_root=synthetic if flags else None)
        assert all(Path(sample.video).is_file() for sample in samples) and len(samples) == 6


# ---- Draws ----


@pytest.mark.slow
def test_draws_have_the_probabilities_of_one_after_the_other():
    """Of all ordered draws of 2 without replacement, by their definition."""
    ious, center, sigma, draws = {"a": 0.0, "b": 0.3, "c": 0.45, "d": 0.9}, 0.3, 0.2, 4000
    weights = {id: math.exp(-((iou - center) ** 2) / (2 * sigma**2)) for id, iou in ious.items()}
    total = sum(weights.values())
    expected = Counter()
    for first, second in itertools.permutations(weights, 2):
        expected[frozenset((first, second))] += weights[first] / total * weights[second] / (total - weights[first])
    found = Counter(frozenset(draw_around(ious, center, sigma, count=2, seed=seed)) for seed in range(draws))
    assert sum(expected.values()) == pytest.approx(1)
    for pair, probability in expected.items():
        assert found[pair] / draws == pytest.approx(probability, abs=4 * math.sqrt(probability / draws))


def test_a_draw_follows_from_seed_and_ids_alone():
    ious = {f"q{k}": k / 100 for k in range(100)}
    some = draw_around(ious, 0.3, 0.2, count=20, seed=0)
    assert len(some) == 20 and some == draw_around(dict(reversed(ious.items())), 0.3, 0.2, count=20, seed=0)
    assert some < draw_around(ious, 0.3, 0.2, count=40, seed=0)
    assert some != draw_around(ious, 0.3, 0.2, count=20, seed=1)


def test_a_narrow_gaussian_takes_the_nearest():
    """Weights far below what a float can hold still have an order."""
    ious = {f"q{k}": k / 10 for k in range(11)}
    assert draw_around(ious, 0.3, 1e-4, count=4, seed=0) == {"q3", "q2", "q4"} | draw_around(
        {"q1": 0.1, "q5": 0.5}, 0.3, 1e-4, count=1, seed=0
    )


def test_a_range_comes_before_the_draw():
    ious = {"a": 0.0, "b": 0.2, "c": 0.4, "d": 0.8}
    assert all(choose(ious, (0, 0.7), (0.0, 0.1), 2, seed) == {"b", "c"} for seed in range(20))
    with pytest.raises(SelectionError, match=r"--count 3: 2 samples have an IoU in the range 0 to 0.7"):
        choose(ious, (0, 0.7), (0.3, 0.2), 3)


@pytest.mark.slow
@pytest.mark.skipif(not TIME_R1.is_file(), reason="Time-R1's annotations are not here (../shared/annotations)")
def test_time_r1s_own_file(tmp_path):
    convert("timer1", [TIME_R1], tmp_path / "rows.jsonl")
    difficulties = {row["qid"]: row["difficulty"] for row in json.loads(TIME_R1.read_text())}
    assert len(difficulties) == 2500
    kept = select(tmp_path / "rows.jsonl", "--range", "0", "0.3")
    assert set(kept) == {id for id, difficulty in difficulties.items() if 0 < difficulty <= 30} and len(kept) > 1000
    drawn = select(tmp_path / "rows.jsonl", "--range", "0", "1", "--gaussian", "0.8", "0.05", "--count=50")
    assert len(drawn) == 50 and min(difficulties[id] for id in drawn) > 55
    before = {row["id"]: row for row in read_rows(tmp_path / "rows.jsonl")}
    assert all(row == before[row["id"]] for row in read_rows(tmp_path / "out.jsonl"))


# ---- The report ----


def test_histogram():
    text = histogram([0.0, 0.0, 0.05, 0.1, 0.1000001, 0.7, 1.0, 1.0], [0.05, 0.1, 0.7])
    lines = text.splitlines()
    assert lines[0].split() == ["IoU", "before", "after"] and len(lines) == 12
    assert lines[1] == "0                  2       0"
    assert lines[2] == "0.0 to 0.1         2       2  " + "#" * 40
    assert lines[3].split()[3:] == ["1", "0"] and lines[8] == "0.6 to 0.7         1       1  " + "#" * 20
    assert lines[11].split()[3:] == ["2", "0"]
    assert histogram([0.5]).splitlines()[0].split() == ["IoU", "samples"]


# ---- Difficulties that can't be used ----


@pytest.mark.parametrize("value", [-1, 100.1, "30", [30], True, float("nan")])
def test_a_difficulty_is_a_percentage(value):
    with pytest.raises(DifficultyError, match=r"1 difficulties can't be read:\n- q1: difficulty: got .*; allowed: 0 to 100"):
        read_difficulties([make(0, difficulty=3), make(1, difficulty=value), make(2)])


def test_the_first_of_many_bad_ones_are_listed():
    with pytest.raises(DifficultyError) as error:
        read_difficulties([make(number, difficulty="x") for number in range(25)])
    assert len(str(error.value).splitlines()) == 22 and str(error.value).endswith("and 5 more")


def test_samples_without_any_difficulty():
    with pytest.raises(SelectionError, match=r"no sample has a difficulty: score them .* or give --rollouts"):
        read_difficulties([make(0), make(1, difficulty=None)])


def test_nothing_left_writes_nothing(scored):
    with pytest.raises(SelectionError, match="none of 12 samples is left; 1 have no IoU\nIoU"):
        select(scored, "--range", "0.71", "0.72")
    assert not (scored.parent / "out.jsonl").exists()


# ---- Rollouts ----


def write_rollouts(folder, name, *rows, kind="rollouts"):
    folder = folder / kind
    folder.mkdir(exist_ok=True)
    keys = ("id", "iou", "constructed")
    rows = [dict(zip(keys, row, strict=True)) | {"query": f"query {row[0][1:]}"} for row in rows]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_last_free_group_of_a_sample_counts(tmp_path):
    write_rollouts(tmp_path, "step_000002", ("q0", 0.1, False), ("q0", 0.3, False), ("q1", 0.5, False))
    write_rollouts(tmp_path, "step_1000000_rank0", ("q0", 0.2, False), ("q0", 0.8, False), ("q9", 0.8, False))
    write_rollouts(tmp_path, "step_1000000_rank1", ("q1", 0.9, True), ("q2", 0.9, True), ("q2", 0.4, False))
    write_rollouts(tmp_path, "step_999999", ("q0", 1.0, False), ("q3", 1.0, True))
    found = read_rollouts(tmp_path, [make(number) for number in range(5)])
    assert found == {"q0": (0.2, 0.8), "q1": (0.5,), "q2": (0.4,)}


def test_groups_that_made_room_for_others_count(tmp_path):
    write_rollouts(tmp_path, "step_000001", ("q0", 0.5, False), ("q1", 0.5, False))
    write_rollouts(tmp_path, "step_000002", ("q0", 0.0, False), ("q2", 1.0, False), kind="replaced")
    assert read_rollouts(tmp_path, [make(number) for number in range(3)]) == {"q0": (0.0,), "q1": (0.5,), "q2": (1.0,)}


def test_rollouts_of_other_samples(tmp_path):
    write_rollouts(tmp_path, "step_000001", ("q0", 0.1, False), ("q1", 0.1, False))
    samples = [make(0), replace(make(1), query="another")]
    with pytest.raises(SelectionError, match="is of other samples, 1 differ:\n- q1: 'query 1' there, 'another' in --input"):
        read_rollouts(tmp_path, samples)
    with pytest.raises(SelectionError, match="none of its 2 completions can be used"):
        read_rollouts(tmp_path, [make(5)])
    write_rollouts(tmp_path, "step_000001", ("q0", 0.1, True))
    with pytest.raises(SelectionError, match=r"none of its 1 completions .* start with a constructed path"):
        read_rollouts(tmp_path, samples)


def test_other_files_in_the_place_of_rollouts(tmp_path):
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "rollouts" / "step_000001.jsonl").write_text('{"id": "q0", "reward": 1}\n')
    with pytest.raises(SelectionError, match=r"its rows must have constructed, id, iou, query: has train.py written it"):
        read_rollouts(tmp_path, [make(0)])


def test_ious_of_rollouts_replace_earlier_ones(scored):
    write_rollouts(scored.parent, "step_000001", ("q0", 0.25, False), ("q0", 0.75, False), ("q5", 0.0, False))
    assert select(scored, f"--rollouts={scored.parent}", "--range", "0", "0.7", "--keep_unscored") == [
        f"q{k}" for k in range(12) if k != 5
    ]
    first, second = read_rows(scored.parent / "out.jsonl")[:2]
    assert first["difficulty"] == 50 and first["ious"] == [0.25, 0.75] and first["source"] == "here"
    assert "difficulty" not in second and "ious" not in second


@pytest.mark.slow
def test_between_epochs(arguments, scripted, synthetic, tmp_path):
    """One epoch, selection from its rollouts, one epoch on what was selected from the model that it left."""
    arguments = [*arguments, "--trainer.max_epochs=1", "--curriculum.warmup_epochs=0", "--rollouts_every=1"]
    train.main([*arguments, "--name=first"])
    data, selected = f"--input={synthetic}/train.jsonl", tmp_path / "first" / "selected.jsonl"
    main(["select", data, f"--output={selected}", f"--rollouts={tmp_path}/first", "--range", "0", "0.5"])
    met = [row for path in (tmp_path / "first" / "rollouts").iterdir() for row in read_rows(path)]
    ious = {id: [row["iou"] for row in met if row["id"] == id] for id in {row["id"] for row in met}}
    assert len(ious) == 6 and all(len(own) == 3 for own in ious.values())
    expected = {id for id, own in ious.items() if 0 < sum(own) / 3 <= 0.5}
    chosen = load_samples(selected)
    assert {sample.id for sample in chosen} == expected and 2 <= len(expected) < 6
    train.main(
        [*arguments, "--name=second", f"--model.name_or_path={tmp_path}/first/hf", f"--data.train_file={selected}"]
    )
    again = [row for path in sorted((tmp_path / "second" / "rollouts").iterdir()) for row in read_rows(path)]
    assert {row["id"] for row in again} <= expected and len(again) == len(expected) // 2 * 2 * 3


# ---- Flags that can't work ----


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give --range LOW HIGH, or --gaussian CENTER SIGMA --count N, or both"),
        (["--range", "-1", "1"], None),
        (["--range", "0", "70"], "--range 0 70: must be IoUs (not percent) with LOW < HIGH <= 1"),
        (["--range", "30", "70"], "--range 30 70: must be IoUs"),
        (["--range", "0.7", "0.7"], "--range 0.7 0.7: must be IoUs"),
        (["--range", "nan", "0.7"], "--range nan 0.7: must be IoUs"),
        (["--range", "0", "1", "--count=3"], "--count: is of --gaussian; give that, too, or leave it out"),
        (["--gaussian", "0.3", "0.2"], "--gaussian draws --count samples: give a number from 1, got None"),
        (["--gaussian", "0.3", "0.2", "--count=0"], "give a number from 1, got 0"),
        (["--gaussian", "0.3", "0", "--count=3"], "--gaussian 0.3 0: needs CENTER from 0 to 1 (IoU, not percent) and SIGMA"),
        (["--gaussian", "30", "0.2", "--count=3"], "--gaussian 30 0.2: needs CENTER from 0 to 1"),
        (["--range", "0", "1", "--rollouts=nowhere"], "--rollouts nowhere: has no rollouts/step_*.jsonl; name a run's folder"),
        (["--range", "0", "1", "--video_root=nowhere"], "--video_root nowhere: no such folder"),
        (["--range", "0", "1", "--output=folder"], "--output folder: is a folder; give the name of a file"),
        (["--range", "0", "1", "--output=./in.jsonl"], "--output in.jsonl: is an input or another output; choose another"),
        (["--range", "0", "1", "--input=nowhere"], "--input nowhere: no such file"),
    ],
)
def test_problems(scored, flags, message, monkeypatch):
    monkeypatch.chdir(scored.parent)
    Path("folder").mkdir()
    found = list(find_problems(parse(["--input=in.jsonl", "--output=out.jsonl", *flags])))
    assert found == [] if message is None else len(found) == 1 and message in found[0]


def test_all_problems_come_at_once(scored):
    with pytest.raises(SelectionError) as error:
        select(scored, "--range", "1", "0", "--gaussian", "2", "0", "--rollouts=nowhere")
    assert [line[:12] for line in str(error.value).splitlines()] == [
        "can't select",
        "- --rollouts",
        "- --range 1 ",
        "- --gaussian",
        "- --gaussian",
    ]
