import numpy as np
import pytest
import torch

from taro.video.load import Video
from taro.view.frames import FRAMES, GEOMETRY, VideoError, decode_jpeg, encode_jpeg, load_strip, make_strip


def test_a_strip_is_the_frames_side_by_side(video_file):
    picture = decode_jpeg(load_strip(str(video_file)))
    height, width, channels = picture.shape
    assert channels == 3 and width % FRAMES == 0 and height % GEOMETRY.factor == 0
    assert 60 <= height <= 150
    frames = np.split(picture.astype(float), FRAMES, axis=1)
    assert any(np.abs(frames[0] - frame).mean() > 1 for frame in frames[1:])  # it moves


def test_part_of_a_video(video_file):
    assert load_strip(str(video_file), (0.0, 2.0)) != load_strip(str(video_file))


def test_frames_that_are_loaded_already_become_small():
    video = Video(torch.zeros(20, 3, 280, 560, dtype=torch.uint8), torch.arange(20.0, dtype=torch.float64), 1.0, 20.0)
    height, width, _ = decode_jpeg(make_strip(video)).shape
    assert (height, width) == (72, FRAMES * 144)


def test_a_picture_survives():
    picture = torch.zeros(3, 32, 64, dtype=torch.uint8)
    picture[0, :, 32:] = 255
    found = decode_jpeg(encode_jpeg(picture)).astype(int)
    assert found.shape == (32, 64, 3)
    assert np.abs(found[:, :24]).max() < 40 and np.abs(found[:, 40:] - [255, 0, 0]).max() < 40


def test_no_video(tmp_path):
    with pytest.raises(VideoError):
        load_strip(str(tmp_path / "nowhere.mp4"))
