from dataclasses import replace

from taro.view import strips
from taro.view.strips import make_strips


def test_a_video_is_read_once_and_those_that_are_not_there_cost_nothing(samples, monkeypatch):
    read = []
    monkeypatch.setattr(strips, "load_strip", lambda video, clip: read.append((video, clip)) or b"x")
    found = make_strips([samples[-1], *samples, replace(samples[0], id="clip", clip=(0.0, 2.0))], most=2)
    assert read == [(samples[0].video, None), (samples[0].video, (0.0, 2.0))]
    assert found.of_sample == {samples[0].id: 0, samples[1].id: 0, samples[2].id: 0, "clip": 1}
    assert len(found.pictures) == 2
    assert make_strips(samples, most=0).pictures == []


def test_a_page_has_room_for_some(samples, monkeypatch):
    monkeypatch.setattr(strips, "MOST_BYTES", 10)
    parts = [replace(samples[0], id=str(k), clip=(0.0, 1.0 + k)) for k in range(5)]
    monkeypatch.setattr(strips, "load_strip", lambda video, clip: b"x" * 100)
    assert len(make_strips(parts, most=5).pictures) == 1


def test_a_broken_video_has_none(samples, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    assert make_strips([replace(samples[0], video=str(tmp_path / "broken.mp4"))], most=5).of_sample == {}
