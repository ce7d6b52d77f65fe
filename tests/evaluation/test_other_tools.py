import csv
import json
import random

import pytest

from taro.data.samples import Sample
from taro.evaluation.other_tools import Text, load_texts, video_name
from taro.evaluation.predictions import EvaluationError, Prediction
from taro.jsonl import ResumableFolder, write_lines

KEY = "AO8RW.mp4>>>a person is putting a book on a shelf>>>[0.0, 6.9]"
SPAN = ((0.0, 6.9),)
OF_KEY = Text(KEY, "0 - 7", SPAN, "AO8RW", "a person is putting a book on a shelf")

TIME_R1 = {"qid": "charades_0", "pred": [0.0, 7.0], "target": [0.0, 6.9], "duration": 33.67, "output_text": "0 to 7"}
TIMELENS = {KEY: {"timestamps": [[0, 7]], "answers": "0 - 7", "duration": 33.67}}
SAMPLES = {
    "doc_id": 0,
    "target": "[0.0, 6.9]",
    "filtered_resps": ["0 - 7"],
    "doc_hash": "74234e98",
    "prompt_hash": "2b1f",
    "target_hash": "4f53",
    "submission": {KEY: "0 - 7"},
    "input": "Please find ...: a person is putting a book on a shelf. Please return its start time and end time.",
}
OMTG = {
    "index": 3,
    "video": "AO8RW.mp4",
    "question": "Find all segments where a person is putting a book on a shelf.",
    "answer": "<time>0.0 - 2.0 seconds</time> <time>5.0 - 6.9 seconds</time>",
    "prediction": "0 - 7",
}


def as_table(rows):
    """As pandas writes one for VLMEvalKit."""

    def write(path):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    return write


def as_lines(*rows):
    return lambda path: write_lines(rows, path)


def as_json(value):
    return lambda path: path.write_text(json.dumps(value, indent=4))


@pytest.fixture
def load(tmp_path):
    def load(write, name="file.json"):
        write(tmp_path / name)
        return load_texts(tmp_path / name)

    return load


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (as_lines(TIME_R1), Text("charades_0", "0 to 7", SPAN)),
        (as_lines(TIMELENS), OF_KEY),
        (as_json({KEY: "0 - 7"}), OF_KEY),
        (as_lines(SAMPLES), OF_KEY),
        (
            as_lines({name: value for name, value in SAMPLES.items() if name != "submission"}),
            Text("0", "0 - 7", SPAN, prompt=SAMPLES["input"]),
        ),
        (as_json([OMTG]), Text("3", "0 - 7", ((0.0, 2.0), (5.0, 6.9)), "AO8RW", prompt=OMTG["question"])),
    ],
)
def test_a_row_of_each_tool(load, write, text):
    assert load(write).texts == [text] and load(write).remarks == []


def test_tables_of_vlmevalkit(load):
    """Cells with tabs, quotes and line breaks; a failed call; an empty answer; the ways in which sets state the truth."""
    said = '<think>\na "dog"\tand\u2028so\n</think>\n0 - 7'
    fork = {"index": 0, "video": "AO8RW", "question": "a dog", "gt_span": "[0.0, 6.9]", "gt_start": 0.0, "gt_end": 6.9}
    rows = [
        {**fork, "prediction": said},
        {**fork, "index": 1, "prediction": "Failed to obtain answer via API."},
        {**fork, "index": 2, "prediction": ""},
    ]
    texts = load(as_table(rows), "model_Charades.tsv").texts
    assert [(one.id, one.text) for one in texts] == [("0", said), ("1", None), ("2", "")]
    assert {(one.truths, one.video, one.prompt) for one in texts} == {(SPAN, "AO8RW", "a dog")}
    several = {"index": 7, "question": "a dog", "gt": "[[0.0, 1.0], [2.0, 3.5]]", "prediction": float("nan")}
    assert load(as_json([several])).texts == [Text("7", "", ((0.0, 1.0), (2.0, 3.5)), prompt="a dog")]


def test_a_folder_with_parts(tmp_path):
    """Several processes write a file each; what else is there, such as scores, is none of them."""
    for part in range(2):
        write_lines([TIME_R1 | {"qid": f"charades_{part}"}], tmp_path / f"tg_{part}_2.jsonl")
    (tmp_path / "scores.json").write_text("{}")
    assert [one.id for one in load_texts(tmp_path).texts] == ["charades_0", "charades_1"]
    write_lines([{"qid": 1}], tmp_path / "tg_1_2.jsonl")
    with pytest.raises(EvaluationError, match=r"1 of 2 rows of Time-R1 can't be read:\n- tg_1_2\.jsonl, entry 1: got"):
        load_texts(tmp_path)


def test_a_folder_of_eval_py(tmp_path):
    sample = Sample("a", "v.mp4", "a dog", SPAN, 9.0)
    rows = [Prediction.answered(sample, "<answer>0 to 7</answer>", True, 0.1)]
    rows.append(Prediction("b", "a cat", SPAN, failure="missing_video", reason=""))
    ResumableFolder(tmp_path, {"samples": {"count": 2}}).append(row.to_row() for row in rows)
    assert load_texts(tmp_path).texts == [
        Text("a", "<answer>0 to 7</answer>", SPAN, query="a dog"),
        Text("b", None, SPAN, query="a cat"),
    ]
    (tmp_path / "nothing").mkdir()
    with pytest.raises(EvaluationError, match="holds no settings"):
        load_texts(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("write", "tool"),
    [
        (as_lines(TIME_R1, TIME_R1 | {"output_text": "last"}), "Time-R1"),
        (as_lines(TIMELENS, {KEY: {"answers": "last"}}), "TimeLens"),
        (lambda path: path.write_text(f'{{"{KEY}": "0 - 7", "{KEY}": "last"}}'), "lmms-eval"),
        (as_lines(SAMPLES, SAMPLES | {"doc_id": 1, "filtered_resps": ["last"]}), "lmms-eval --log_samples"),
    ],
)
def test_rows_that_come_more_than_once(load, write, tool):
    """The last one counts, as in the tools' own evaluations, and it is said."""
    found = load(write)
    assert [one.text for one in found.texts] == ["last"]
    (remark,) = found.remarks
    assert f"1 ids come more than once; the last row of each counts, as in {tool}'s own evaluation" in remark
    assert f"- {found.texts[0].id}: 2 rows" in remark


def test_rows_that_come_more_than_once_without_a_rule(load):
    with pytest.raises(EvaluationError, match="1 ids come more than once: keep one row of each\n- 3: 2 rows"):
        load(as_json([OMTG, OMTG]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": "1 to 2"}', r'no predictions that are known \(entry 1: got \{"a": "1 to 2"\}\)'),
        ("3", r"no predictions that are known \(entry 1: got 3\)"),
        ("a dog", r"no predictions that are known \(line 1: not JSON"),
        ("[" * 100_000, "no predictions that are known"),
        ('{"qid": 1, "output_text": "x", "target": [1]}', r"target: got \[1\]; allowed: \[start, end\] or"),
        ('{"qid": 1, "output_text": "x", "target": [1, NaN]}', "target: got"),
        ('{"qid": 1, "output_text": "x", "target": 2}', "target: got 2; allowed"),
        ('{"qid": 1, "output_text": null, "target": [1, 2]}', "output_text: got null; allowed: text"),
        ('{"qid": 1, "output_text": "x"}', r"target: got nothing \(the field is missing\)"),
        ('{"a>>>b>>>[1, x]": ""}', "the truth in the key: got"),
        ('{"a>>>b>>>[1, 2]": {"timestamps": [[1, 2]]}}', "answers: got nothing"),
        ('{"a>>>b>>>[1, 2]": "", "a>>>c>>>[1, 2]": 3}', r'entry 2: got \{"a>>>c>>>\[1, 2\]": 3\}; allowed'),
        ('{"doc_id": 1, "filtered_resps": ["a", "b"], "target": "[1, 2]"}', "filtered_resps: got"),
        ('{"doc_id": 1, "filtered_resps": ["a"], "target": "B"}', 'target: got "B"; allowed'),
        ('{"index": 1, "prediction": "a"}', "gt_span, gt or answer: got nothing"),
        ('{"index": 1, "prediction": "a", "answer": "B"}', "answer: got"),
        ('{"qid": 1, "output_text": "x", "target": [1, 2]}\n{"qid"', "1 of 2 rows of Time-R1 .*\n- line 2: not JSON"),
        ("{}", "no predictions in it"),
        ("", "no predictions in it"),
    ],
)
def test_files_that_cant_be_read(load, tmp_path, content, message):
    with pytest.raises(EvaluationError, match=message):
        load(lambda path: path.write_text(content))
    with pytest.raises(EvaluationError, match="can't be read"):
        load_texts(tmp_path / "nowhere.json")


def test_the_formats_are_listed(load):
    with pytest.raises(EvaluationError) as error:
        load(as_json({"a": 1}))
    lines = str(error.value).splitlines()[1:]
    tools = ["a folder of eval.py --output", "Time-R1", "TimeLens", "lmms-eval", "lmms-eval --log_samples", "VLMEvalKit"]
    assert [line[2:].partition(":")[0] for line in lines] == tools


def test_nothing_breaks_the_readers(load):
    """Rows of any shape are read, or refused with a reason."""
    rng, values = random.Random(0), ["", "0 - 7", None, 3, True, [], [1, 2], [[1, 2]], {"answers": "x"}, {KEY: "x"}, "[1, 2]"]
    rows = [TIME_R1, TIMELENS, {KEY: "0 - 7"}, SAMPLES, OMTG]
    for number in range(300):
        row = dict(rng.choice(rows))
        row[rng.choice([*row, "gt", "more"])] = rng.choice(values)
        try:
            assert len(load(as_lines(row, *rng.sample(rows, number % 2))).texts) >= 1
        except EvaluationError as error:
            assert "file.json: " in str(error)


@pytest.mark.parametrize(
    ("path", "name"),
    [("a/b.c/v_1.MP4", "v_1"), ("NUsG9_210.0_360.0", "NUsG9_210.0_360.0"), ("c:\\a\\v.webm", "v"), ("", "")],
)
def test_names_of_videos(path, name):
    assert video_name(path) == name
