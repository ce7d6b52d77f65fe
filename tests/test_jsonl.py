import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from taro.jsonl import ResumableFolder, ResumeError, Shard, list_differences, read_config
from taro.lock import FolderInUse

ABOUT = {"model": "m", "video": {"fps": 2.0, "tokens": 64}, "prompt": "Find:\n{query} = é?"}
ROWS = [{"id": str(number), "value": number / 7, "text": "a\u2028b\n"} for number in range(6)]
IDS = [row["id"] for row in ROWS]


def test_rows_come_back_by_id(tmp_path):
    folder = ResumableFolder(tmp_path / "deep" / "out", ABOUT)
    assert folder.read() == {}
    folder.append(ROWS[:2])
    folder.append(ROWS[4:])
    assert list(folder.read().values()) == ROWS[:2] + ROWS[4:]
    lines = (tmp_path / "deep" / "out" / "predictions.jsonl").read_text().splitlines()  # also at \u2028
    assert [json.loads(line) for line in lines] == ROWS[:2] + ROWS[4:]


def test_a_row_is_on_disk_before_the_next_one_is_made(tmp_path):
    folder = ResumableFolder(tmp_path, ABOUT)
    seen = []

    def rows():
        for row in ROWS:
            seen.append(len(folder.read()))
            yield row

    folder.append(rows())
    assert seen == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("kept", [0, 1, 20])
def test_a_last_line_that_was_cut_off_is_no_row(tmp_path, kept):
    folder = ResumableFolder(tmp_path, ABOUT)
    folder.append(ROWS[:3])
    lines = folder.path.read_bytes().splitlines(keepends=True)
    folder.path.write_bytes(b"".join(lines[:2]) + lines[2][:kept])
    assert folder.read().keys() == {"0", "1"}
    folder.append(ROWS[2:])
    assert list(folder.read().values()) == ROWS


@pytest.mark.parametrize(
    ("line", "problem"), [('{"id": "1", "va', "is not JSON"), ("[1]", "is no row"), ('{"id": 1}', "is no row")]
)
def test_a_broken_line_is_an_error(tmp_path, line, problem):
    folder = ResumableFolder(tmp_path, ABOUT)
    folder.append(ROWS[:1])
    with folder.path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ResumeError, match=rf"predictions\.jsonl: line 2 .*{problem}.*delete the line"):
        folder.read()


def test_a_finished_file_is_in_the_order_that_was_asked_for(tmp_path):
    folder = ResumableFolder(tmp_path, ABOUT)
    folder.append(reversed(ROWS[1:]))
    before = folder.path.read_bytes()
    assert not folder.finish(IDS) and folder.path.read_bytes() == before
    folder.append(ROWS[:1])
    assert folder.finish(IDS)
    assert [json.loads(line) for line in folder.path.read_text().splitlines()] == ROWS


def test_shards_share_a_folder(tmp_path):
    folders = [ResumableFolder(tmp_path, ABOUT, Shard(number, 3)) for number in range(3)]
    for folder in folders:
        assert not folder.finish(IDS)
        folder.append(folder.shard.of(ROWS))
    assert all(folder.read().keys() == set(IDS) for folder in folders)
    assert folders[0].finish(IDS)
    assert [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()] == ROWS
    with pytest.raises(ResumeError, match="- shards: 3 there, 2 now"):
        ResumableFolder(tmp_path, ABOUT, Shard(0, 2))


def test_two_processes_share_no_part(tmp_path, monkeypatch):
    def held(file, how):
        if ".predictions.lock" in file.name:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    ResumableFolder(tmp_path, ABOUT)
    monkeypatch.setattr("fcntl.lockf", held)
    with pytest.raises(FolderInUse, match=rf"{tmp_path} is in use by process \d+ on .*: wait for its end"):
        ResumableFolder(tmp_path, ABOUT)


def test_shards_together_are_the_whole():
    items = list(range(10))
    parts = [Shard.parse(f"{number}/4").of(items) for number in range(4)]
    assert parts[1] == [1, 5, 9] and sorted(item for part in parts for item in part) == items
    assert Shard.parse(None).of(items) == items


@pytest.mark.parametrize("text", ["", "1", "2/2", "-1/2", "a/b", "0/0", "1/", "1/²"])
def test_no_shard(text):
    with pytest.raises(ResumeError, match=r"give i/n with 0 <= i < n, as in 0/8"):
        Shard.parse(text)


def test_a_folder_holds_one_configuration(tmp_path):
    ResumableFolder(tmp_path, ABOUT).append(ROWS[:1])
    again = ResumableFolder(tmp_path, {**ABOUT, "video": {"tokens": 64, "fps": 2.0}})  # whatever the order
    assert list(again.read().values()) == ROWS[:1]
    with pytest.raises(ResumeError) as error:
        ResumableFolder(tmp_path, ABOUT | {"video": {"fps": 1.0, "tokens": 64}, "seed": 1})
    first, *differences = str(error.value).splitlines()
    assert first == f"{tmp_path} holds the results of another configuration; choose another --output."
    assert differences == ["- seed: None there, 1 now", "- video.fps: 2.0 there, 1.0 now"]


def test_many_differences_are_shown_in_part(tmp_path):
    ResumableFolder(tmp_path, {f"s{number:02}": 0 for number in range(30)})
    with pytest.raises(ResumeError) as error:
        ResumableFolder(tmp_path, {f"s{number:02}": 1 for number in range(30)})
    assert len(str(error.value).splitlines()) == 22 and str(error.value).endswith("and 10 more")


def test_no_folder_where_a_file_is(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ResumeError, match="file: no folder that can be made and written to"):
        ResumableFolder(tmp_path / "file", ABOUT)


@pytest.mark.parametrize("content", [None, "- a\n", "a: [\n"])
def test_a_folder_without_a_configuration(tmp_path, content):
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ResumeError, match=r"config\.yaml: .*name a folder that a command wrote with --output"):
        read_config(tmp_path)


def test_the_configuration_is_readable_and_comes_back(tmp_path):
    about = ABOUT | {"rate": 1e-5, "none": None, "odd": "yes: #no", "empty": {}, "list": [1, "x"]}
    ResumableFolder(tmp_path, about)
    assert read_config(tmp_path) == about | {"shards": 1}
    assert "prompt: |-\n  Find:\n  {query} = é?\n" in (tmp_path / "config.yaml").read_text()


def test_differences_are_named_by_their_leaves():
    first, second = {"a": {"b": {"x": 1, "y": []}, "c": 2}}, {"a": {"b": {"x": 1, "y": [3]}, "c": 3}, "d": {"e": 4}}
    assert list_differences(first, second) == {"a.b.y": ([], [3]), "a.c": (2, 3), "d": (None, {"e": 4})}


WRITER = """
import sys
from taro.jsonl import ResumableFolder

folder = ResumableFolder(sys.argv[1], {})
def rows():
    for number in range(100_000):
        yield {"id": str(number), "text": "x" * 10_000}
        print(number, flush=True)
folder.append(rows())
"""


def test_what_was_written_outlives_a_kill(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        reported = [int(process.stdout.readline()) for _ in range(50)]
        process.send_signal(signal.SIGKILL)
    rows = ResumableFolder(tmp_path, {}).read()
    assert {str(number) for number in reported} <= rows.keys()
    assert all(row["text"] == "x" * 10_000 for row in rows.values())
