import numpy as np
from stub_endpoint import pictures_of

from taro.prepare.caption.pictures import jpeg_url, mp4_url


def test_pictures_keep_what_they_show():
    frames = np.zeros((4, 56, 84, 3), np.uint8)
    frames[:, :28, :, 0], frames[2:, 28:, 42:, 2] = 250, 200
    for sent in (np.concatenate([pictures_of(jpeg_url(frame)) for frame in frames]), pictures_of(mp4_url(frames, 2.0))):
        assert sent.shape == frames.shape
        assert np.abs(sent[:, 4:24].astype(float) - frames[:, 4:24]).mean() < 8
        assert sent[3, 40, 60, 2] > 150 and sent[0, 40, 60, 2] < 50
