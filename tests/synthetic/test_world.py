from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from taro.data.samples import load_samples
from taro.synthetic.captions import CAPTIONERS
from taro.synthetic.pretraining import scene_video
from taro.synthetic.world import (
    ACTIONS,
    COLORS,
    OPPOSITES,
    SHAPES,
    TIME_STEP,
    Event,
    Scene,
    WorldSettings,
    draw_scene,
    main,
    make_split,
    scene_samples,
    write_video,
)
from taro.video.geometry import PatchGeometry
from taro.video.load import VideoSettings, load_video

PAIRS = [("moves left", "moves right"), ("moves up", "moves down"), ("grows", "shrinks")]


def event(action, start=0.0, end=4.0, x=28.0, y=28.0, speed=8.0):
    return Event(start, end, "red", "square", action, x, y, 9.0, speed)


def scene_of(*events, seed=5, fps=8.0, duration=4.0):
    return Scene(seed, 64, 64, fps, duration, tuple(events), (60, 60, 60), None, tuple(range(len(events))))


@pytest.mark.slow
def test_same_seed_same_bytes(tmp_path):
    for folder in "ab":
        make_split(tmp_path / folder, "train", 2, seed=7, settings=WorldSettings(), workers=1)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert [path.name for path in files] == ["train_00000.mp4", "train_00001.mp4", "train.jsonl"]
    contents = [(tmp_path / "a" / path).read_bytes() for path in files]
    assert contents == [(tmp_path / "b" / path).read_bytes() for path in files]
    assert len(set(contents)) == 3


@pytest.mark.slow
def test_bytes_do_not_depend_on_what_memory_held_before(tmp_path, monkeypatch):
    """Pictures of 56 x 56 pixels are no whole number of macroblocks, which x264 must not fill with what it finds."""
    scene, seen, rng, render = draw_scene(2), set(), np.random.default_rng(0), Scene.render
    assert (scene.width, scene.height) == (56, 56)

    def render_among_garbage(self, indices):
        for frame in render(self, indices):
            garbage = [rng.integers(0, 255, rng.integers(100, 60_000), np.uint8) for _ in range(5)]
            yield frame
            del garbage

    monkeypatch.setattr(Scene, "render", render_among_garbage)
    for _ in range(3):
        write_video(scene, tmp_path / "one.mp4")
        seen.add((tmp_path / "one.mp4").read_bytes())
    assert len(seen) == 1


@pytest.mark.slow
def test_other_seeds_and_splits_give_other_videos(tmp_path):
    seen = []
    for split, seed in (("train", 0), ("validation", 0), ("test", 0), ("train", 1)):
        make_split(tmp_path / f"{split}{seed}", split, 1, seed, WorldSettings(), workers=1)
        seen += [path.read_bytes() for path in sorted((tmp_path / f"{split}{seed}" / split).glob("*.mp4"))]
    assert len(seen) == len(set(seen)) == 4


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown split 'dev', allowed: train, validation, test"):
        make_split(tmp_path, "dev", 1, 0, WorldSettings())


def test_scenes_are_well_formed():
    for seed in range(300):
        scene = draw_scene(seed)
        assert draw_scene(seed) == scene
        spans = [(e.start, e.end) for e in scene.events]
        times = [time for span in spans for time in span]
        assert times == sorted(times) and times[0] >= 0 and times[-1] <= scene.duration, seed
        assert all((time / TIME_STEP).is_integer() for time in times)
        assert all(2.0 <= end - start <= 9.0 for start, end in spans)
        assert len({e.text for e in scene.events}) == len(scene.events) in (2, 3)
        assert 16 <= scene.duration <= 24


def test_the_world_is_used_evenly():
    scenes = [draw_scene(seed) for seed in range(600)]
    events = [e for scene in scenes for e in scene.events]
    for names, values in (
        (COLORS, [e.color for e in events]),
        (SHAPES, [e.shape for e in events]),
        (ACTIONS, [e.action for e in events]),
    ):
        counts = Counter(values)
        assert set(counts) == set(names)
        assert min(counts.values()) > 0.7 * len(events) / len(names)
    shared = sum(len({e.color for e in scene.events}) < len(scene.events) for scene in scenes)
    assert shared > 0.3 * len(scenes)


def test_settings_bound_the_scenes():
    settings = WorldSettings(min_duration=30, max_duration=32, min_events=4, max_events=5, min_event=1.0, max_event=3.0)
    for seed in range(50):
        scene = draw_scene(seed, settings)
        assert 30 <= scene.duration <= 32 and 4 <= len(scene.events) <= 5
        assert all(1.0 <= e.end - e.start <= 3.0 for e in scene.events)


def test_bad_settings_are_all_named():
    with pytest.raises(ValueError, match=r"got 9 and 4; event counts .* got 0 and 20; .*20 events of 2.0 s do not fit"):
        WorldSettings(min_duration=9, max_duration=4, min_events=0, max_events=20)


def test_lookalikes_differ_in_order_alone_and_one_is_asked_for():
    earlier = 0
    for seed in range(200):
        scene = draw_scene(seed, WorldSettings(lookalikes=True))
        (place,) = scene.asked
        target = scene.events[place]
        expected = target.color, target.shape, OPPOSITES[target.action]
        (twin,) = (event for event in scene.events if (event.color, event.shape, event.action) == expected)
        earlier += target.start < twin.start
        assert len({event.text for event in scene.events}) == len(scene.events)
        (sample,) = scene_samples(scene, "a.mp4")
        assert sample.query == target.text and len(sample.captions) == len(scene.events)
    assert 0.65 < earlier / 200 < 0.85


def test_an_event_is_visible_within_its_span_alone():
    still = scene_of(event("moves left", start=1.0, end=2.0))
    empty = replace(still, events=())
    times = np.arange(still.frame_count)
    changed = (still.render(times) != empty.render(times)).any(axis=(1, 2, 3))
    assert np.flatnonzero(changed).tolist() == list(range(8, 16))


def test_a_frame_does_not_depend_on_the_others():
    scene = draw_scene(3)
    frames = scene.render(np.arange(40))
    assert np.array_equal(scene.render(np.array([31, 4])), frames[[31, 4]])


@pytest.mark.parametrize(("forward", "backward"), PAIRS)
def test_only_the_order_of_frames_tells_an_action_from_its_opposite(forward, backward):
    """Played backwards, one looks like the other: the same frames, up to their noise."""
    scene = scene_of(event(forward, speed=8.0 if "moves" in forward else 0.75))
    last = scene.frame_count - 1
    opposite = scene_of(event(backward, speed=scene.events[0].speed))
    if "moves" in forward:
        x, y, _ = scene.events[0].placement(last / scene.fps)
        opposite = scene_of(event(backward, x=x, y=y))
    shown = scene.render(np.arange(scene.frame_count)).astype(float)
    played = opposite.render(np.arange(scene.frame_count))[::-1].astype(float)
    if "moves" not in forward:  # a cycle of growth starts at its smallest and never shows its largest
        shown, played = shown[1:], played[:-1]
    difference = np.abs(shown - played).mean(axis=(1, 2, 3))
    assert difference.max() < 8.0  # two noises of 5 grey levels differ by 5.6 on average
    forwards = np.abs(shown - played[::-1]).mean(axis=(1, 2, 3))  # frames of one number have the same noise
    assert (forwards > 3.0).mean() > 0.5


def test_blinking_shows_and_hides():
    blinking = event("blinks")
    assert [blinking.placement(time) is not None for time in (0.0, 0.4, 0.5, 0.9, 1.0, 1.5)] == [
        True, True, False, False, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize("part", ["action", "shape"])
def test_unknown_actions_and_shapes_are_refused(part):
    scene = scene_of(replace(event("blinks"), **{part: "sings"}))
    with pytest.raises(ValueError, match=f"unknown {part} 'sings', allowed: "):
        scene.render(np.array([0]))


@pytest.mark.parametrize("settings", [VideoSettings(), VideoSettings(fps=1.0, max_frames=16, max_tokens=64)])
@pytest.mark.parametrize("geometry", [PatchGeometry(), PatchGeometry(patch_size=16)])
def test_the_decoded_file_is_the_scene(scenes, video_file, settings, geometry):
    loaded = load_video(video_file, clip=None, settings=settings, geometry=geometry)
    direct = scene_video(scenes[0], settings, geometry)
    torch.testing.assert_close(loaded.timestamps, direct.timestamps, atol=1e-4, rtol=0)
    assert loaded.fps == pytest.approx(direct.fps) and loaded.duration == pytest.approx(direct.duration)
    assert loaded.frames.shape == direct.frames.shape
    difference = (loaded.frames.float() - direct.frames.float()).abs().mean(dim=(1, 2, 3))
    assert difference.max() < 8.0
    shifted = (loaded.frames[1:].float() - direct.frames[:-1].float()).abs().mean(dim=(1, 2, 3))
    assert shifted.mean() > difference.mean() + 1.0


def test_a_file_is_whole_or_absent(scenes, tmp_path, monkeypatch):
    def fail(self, indices):
        raise KeyboardInterrupt

    monkeypatch.setattr(Scene, "render", fail)
    with pytest.raises(KeyboardInterrupt):
        write_video(scenes[0], tmp_path / "a.mp4")
    assert not (tmp_path / "a.mp4").exists()


def test_samples_of_a_scene(scenes):
    samples = scene_samples(scenes[0], "videos/one.mp4")
    assert [sample.id for sample in samples] == [f"one_{k}" for k in range(len(samples))]
    for sample, event_ in zip(samples, scenes[0].events, strict=True):
        assert sample.query == f"the {event_.color} {event_.shape} {event_.action}"
        assert sample.spans == ((event_.start, event_.end),)
        assert sample.duration == scenes[0].duration
        assert [caption.text for caption in sample.captions] == [e.text for e in scenes[0].events]


def test_captions_may_be_loose_and_spans_are_exact():
    exact, loose = (
        [sample for seed in range(100) for sample in scene_samples(draw_scene(seed), f"{seed}.mp4", CAPTIONERS[name])]
        for name in ("exact", "loose")
    )
    assert [replace(sample, captions=()) for sample in loose] == [replace(sample, captions=()) for sample in exact]
    assert sum(len(sample.captions) for sample in loose) < sum(len(sample.captions) for sample in exact)
    by_video = {}
    for sample in loose:
        assert by_video.setdefault(sample.video, sample.captions) == sample.captions


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "expected"), [([], "looser"), (["--captions=exact"], "exact")])
def test_the_command_chooses_the_captioner(tmp_path, flags, expected):
    main([f"--output={tmp_path}", "--videos=3", "--validation_videos=0", "--test_videos=0", "--workers=1", *flags])
    made = load_samples(tmp_path / "train.jsonl")
    settings = WorldSettings(captions=CAPTIONERS[expected])
    again = make_split(tmp_path / "again", "train", 3, 0, settings, workers=1)
    assert [sample.captions for sample in made] == [sample.captions for sample in again]
    exact = all(span in [(c.start, c.end) for c in sample.captions] for sample in made for span in sample.spans)
    assert exact == (expected == "exact")


@pytest.mark.slow
def test_the_command_writes_files_that_load(tmp_path, capsys):
    arguments = ["--videos=2", "--validation_videos=1", "--test_videos=0", "--seed=3", "--workers=1"]
    main([f"--output={tmp_path}", *arguments])
    assert capsys.readouterr().out.count("queries") == 2
    assert not (tmp_path / "test.jsonl").exists()
    seen = set()
    for split, videos in (("train", 2), ("validation", 1)):
        samples = load_samples(tmp_path / f"{split}.jsonl")
        files = {sample.video for sample in samples}
        assert len(files) == videos and len(samples) >= 2 * videos
        for path in files:
            video = load_video(path, clip=None, settings=VideoSettings(max_tokens=64), geometry=PatchGeometry())
            assert video.duration == pytest.approx(next(s.duration for s in samples if s.video == path))
        seen |= files
    assert len(seen) == 3
