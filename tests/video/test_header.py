import multiprocessing
import os

import pytest

from taro.video import header
from taro.video.file import VideoError
from taro.video.header import read_all_durations, read_duration


def test_the_header_says_how_long_a_video_is(video_file, scenes, tmp_path):
    assert read_duration(video_file) == pytest.approx(scenes[0].duration, abs=0.2)
    with pytest.raises(VideoError, match="does not exist"):
        read_duration(tmp_path / "none.mp4")


def test_a_file_without_pictures_is_no_video(tmp_path):
    import av
    import numpy as np

    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match="has no picture stream"):
        read_duration(path)


@pytest.mark.slow
@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="workers must inherit the changed function")
def test_a_video_that_kills_its_reader_costs_itself_only(monkeypatch, video_file, tmp_path):
    read = header.read_duration
    monkeypatch.setattr(header, "read_duration", lambda path: os._exit(1) if path.name == "bad.mp4" else read(path))
    paths = [tmp_path / "bad.mp4", video_file, tmp_path / "none.mp4"]
    found = read_all_durations(paths, workers=1)
    assert list(found) == paths and found[video_file] == pytest.approx(read(video_file))
    assert found[paths[0]].reason == "kills the process that reads it" and found[paths[2]].reason == "does not exist"
