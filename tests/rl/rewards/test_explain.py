import io

import pytest

from taro.rl.rewards.__main__ import main, read_truth
from taro.rl.rewards.choose import REWARDS, RewardError

TEXT = "<think>From 2.5 to 6.5</think><answer>2.5s to 6.5s</answer>"


@pytest.fixture
def explain(capsys, monkeypatch):
    """The words of each row that the command prints, by reward and form; the first line is under ""."""
    monkeypatch.setenv("COLUMNS", "128")

    def run(*arguments):
        main(["explain", *arguments])
        first, *lines = capsys.readouterr().out.splitlines()
        cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
        return {"": first} | {(name, form): (total, parts) for name, form, total, parts in cells}

    return run


def test_every_part_of_every_reward(explain):
    rows = explain("--task", "grounding", "--truth", "2", "6", "--duration", "16", "--text", TEXT)
    assert rows.pop("") == "truth: 2 to 6 of 16 s; answer: 2.5 to 6.5; IoU 0.778"
    assert {name for name, _ in rows} == set(REWARDS)
    near = 3.5 / 4.5 * (1 - 0.5 / 16) ** 2
    assert rows["timestamp_iou", ""] == (f"{near:.3f}", "")
    assert rows["time_r1", "published"] == (f"{1 + near:.3f}", f"format 1.000, iou {near:.3f}")
    assert rows["time_r1", "released"] == ("1.000", "format 1.000, iou 0.000")
    assert rows["museg", "published"] == ("2.764", "format 1.000, global 0.875, local 0.889")


def test_what_a_task_lacks_is_said_in_its_row(explain):
    arguments = ("--task", "grounded_qa", "--truth", "none", "--text", "<answer>none</answer>", "--rewards", "tempr1", "iou")
    rows = explain(*arguments)
    assert rows[""] == "truth: it doesn't occur of 1 s; answer: it doesn't occur; choice: none; IoU 1.000"
    assert rows["tempr1", ""] == ("-", "the sample needs the key 'answer' for this reward") and rows["iou", ""] == ("1.000", "")
    assert explain(*arguments, "--columns", '{"answer": "B"}')["tempr1", ""][1] == "format 0.000, iou 1.000, answer 0.000"


def test_settings_are_given_as_configs_have_them(explain):
    """Those of `--model.rewards '{museg: {stage: 2}}'`; numbers are before the weight."""
    text = "<think>a</think><answer>2 to 6, 9 to 12</answer>"  # no answered time is in the reasoning: stage 2 asks for none
    own = ("{museg: {stage: 2, weight: 0.5}, tar_tvg: 0.5}", "{onethinker: {answer: text, form: released}}", "museg")
    rows = explain("--task", "actions", "--truth", "2 6 9 12", "--text", text, "--rewards", *own)
    rows.pop("")
    assert set(rows) == {
        ("museg {stage: 2}", "published"), ("museg {stage: 2}", "released"), ("tar_tvg", ""),
        ("onethinker {answer: text}", "released"), ("museg", "published"), ("museg", "released"),
    }  # fmt: skip
    assert rows["museg {stage: 2}", "published"][0] == "3.000" and rows["museg", "published"][0] == "2.600"
    assert rows["tar_tvg", ""][1].startswith("format 1.000")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("{museg: {stge: 2}}", "museg: stge is none of its settings; did you mean stage?"),
        ("{museg: {stage: 3}}", "stage = 3: allowed are 1, 2"),
        ("{museg: {weight: high}}", "weight = 'high': must be a number"),
    ],
)
def test_settings_that_a_reward_does_not_have(value, problem):
    with pytest.raises(RewardError) as error:
        main(["explain", "--truth", "2", "6", "--text", "", "--rewards", value])
    assert problem in str(error.value)


@pytest.mark.parametrize("value, problem", [("{museg: [2]}", "it must be {name: {setting: value}}"), ("{museg", "no YAML (")])
def test_settings_that_no_config_has(value, problem, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["explain", "--truth", "2", "6", "--text", "", "--rewards", value])
    assert stopped.value.code == 2 and f"--rewards: {value}: {problem}" in capsys.readouterr().err


def test_text_from_the_input_and_a_reward_of_ones_own(explain, tmp_path, monkeypatch):
    (tmp_path / "own_explained.py").write_text("def short(completion):\n    return {'short': 1 / len(completion.text)}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("2 to 6"))
    rows = explain("--truth", "2", "6", "--text", "-", "--rewards", "own_explained.short")
    assert rows["own_explained.short", ""] == ("0.167", "short 0.167")
    with pytest.raises(RewardError, match="raised ZeroDivisionError"):
        explain("--truth", "2", "6", "--text", "", "--rewards", "own_explained.short")


@pytest.mark.parametrize(
    "words",
    ["2 6 9 12", "2-6 9-12", "[[2, 6], [9, 12]]", "2.0s to 6s and 9 to 12", "2 6, 9 12", "2 - 6 9 – 12", "2 s 6 sec 9.0 12."],
)
def test_a_truth_is_pairs_of_numbers(words):
    assert read_truth(words.split()) == [(2.0, 6.0), (9.0, 12.0)]


@pytest.mark.parametrize(
    "words",
    ["2", "2 6 9", "soon", "1:05 2:10", "2 s 6 s 3 people 9", "2-6-9-12", "2 -6", "-2 6", "2e1 60", "2 6 x", "6 none", "2% 6"],
)
def test_an_odd_truth_is_refused(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["explain", f"--truth={words}", "--text", ""])
    assert stopped.value.code == 2 and f"--truth {words}: it must be start and end" in capsys.readouterr().err
    assert read_truth(["none"]) == []


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ("--truth 6 2", "--truth 6 2: 6 to 2 does not end after it starts"),
        ("--truth 2 2", "2 to 2 does not end"),
        (f"--truth 2 {'9' * 400}", "2 to inf does not end"),
        ("--truth 2 6 --columns [1]", '--columns: [1]: it must be a JSON object with the keys of a row, as {"answer": "B"}'),
        ("--truth 2 6 --columns null", "--columns: null: it must be a JSON object"),
        ("--truth 2 6 --columns {x}", "--columns: {x}: no JSON (Expecting property name"),
        ("--truth 2 6 --duration=-3", "--duration -3: must be a number of seconds, and the truth must end by then"),
        ("--truth 2 6 --duration 5", "--duration 5: must be"),
        ("--truth none --duration nan", "--duration nan: must be"),
    ],
)
def test_times_that_can_not_be_are_refused(flags, problem, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["explain", *flags.split(), "--text", ""])
    assert stopped.value.code == 2 and problem in capsys.readouterr().err
