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
    assert make_strips(samples, most=0) == strips.Strips()


def test_it_says_which_videos_have_none(samples, tmp_path, monkeypatch):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    broken, later = replace(samples[0], video=str(tmp_path / "broken.mp4")), replace(samples[0], clip=(0.0, 2.0))
    unknown = replace(samples[0], video="")  # whose samples file is gone, which is said elsewhere
    assert make_strips([unknown, *samples, broken], most=5).remarks(" (look)") == [
        "no frames of videos that are not there (look), 1 in all: nowhere.mp4",
        f"no frames of videos that can't be read, 1 in all: {broken.video}",
    ]
    assert make_strips([samples[0], later, later], most=1).remarks() == [
        "frames are shown of 1 videos, not of 1 others; --strips N shows more"
    ]
    assert make_strips(samples[:3], most=5).remarks() == []


def test_a_page_has_room_for_some(samples, monkeypatch):
    monkeypatch.setattr(strips, "MOST_BYTES", 10)
    parts = [replace(samples[0], id=str(k), clip=(0.0, 1.0 + k)) for k in range(5)]
    monkeypatch.setattr(strips, "load_strip", lambda video, clip: b"x" * 100)
    assert len(make_strips(parts, most=5).pictures) == 1


def test_a_broken_video_has_none(samples, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    assert make_strips([replace(samples[0], video=str(tmp_path / "broken.mp4"))], most=5).of_sample == {}
