"""The command, with local engines."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from taro.data.samples import SampleError, load_samples, save_samples
from taro.models.families import ModelError
from taro.models.qwen_vl import QwenVL
from taro.prepare.caption.__main__ import main
from taro.prepare.caption.settings import CaptionError
from taro.prepare.caption.videos import cut_windows

pytestmark = pytest.mark.slow  # as a whole file: a model answers


@pytest.fixture
def caption(synthetic, tiny_folder, tmp_path):
    def run(*more, output="out"):
        flags = [
            f"--model={tiny_folder}",
            f"--input={synthetic}/train.jsonl",
            f"--output={tmp_path}/{output}.jsonl",
            "--window=8",
            "--overlap=2",
            "--video.fps=1",
            "--video.max_tokens=64",
            "--max_tokens=12",
            "--workers=0",
        ]
        return main([*flags, *more])

    return run


@pytest.fixture
def talking(monkeypatch, scripted, tiny_builder):
    """Puts an engine that says `text` of every window into the command; gives the prompts that it gets."""

    def install(text):
        said, prompts = [*tiny_builder.encode(text), tiny_builder.eos_id], []

        class Engine(scripted.engine):
            def generate(self, asked, sampling):
                assert sampling.temperature == 0
                prompts.extend(prompt.prompt for prompt in asked)
                return super().generate(asked, sampling)

        monkeypatch.setattr("taro.rollout.start.NativeEngine", lambda *_: Engine(lambda *_: said))
        return prompts

    return install


# ---- Answers of a model ----


def test_nonsense_of_a_random_model_fails_its_videos(caption, tmp_path, synthetic):
    report = caption()
    assert (report.videos, report.done, report.captions) == (3, 0, 0)
    assert report.windows == report.unread_windows > 3 and report.cut_answers > 0
    assert all(reason.startswith("no answer has an event that can be used; the first: ") for reason in report.failed.values())
    assert len(report.failed) == 3 and json.loads((tmp_path / "out.report.json").read_text()) == asdict(report)
    samples = load_samples(tmp_path / "out.jsonl")
    assert [sample.captions for sample in samples] == [()] * 6
    expected = load_samples(synthetic / "train.jsonl")
    assert samples == [replace(sample, captions=()) for sample in expected]


def test_answers_become_captions_on_the_videos_clock(caption, talking, tmp_path, tiny_builder, synthetic):
    prompts = talking("From 1.0s to 3.0s, the red square moves left\nFrom 9.0s to 9.5s, the red circle grows")
    report = caption("--prompt=What happens in {seconds} s?")
    assert report.done == 3 and report.rejected == {"outside of what is shown": report.windows} and report.cut_answers == 0
    for sample in load_samples(tmp_path / "out.jsonl"):
        starts = [round(window.start + 1.0, 2) for window in cut_windows(sample.duration, 8.0, 2.0)]
        assert [caption.start for caption in sample.captions] == starts
        assert all(c.end == pytest.approx(c.start + 2) and c.text == "the red square moves left" for c in sample.captions)
    durations = {sample.duration for sample in load_samples(synthetic / "train.jsonl")}
    lengths = {f"{window.length:.1f}" for duration in durations for window in cut_windows(duration, 8.0, 2.0)}
    texts = {tiny_builder.decode(prompt.input_ids).rpartition("<|vision_end|>")[2].splitlines()[0] for prompt in prompts}
    assert texts == {f"What happens in {length} s?" for length in lengths}


def test_a_video_where_nothing_happens_is_done(caption, talking, tmp_path):
    talking("No events.")
    report = caption()
    assert (report.done, report.failed, report.captions, report.unread_windows) == (3, {}, 0, 0)
    assert all(sample.captions == () for sample in load_samples(tmp_path / "out.jsonl"))


def test_a_bad_video_costs_one_video(caption, talking, synthetic, tmp_path):
    talking("From 1.0s to 3.0s, the red square moves left")
    samples = load_samples(synthetic / "train.jsonl")
    videos = sorted({sample.video for sample in samples})
    whole = Path(videos[0]).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    moved = {videos[0]: str(tmp_path / "cut.mp4"), videos[1]: str(tmp_path / "missing.mp4")}
    save_samples([replace(s, video=moved.get(s.video, s.video)) for s in samples], tmp_path / "in.jsonl", relative_to=tmp_path)
    report = caption(f"--input={tmp_path}/in.jsonl", "--workers=1")
    assert report.done == 1 and set(report.failed) == {"cut.mp4", "missing.mp4"}
    assert report.failed["missing.mp4"] == f"VideoError: {tmp_path}/missing.mp4: does not exist"
    (tmp_path / "missing.mp4").write_bytes(Path(videos[1]).read_bytes())
    prompts = talking("From 2.0s to 3.0s, the red square moves left")
    report = caption(f"--input={tmp_path}/in.jsonl")  # asks about what failed, and nothing else
    assert report.done == 2 and set(report.failed) == {"cut.mp4"} and 2 <= len(prompts) <= 4
    firsts = {Path(s.video).name: s.captions[0].start for s in load_samples(tmp_path / "out.jsonl") if s.captions}
    assert firsts == {"missing.mp4": 2.0, Path(videos[2]).name: 1.0}


def test_without_a_readable_video_no_model_is_loaded(caption, synthetic, tmp_path, monkeypatch):
    monkeypatch.setattr(QwenVL, "from_pretrained", None)
    with pytest.raises(SampleError, match=r"not one of its 3 videos is there.*set --video_root"):
        caption(f"--video_root={tmp_path}")
    for sample in load_samples(synthetic / "train.jsonl", video_root=tmp_path):
        Path(sample.video).parent.mkdir(exist_ok=True)
        Path(sample.video).touch()
    report = caption(f"--video_root={tmp_path}")
    assert report.done == 0 and len(report.failed) == 3


def test_a_prompt_that_is_too_long_fails_its_video(caption):
    report = caption("--max_prompt_tokens=20")
    assert len(report.failed) == 3
    for reason in report.failed.values():
        assert reason.startswith("0.0s to ") and "s: PromptError: the prompt has" in reason


# ---- What can't work ----


def test_problems_come_before_the_model(caption, monkeypatch):
    monkeypatch.setattr("taro.prepare.caption.__main__.load_samples", None)
    with pytest.raises(CaptionError) as error:
        caption("--overlap=9", "--shard=x")
    assert [line[:10] for line in str(error.value).splitlines()] == ["can't capt", "- --shard ", "- --overla"]


def test_other_errors_come_before_the_model(caption, monkeypatch, tmp_path):
    monkeypatch.setattr(QwenVL, "from_pretrained", None)
    with pytest.raises(ModelError, match="there is no such folder"):
        caption(f"--model={tmp_path}/nothing")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with pytest.raises(SampleError, match="line 1: id: got nothing"):
        caption(f"--input={tmp_path}/rows.jsonl")


def test_an_output_of_others_is_kept(caption, tmp_path):
    (tmp_path / "out.jsonl").write_text("mine")
    with pytest.raises(CaptionError, match="exists already"):
        caption()
    assert (tmp_path / "out.jsonl").read_text() == "mine"


def test_an_error_is_one_line(tmp_path, monkeypatch, run_module):
    monkeypatch.chdir(tmp_path)
    said = run_module("taro.prepare.caption", "--input=x.jsonl", "--output=y.jsonl", "--model=m")
    assert said == "error: --input x.jsonl: no such file"
