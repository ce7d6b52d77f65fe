"""The command, with local engines."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from prepared_python import python

from taro.data.samples import Caption, Sample, SampleError, load_samples, save_samples
from taro.models.families import ModelError
from taro.models.qwen_vl import QwenVL
from taro.prepare.caption.__main__ import main, parse
from taro.prepare.caption.report import CaptionReport, covered_seconds, make_report, print_report
from taro.prepare.caption.settings import list_problems
from taro.prepare.caption.videos import CaptionedVideo, CaptionError, source_videos
from taro.prepare.caption.windows import cut_windows, read_windows
from taro.video.geometry import PatchGeometry
from taro.video.load import VideoSettings, load_video

ROOT = Path(__file__).parents[3]
VIDEO = VideoSettings(fps=1.0, max_tokens=64)


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
    assert len(report.failed) == 3 and json.loads((tmp_path / "out.report.json").read_text()) == report.to_json()
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
    assert all(reason.startswith("0.0s to ") and "s: PromptError: the prompt" in reason for reason in report.failed.values())


# ---- Windows ----


def test_windows_of_a_clip(synthetic):
    sample = load_samples(synthetic / "train.jsonl")[0]
    clip = Sample("c", sample.video, "q", ((0.0, 1.0),), 11.0, clip=(3.0, 14.0))
    (video,) = source_videos([clip, clip], synthetic)
    assert video.id == "train/train_00000.mp4@3-14" and video.clip == (3.0, 14.0)
    settings = {"length": 8.0, "overlap": 2.0, "settings": VIDEO, "geometry": PatchGeometry()}
    found = list(read_windows([video], workers=0, **settings))
    assert [(w.task.window.start, w.task.window.end, w.task.count) for w in found] == [(0.0, 6.5, 2), (4.5, 11.0, 2)]
    for read in found:
        part = (3.0 + read.task.window.start, 3.0 + read.task.window.end)
        expected = load_video(sample.video, clip=part, settings=VIDEO, geometry=PatchGeometry())
        assert torch.equal(read.frames.frames, expected.frames)
        assert torch.equal(read.frames.timestamps, expected.timestamps)


@pytest.mark.parametrize("stated", [5.0, 500.0])
def test_windows_lie_in_the_file_and_in_what_is_stated(synthetic, stated):
    sample = load_samples(synthetic / "train.jsonl")[0]
    videos = source_videos([replace(sample, duration=stated), replace(sample, duration=600.0)], synthetic)
    found = list(read_windows(videos, length=8.0, overlap=2.0, settings=VIDEO, geometry=PatchGeometry(), workers=1))
    assert all(read.failure is None for read in found)
    assert found[-1].task.window.end == found[0].task.duration == pytest.approx(min(stated, sample.duration))


# ---- The report ----


def test_report_of_known_captions(capsys):
    def of(*spans):
        return tuple(Caption(start, end, "a") for start, end in spans)

    assert covered_seconds(of((5.0, 6.0), (0.0, 2.0), (1.0, 3.0), (1.5, 2.5))) == 4.0
    videos = [
        CaptionedVideo("a", 10.0, of((0, 4), (2, 6)), windows=2, unread=1, cut=2, rejected={"no text": 2}),
        CaptionedVideo("b", 30.0, of((0, 3)), windows=1, rejected={"no text": 1, "duplicate": 1}),
        CaptionedVideo("c", 60.0, failure="[gone]", windows=1, unread=1),
    ]
    assert [CaptionedVideo.from_row(json.loads(json.dumps(video.to_row()))) for video in videos] == videos
    report = make_report(videos, asked=5)
    assert report == CaptionReport(5, 2, {"c": "[gone]"}, 2, 3, 9 / 40, 60 * 3 / 40, 4, 2, 2, {"no text": 3, "duplicate": 1})
    print_report(report)
    shown = capsys.readouterr().out
    assert "failed: c: [gone]" in shown and "0.225" in shown and "3 no text, 1 duplicate" in shown


def test_a_report_shows_the_first_failures(capsys):
    report = make_report([CaptionedVideo(str(k), 1.0, failure="x") for k in range(25)], asked=25)
    print_report(report)
    assert capsys.readouterr().out.count("failed: ") == 20 and len(report.failed) == 25


# ---- What can't work ----


def problems(*flags):
    return "\n".join(list_problems(parse(["--input=nowhere.jsonl", "--output=out.jsonl", *flags])))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "captions come from one of --model, --captions and --captions_key; got none of them"),
        (["--model=m", "--captions_key=k"], "got --model and --captions_key"),
        (["--captions=nowhere"], "--captions nowhere: no such file or folder"),
        (["--captions_key=k", "--shard=0/2"], "--shard: imported captions need no shards"),
        (["--captions_key=k", "--api_base=http://h/v1"], "--api_base: asks a model, imported captions need none"),
        (["--model=m", "--shard=2/2"], "--shard 2/2: give i/n"),
        (["--model=m", "--window=0"], "--window 0.0: must be above 0"),
        (["--model=m", "--overlap=30"], "--overlap 30.0: must be at least 0 and less than --window 30.0"),
        (["--model=m", "--prompt=What?"], "--prompt: must contain {seconds}"),
        (["--model=m", "--max_tokens=0"], "--max_tokens 0: must be at least 1"),
        (["--model=m", "--workers=-1"], "--workers -1: must be at least 0"),
        (["--model=m", "--endpoint.timeout=0"], "--endpoint.timeout 0.0: must be above 0"),
        (["--model=m", "--endpoint.retries=-1"], "--endpoint.retries -1: must be at least 0"),
        (["--model=m", "--video_root=nowhere"], "--video_root nowhere: no such folder"),
        (["--model=m", "--device=cuda:x"], "--device cuda:x: must be auto, cpu, cuda or cuda:N"),
        (["--model=m", "--api_base=localhost:8000"], "--api_base: must be like http://localhost:8000/v1"),
        (["--model=m", "--api_base=http://h:port/v1"], "--api_base: must be like http://localhost:8000/v1"),
        (["--model=m", "--api_key_variable=NO_SUCH_KEY"], "the environment has no such variable"),
        (["--model=m", "--api_key_variable=NO_SUCH_KEY"], "names the key of an endpoint; give its --api_base"),
        (["--model=m", "--output=out.json"], "--output out.json: must end in .jsonl"),
        (["--model=m", "--input=a.jsonl", "--output=./a.jsonl"], "is the input; choose another"),
    ],
)
def test_problems(flags, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = problems(*flags)
    assert message in found and ("--input nowhere.jsonl: no such file" in found or "a.jsonl" in found)


def test_secrets_in_an_address_or_a_key_are_not_shown(monkeypatch):
    monkeypatch.setenv("BROKEN_KEY", "sk-secret\nX: y")
    found = problems("--model=m", "--api_base=https://me:sk-secret@host/v1", "--api_key_variable=BROKEN_KEY")
    assert "without user, password" in found and "has characters that no key has" in found and "secret" not in found


def test_flags_may_have_dashes():
    settings = parse(["--input=a-b", "--output", "c-d", "--api-base=http://e-f/v1", "--video.max-frames=7"])
    assert (settings.input, settings.output, settings.api_base) == ("a-b", "c-d", "http://e-f/v1")
    assert settings.video.max_frames == 7


def test_all_problems_come_at_once_and_before_the_model(caption, monkeypatch):
    monkeypatch.setattr("taro.prepare.caption.__main__.load_samples", None)
    with pytest.raises(CaptionError) as error:
        caption("--window=-1", "--max_tokens=0", "--batch_size=0")
    assert str(error.value).splitlines() == [
        "can't caption:",
        "- --window -1.0: must be above 0",
        "- --max_tokens 0: must be at least 1",
        "- --batch_size 0: must be at least 1",
    ]


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


@pytest.mark.slow
def test_an_error_is_one_line(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [python(), "-m", "taro.prepare.caption", "--input=x.jsonl", "--output=y.jsonl", "--model=m"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.strip() == "error: --input x.jsonl: no such file"
