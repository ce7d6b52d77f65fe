import json
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from prepared_python import python

from taro.data.samples import Sample, load_samples, save_samples
from taro.prepare import audit
from taro.prepare.audit import (
    FRAMES,
    compare,
    find_copies,
    hash_videos,
    main,
    print_overlaps,
    short_names,
    source_id,
    video_hash,
)
from taro.prepare.convert import convert
from taro.synthetic.world import draw_scene, write_video
from taro.video.file import VideoError

ANNOTATIONS = Path(__file__).parents[3] / "shared" / "annotations"


def sample(name, video, query="a dog runs"):
    return Sample(name, video, query, ((1.0, 2.0),), 9.0)


@pytest.mark.parametrize(
    ("video", "source"),
    [
        ("videos/v_uqiMw7tQ1Cc.mp4", "uqiMw7tQ1Cc"),
        ("NUsG9BgSes0_210.0_360.0.mp4", "NUsG9BgSes0"),
        ("4jujhM5qhEc_00:00:39:000_00:01:24:700.mp4", "4jujhM5qhEc"),
        ("v_uqiMw7tQ1Cc_3_9.webm", "uqiMw7tQ1Cc"),
        ("3MSZA.mp4", "3MSZA"),
        ("s36-d27.avi", "s36-d27"),
        ("35468136000@N01_5569049997_9e69f7d13a.mp4", "35468136000@N01_5569049997_9e69f7d13a"),
        ("v_dog.mp4", "v_dog"),
        ("3MSZA_9_3.mp4", "3MSZA_9_3"),  # no cut ends before it starts
        ("cooking_1_2.mp4", "cooking_1_2"),
        ("12345678@N01_5569049997_9069471343.mp4", "12345678@N01_5569049997_9069471343"),
    ],
)
def test_where_a_video_is_from(video, source):
    assert source_id(video) == source


def test_videos_and_queries_that_are_shared():
    train = [sample("1", "v_uqiMw7tQ1Cc.mp4"), sample("2", "b.mp4", "A cat, jumps.")]
    test = [sample("1", "uqiMw7tQ1Cc_0_9.mp4", " a CAT jumps"), sample("2", "c.mp4"), sample("3", "c.mp4", "a bird")]
    found = compare(train, test, "t.jsonl", None)
    assert found.shared == ("uqiMw7tQ1Cc",) and (found.videos, found.queries) == (2, 3)
    assert (found.same_queries, found.same_on_shared, found.copies) == (2, 1, None)
    assert (found.near, found.near_on_shared) == ((), 0)


def test_queries_that_are_nearly_shared(capsys):
    train = [sample("1", "v_uqiMw7tQ1Cc.mp4", "A person opens the red door.")]
    near = [sample("1", "uqiMw7tQ1Cc_0_9.mp4", "the person opens a red door"), sample("2", "c.mp4", "a red door person opens")]
    found = compare(train, [*near, sample("3", "c.mp4", "a person opens the red door"), sample("4", "c.mp4")], "t.jsonl", None)
    assert (found.same_queries, len(found.near), found.near_on_shared) == (1, 2, 1)
    assert found.near[0] == ("the person opens a red door", "a person opens the red door")
    print_overlaps([found])
    assert "the person opens a red door ~ a person opens the red door, a red door" in capsys.readouterr().out


def test_files_are_told_apart_by_their_ends(capsys):
    folder = "/a/long/way/to/the/data/of/all/the/sets"
    paths = [f"{folder}/one/test.jsonl", f"{folder}/two/test.jsonl", f"{folder}/two/tvgbench.jsonl", "test.jsonl"]
    assert short_names(paths) == ["one/test.jsonl", "two/test.jsonl", "tvgbench.jsonl", "test.jsonl"]
    assert short_names([folder, folder]) == ["sets", "sets"]
    print_overlaps([compare([sample("1", "a.mp4")], [sample("1", "b.mp4")], path, None) for path in paths])
    shown = capsys.readouterr().out
    assert all(f" {name} " in shown for name in short_names(paths)) and folder not in shown


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two scenes, and the first one again at another size, rate and quality."""
    folder = tmp_path_factory.mktemp("videos")
    first, second = draw_scene(5), draw_scene(6)
    for name, scene, crf in (("a", first, 20), ("b", second, 20), ("copy", replace(first, width=96, height=80), 35)):
        write_video(scene, folder / f"{name}.mp4", crf)
    return folder


@pytest.mark.slow
def test_copies_are_found_by_their_pictures(videos):
    hashes = {name: video_hash(str(videos / f"{name}.mp4")) for name in ("a", "b", "copy")}
    train = {name: hashes[name] for name in ("a", "b")}
    assert find_copies(train, {"copy": hashes["copy"]}) == [("a", "copy")]
    assert find_copies({"b": hashes["b"]}, {"copy": hashes["copy"]}) == [] == find_copies({}, hashes)


def test_a_video_of_few_pictures_can_be_compared(tmp_path):
    write_video(replace(draw_scene(5), duration=0.3, fps=10.0), tmp_path / "short.mp4")
    found = video_hash(str(tmp_path / "short.mp4"))
    assert found.shape == (8, 64) and (found[2:] == found[-1]).all()


def test_black_pictures_are_like_nothing(videos):
    black = video_hash(str(videos / "a.mp4")) & False
    assert find_copies({"a": black}, {"b": black}) == []


def test_videos_of_one_colour_are_counted(monkeypatch, caplog):
    """They can't be compared, which is not the same as that they are no copies."""
    dark = torch.zeros(FRAMES, 3, 64, 64, dtype=torch.uint8)
    monkeypatch.setattr(audit, "load_video", lambda *_, **__: SimpleNamespace(frames=dark))
    assert not hash_videos([sample("1", "dark.mp4")], 1)["dark.mp4"].any()
    assert "1 of 1 videos show nearly one colour" in caplog.text


def test_the_command(videos, tmp_path, capsys, caplog):
    save_samples([sample("1", str(videos / "a.mp4")), sample("2", str(videos / "gone.mp4"))], tmp_path / "train.jsonl")
    save_samples([sample("1", str(videos / "copy.mp4"))], tmp_path / "test.jsonl")
    arguments = [f"{tmp_path}/train.jsonl", f"{tmp_path}/test.jsonl", "--workers=1", f"--json={tmp_path}/found.json"]
    (alone,) = main(arguments)
    assert alone.shared == () and "not looked at" in capsys.readouterr().out
    (looked,) = main([*arguments, "--frames"])
    assert len(looked.copies) == 1 and "a.mp4" in looked.copies[0][0]
    assert "1 of 2 videos can't be looked at" in caplog.text
    assert json.loads((tmp_path / "found.json").read_text())[0]["test"].endswith("test.jsonl")


@pytest.mark.slow
def test_a_shared_video_is_an_exit_status(tmp_path):
    save_samples([sample("1", "v_uqiMw7tQ1Cc.mp4")], tmp_path / "train.jsonl")
    save_samples([sample("1", "uqiMw7tQ1Cc_0_9.mp4")], tmp_path / "test.jsonl")
    save_samples([sample("1", "b.mp4")], tmp_path / "none.jsonl")
    for train, status in (("train", 1), ("none", 0)):
        command = [python(), "-m", "taro.prepare.audit", f"{tmp_path}/{train}.jsonl", f"{tmp_path}/test.jsonl"]
        assert subprocess.run(command, capture_output=True, check=False).returncode == status


def test_a_video_that_is_none_is_an_error(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(VideoError):
        video_hash(str(tmp_path / "a.mp4"))


@pytest.mark.slow
def test_real_sets_share_what_they_are_made_of():
    """TVGBench takes some of its videos from Charades' test set."""
    if not ANNOTATIONS.exists():
        pytest.skip("the annotation files are not here")
    (found,) = main([str(ANNOTATIONS / "charades_sta_test.jsonl"), str(ANNOTATIONS / "tvgbench.jsonl")])
    assert "OHOFG" in found.shared


@pytest.mark.slow
def test_what_time_r1_was_trained_on_is_not_what_it_is_tested_on(tmp_path):
    """Its 2,500 videos, and the four test sets."""
    if not ANNOTATIONS.exists():
        pytest.skip("the annotation files are not here")
    convert("timer1", [ANNOTATIONS / "timer1_train_2k5.json"], tmp_path / "train.jsonl")
    train = load_samples(tmp_path / "train.jsonl", bad_rows="keep")
    sources = {source_id(sample.video) for sample in train}
    assert len(train) == 2500
    tests = {"charades_sta_test": 1334, "activitynet_val_1": 4475, "qvhighlights_val": 474, "tvgbench": 462}
    for name, videos in tests.items():
        own = {source_id(sample.video) for sample in load_samples(ANNOTATIONS / f"{name}.jsonl", bad_rows="keep")}
        assert len(own) == videos and not own & sources
