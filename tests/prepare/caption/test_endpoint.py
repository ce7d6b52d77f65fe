"""Captions by an endpoint, that of stub_endpoint.py."""

import json
import os
import signal
import threading
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from prepared_python import Command
from stub_endpoint import OVERLAP, VIDEO, WINDOW, Endpoint, TrueEvents, pictures_of

from taro.data.samples import load_samples
from taro.jsonl import ResumeError
from taro.models.qwen_vl import QwenVL
from taro.prepare.caption.__main__ import main
from taro.prepare.caption.endpoint import rgb_frames
from taro.prepare.caption.report import print_report
from taro.prepare.caption.settings import CaptionError
from taro.video.geometry import PatchGeometry
from taro.video.load import load_video

pytestmark = pytest.mark.slow  # as a whole file: real runs

ROOT = Path(__file__).parents[3]
KEY = "sk-a-key-that-nobody-may-see"


@pytest.fixture(scope="module")
def truth(synthetic):
    return TrueEvents(load_samples(synthetic / "train.jsonl"))


@pytest.fixture
def endpoint(truth):
    server = Endpoint(truth)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def flags(endpoint, synthetic, tmp_path, monkeypatch):
    """Arguments of an output in `tmp_path`, without --output itself."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("CAPTION_TEST_KEY", KEY)
    return [
        "--model=oracle",
        f"--api-base={endpoint.base}",
        "--api-key-variable=CAPTION_TEST_KEY",
        f"--input={synthetic}/train.jsonl",
        f"--window={WINDOW}",
        f"--overlap={OVERLAP}",
        f"--video.max_tokens={VIDEO.max_tokens}",
        "--workers=0",
        "--endpoint.retries=2",
        "--endpoint.backoff=0.01",
    ]


@pytest.fixture
def caption(flags, tmp_path):
    def run(*more, output="out"):
        return main([*flags, f"--output={tmp_path}/{output}.jsonl", *more])

    return run


def assert_true(output, synthetic):
    """Words as they are, times within what one decimal can say; all else as in the input."""
    found, expected = load_samples(output), load_samples(synthetic / "train.jsonl")
    assert [replace(sample, captions=()) for sample in found] == [replace(sample, captions=()) for sample in expected]
    for sample, true in zip(found, expected, strict=True):
        assert [caption.text for caption in sample.captions] == [caption.text for caption in true.captions]
        for caption, event in zip(sample.captions, true.captions, strict=True):
            assert caption.start == pytest.approx(event.start, abs=0.051) and caption.end == pytest.approx(event.end, abs=0.051)


def video_names(synthetic):
    return sorted({Path(sample.video).name for sample in load_samples(synthetic / "train.jsonl")})


def test_true_events_come_back(caption, endpoint, synthetic, tmp_path):
    report = caption()
    assert_true(tmp_path / "out.jsonl", synthetic)
    names = Counter(name for name, _ in endpoint.asked)
    assert sorted(names) == video_names(synthetic) and len(set(endpoint.asked)) == len(endpoint.asked)
    assert all(count > 1 for count in names.values())  # something was there to be merged
    samples = {sample.video: sample for sample in load_samples(synthetic / "train.jsonl")}.values()
    seconds = sum(sample.duration for sample in samples)
    events = [event for sample in samples for event in sample.captions]
    assert (report.done, report.failed, report.open) == (3, {}, 0) and report.windows == len(endpoint.asked)
    assert report.coverage == pytest.approx(sum(event.end - event.start for event in events) / seconds, abs=0.01)
    assert report.events_per_minute == pytest.approx(60 * len(events) / seconds, rel=1e-3)
    assert json.loads((tmp_path / "out.report.json").read_text()) == asdict(report)


def test_what_an_endpoint_is_asked(caption, endpoint, synthetic):
    caption("--max_tokens=77", '--endpoint.options={"seed": 3, "temperature": null}')
    body, (name, window) = endpoint.bodies[0], endpoint.asked[0]
    assert body["model"] == "oracle" and body["max_tokens"] == 77 and body["seed"] == 3 and "temperature" not in body
    *frames, request = body["messages"][0]["content"]
    assert f"{window.length:.1f} seconds long" in request["text"] and "From 1.5s to 4.0s" in request["text"]
    video = load_video(synthetic / "train" / name, clip=(window.start, window.end), settings=VIDEO, geometry=PatchGeometry())
    assert [part["text"] for part in frames[::2]] == [f"{time:.1f}s:" for time in video.timestamps.tolist()]
    for part, frame in zip(frames[1::2], rgb_frames(video), strict=True):
        (sent,) = pictures_of(part["image_url"]["url"])
        assert np.abs(sent.astype(float) - frame).mean() < 6
    assert set(endpoint.keys) == {f"Bearer {KEY}"}


def test_frames_as_a_video(caption, endpoint, synthetic, tmp_path):
    caption("--endpoint.frames=video")
    assert_true(tmp_path / "out.jsonl", synthetic)
    video, request = endpoint.bodies[0]["messages"][0]["content"]
    assert request["text"].startswith("The frames of the video are at 0.0s, 0.")
    assert len(pictures_of(video["video_url"]["url"])) == request["text"].splitlines()[0].count("s,") + 1


# ---- Faults ----


def test_faults_that_pass_change_nothing(caption, endpoint, synthetic, tmp_path):
    faults = {0: 429, 1: "hang up", 3: "no choices", 4: "no text", 6: "chatter", 8: "echo"}
    endpoint.fault = lambda number, video: faults.get(number)
    report = caption("--batch_size=1")
    assert_true(tmp_path / "out.jsonl", synthetic)
    assert report.failed == {} and len(endpoint.asked) == report.windows + 5  # an echo is an answer


@pytest.mark.parametrize(
    "faults",
    [
        ((503, "the endpoint answers 503: ", 3), ("no json", "is no chat completion with a text: <html>", 3)),
        (
            ("chatter", "no answer has an event that can be used; the first: 'I see shapes.'", 3),
            (400, "the endpoint answers 400: ", 1),
        ),
    ],
)
def test_a_fault_that_stays_fails_its_video_until_the_next_run(caption, endpoint, synthetic, tmp_path, faults):
    bad = dict(zip(video_names(synthetic), faults, strict=False))
    endpoint.fault = lambda number, video: bad.get(Path(video).name, (None,))[0]
    report = caption("--batch_size=1")
    assert report.done == 1 and report.failed.keys() == {f"train/{name}" for name in bad}
    for name, (_, reason, attempts) in bad.items():
        assert reason in report.failed[f"train/{name}"]
        assert set(Counter(window for video, window in endpoint.asked if video == name).values()) == {attempts}
    captions = {Path(sample.video).name: sample.captions for sample in load_samples(tmp_path / "out.jsonl")}
    assert {name for name, own in captions.items() if own == ()} == set(bad)
    stored = json.loads((tmp_path / "out.report.json").read_text())
    assert stored["failed"] == report.failed and stored["done"] == 1
    endpoint.fault = lambda number, video: None
    endpoint.asked.clear()
    assert caption().done == 3
    assert {name for name, _ in endpoint.asked} == set(bad)
    assert_true(tmp_path / "out.jsonl", synthetic)


def test_a_stall_ends_at_the_timeout(caption, endpoint, synthetic):
    bad = video_names(synthetic)[0]
    endpoint.fault = lambda number, video: "stall" if Path(video).name == bad else None
    report = caption("--endpoint.timeout=1", "--endpoint.retries=1")
    assert report.done == 2 and "no answer within 1 s (--endpoint.timeout) (2 attempts)" in report.failed[f"train/{bad}"]


def test_the_end_of_a_cut_answer_is_left_out(caption, endpoint, synthetic, tmp_path):
    endpoint.fault = lambda number, video: "cut"
    report = caption()
    assert report.cut_answers == report.windows
    assert_true(tmp_path / "out.jsonl", synthetic)


def test_one_window_without_an_event_is_counted(caption, endpoint, truth, tmp_path):
    _, path, window, _ = truth.windows[0]
    endpoint.fault = lambda number, video: "chatter" if endpoint.asked[number] == (Path(path).name, window) else None
    report = caption("--batch_size=1")
    assert report.done == 3 and report.unread_windows == 1


@pytest.mark.parametrize(("status", "flag"), [(401, "--api_key_variable"), (404, "--api_base and --model")])
def test_an_endpoint_that_refuses_all_ends_the_run_and_nothing_is_lost(caption, endpoint, synthetic, tmp_path, status, flag):
    endpoint.fault = lambda number, video: status if number >= 5 else None
    with pytest.raises(CaptionError, match=rf"answers {status}: (.|\n)*{flag}") as error:
        caption("--batch_size=1")
    assert KEY[:5] not in str(error.value)
    assert len(endpoint.asked) == 6 and not (tmp_path / "out.jsonl").exists()
    done = {name for name, _ in endpoint.asked[:3]}
    assert len(done) == 1
    endpoint.fault = lambda number, video: None
    endpoint.asked.clear()
    assert caption("--batch_size=1").done == 3
    assert not done & {name for name, _ in endpoint.asked}
    assert_true(tmp_path / "out.jsonl", synthetic)


def test_the_key_is_nowhere(caption, endpoint, synthetic, tmp_path, capfd):
    """Though the endpoint says it in its answers and its errors."""
    bad = video_names(synthetic)[1]
    endpoint.fault = lambda number, video: 500 if Path(video).name == bad else "echo"
    report = caption()
    print_report(report)
    assert endpoint.keys and set(endpoint.keys) == {f"Bearer {KEY}"}
    shown = capfd.readouterr()
    assert "Bearer (key)" in shown.out and KEY[:5] not in shown.out + shown.err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 5 and not any(KEY[:5].encode() in path.read_bytes() for path in files)


# ---- Resuming ----


@pytest.mark.slow
def test_a_killed_run_goes_on_and_gives_the_same_files(caption, flags, endpoint, synthetic, tmp_path):
    caption(output="whole")
    windows = len(endpoint.asked)
    endpoint.asked.clear()
    endpoint.fault = lambda number, video: "hold" if number == windows - 1 else None
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = ["-m", "taro.prepare.caption", *flags, f"--output={tmp_path}/out.jsonl", "--batch_size=1"]
    with (tmp_path / "shown.txt").open("w") as shown:
        process = Command(command, env=environment, cwd=tmp_path, stdout=shown.fileno(), stderr=shown.fileno())
    try:
        assert endpoint.held.wait(120), (tmp_path / "shown.txt").read_text()
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    rows = (tmp_path / "out.captions" / "captions.jsonl").read_text().splitlines()
    assert len(rows) == 2 and not (tmp_path / "out.jsonl").exists()
    done = {Path(json.loads(row)["id"]).name for row in rows}
    endpoint.fault = lambda number, video: None
    endpoint.release.set()
    endpoint.asked.clear()
    caption("--batch_size=3")
    assert {name for name, _ in endpoint.asked} == set(video_names(synthetic)) - done
    for name in ("out.jsonl", "out.report.json", "out.captions/captions.jsonl"):
        assert (tmp_path / name).read_bytes() == (tmp_path / name.replace("out", "whole", 1)).read_bytes()
    assert KEY not in (tmp_path / "shown.txt").read_text()


def test_shards_together_are_the_whole(caption, endpoint, tmp_path):
    whole = caption(output="whole")
    endpoint.asked.clear()
    part = caption("--shard=1/2")
    assert (part.done, part.open) == (1, 2) and not (tmp_path / "out.jsonl").exists()
    assert caption("--shard=0/2") == whole
    assert len(endpoint.asked) == whole.windows
    for name in ("out.jsonl", "out.report.json", "out.captions/captions.jsonl"):
        assert (tmp_path / name).read_bytes() == (tmp_path / name.replace("out", "whole", 1)).read_bytes()


def test_what_is_done_is_not_done_again(caption, endpoint, tmp_path, monkeypatch):
    caption()
    before = (tmp_path / "out.jsonl").read_bytes()
    asked = len(endpoint.asked)
    monkeypatch.setattr(QwenVL, "from_pretrained", None)
    assert caption().done == 3 and len(endpoint.asked) == asked
    assert (tmp_path / "out.jsonl").read_bytes() == before
    with pytest.raises(ResumeError, match=r"- window: 8\.0 there, 9\.0 now"):
        caption("--window=9")
