from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from taro.data.samples import Sample, load_samples
from taro.models.prompt import PromptError
from taro.prepare.caption.videos import Window, WindowReader, cut_windows, source_videos
from taro.video.geometry import PatchGeometry
from taro.video.load import VideoSettings, load_video

VIDEO = VideoSettings(fps=1.0, max_tokens=64)


@pytest.mark.parametrize("duration", [0.5, 5.0, 8.0, 8.01, 14.0, 14.5, 23.9, 600.0])
@pytest.mark.parametrize("overlap", [0.0, 2.0, 5.0])
def test_windows_cover_the_video_and_overlap(duration, overlap):
    windows = cut_windows(duration, 8.0, overlap)
    assert windows[0].start == 0 and windows[-1].end == duration
    assert max(window.length for window in windows) <= 8 + 1e-9
    assert min(window.length for window in windows) == pytest.approx(max(window.length for window in windows))
    for before, after in pairwise(windows):
        assert before.end - after.start == pytest.approx(overlap)
    if len(windows) > 1:  # fewer would be too long
        assert (duration + (len(windows) - 2) * overlap) / (len(windows) - 1) > 8


def test_windows_of_the_docstring():
    assert cut_windows(40.0, 30.0, 5.0) == [Window(0.0, 22.5), Window(17.5, 40.0)]


def read(videos, workers):
    reader = WindowReader(videos, 8.0, 2.0, VIDEO, PatchGeometry(), lambda seconds, frames: (seconds, frames))
    return list(reader.read(workers))


def test_a_prompt_that_is_refused_is_named_by_its_window_and_ends_its_video(synthetic):
    def refuse(seconds, frames):
        raise PromptError("too long")

    sample = load_samples(synthetic / "train.jsonl")[0]
    videos = source_videos([Sample("c", sample.video, "q", ((0.0, 1.0),), 11.0, clip=(3.0, 14.0))], synthetic)
    (found,) = WindowReader(videos, 8.0, 2.0, VIDEO, PatchGeometry(), refuse).read(0)
    assert (found.failure, found.window) == ("0.0s to 6.5s: PromptError: too long", None)


def test_windows_of_a_clip(synthetic):
    sample = load_samples(synthetic / "train.jsonl")[0]
    clip = Sample("c", sample.video, "q", ((0.0, 1.0),), 11.0, clip=(3.0, 14.0))
    (video,) = source_videos([clip, clip], synthetic)
    assert video.id == "train/train_00000.mp4@3-14" and video.clip == (3.0, 14.0)
    found = read([video], workers=0)
    assert [(one.window, one.count) for one in found] == [(Window(0.0, 6.5), 2), (Window(4.5, 11.0), 2)]
    for one in found:
        part = (3.0 + one.window.start, 3.0 + one.window.end)
        expected = load_video(sample.video, clip=part, settings=VIDEO, geometry=PatchGeometry())
        seconds, frames = one.content
        assert seconds == "6.5" and torch.equal(frames.frames, expected.frames)
        assert torch.equal(frames.timestamps, expected.timestamps)


@pytest.mark.parametrize("stated", [5.0, 500.0])
def test_windows_lie_in_the_file_and_in_what_is_stated(synthetic, stated):
    sample = load_samples(synthetic / "train.jsonl")[0]
    videos = source_videos([replace(sample, duration=stated), replace(sample, duration=600.0)], synthetic)
    found = read(videos, workers=1)
    assert all(one.failure is None for one in found)
    assert found[-1].window.end == found[0].duration == pytest.approx(min(stated, sample.duration))
