"""Samples whose videos are empty files: nothing of them is read."""

import logging
import os
from dataclasses import replace

import pytest

from taro.data.before_run import check_samples, find_missing, look_for_videos
from taro.data.samples import Caption, Sample, SampleError
from taro.run import train

FILES = {"train": "data/train.jsonl", "validation": "data/validation.jsonl", "test": "data/test.jsonl"}


@pytest.fixture
def splits(tmp_path):
    """Five samples of each split, with captions and another video each."""

    def sample(split, number):
        video = tmp_path / f"{split}{number}.mp4"
        video.touch()
        captions = (Caption(0.0, 1.0, "x"),)
        return Sample(str(number), str(video), "a dog", ((1.0, 2.0),), 9.0, captions=captions)

    return {split: [sample(split, number) for number in range(5)] for split in FILES}


def check(samples, video_root="videos", warmup_epochs=1, largest_share=0.2):
    return check_samples(samples, FILES, video_root, warmup_epochs=warmup_epochs, largest_share=largest_share)


def lose(samples, count):
    for sample in samples[:count]:
        os.unlink(sample.video)


def test_nothing_is_said_of_good_samples(splits):
    assert check(splits) == []
    assert check({"train": splits["train"], "validation": splits["validation"]}) == []


@pytest.mark.parametrize("split", FILES)
def test_all_videos_of_a_split_missing(splits, split):
    lose(splits[split], 5)
    with pytest.raises(SampleError) as error:
        check(splits)
    [line] = str(error.value).splitlines()
    assert line.startswith(f"data.{split}_file = data/{split}.jsonl: not one of its 5 videos is there")
    assert f"from videos, so the first should be {splits[split][0].video}; set data.video_root" in line


def test_the_folder_is_that_of_the_file_without_video_root(splits):
    lose(splits["train"], 5)
    with pytest.raises(SampleError, match="Relative paths start from data, "):
        check(splits, video_root=None)


def test_some_videos_missing(splits):
    lose(splits["train"], 1)
    lose(splits["validation"], 2)
    lose(splits["test"], 4)
    first, second, third = check(splits)
    assert first.startswith("data.train_file = data/train.jsonl: 1 of 5 samples have no video")
    assert f"missing: {splits['train'][0].video}; see data.video_root" in first and "failure_limit" not in first
    assert "2 of 5 samples" in second and "failure_limit.largest_share = 0.2 allows: the run will be ended" in second
    assert "4 of 5 samples" in third and third.count(".mp4") == 3 and ", ...;" in third and "failure_limit" not in third


def test_each_file_is_looked_for_once(monkeypatch):
    asked = []
    monkeypatch.setattr(os.path, "exists", lambda path: asked.append(path) or path != "600.mp4")
    videos = [f"{number % 1000}.mp4" for number in range(3000)]
    assert find_missing(videos) == {"600.mp4"}
    assert sorted(asked) == sorted(set(videos))
    [line] = look_for_videos(videos, of="F", folder="D", setting="--video_root")
    assert line == "F: 3 of 3000 samples have no video and will count as failed; missing: 600.mp4; see --video_root"


def test_no_captions_under_a_constructed_warm_up(splits):
    splits["train"] = [replace(sample, captions=()) for sample in splits["train"]]
    assert check(splits, warmup_epochs=0) == []
    with pytest.raises(SampleError, match=r"has captions, and curriculum.warmup_epochs = 2 .*set it to 0"):
        check(splits, warmup_epochs=2)


def test_some_captions_under_a_constructed_warm_up(splits):
    splits["train"][1] = replace(splits["train"][1], captions=())
    assert check(splits, warmup_epochs=0) == []
    [line] = check(splits)
    assert "1 of 5 samples have no captions, the first is 1; in the warm-up (curriculum.warmup_epochs = 1)" in line


def test_all_problems_at_once(splits):
    splits["train"] = [replace(sample, captions=()) for sample in splits["train"]]
    lose(splits["train"] + splits["test"], 10)
    with pytest.raises(SampleError) as error:
        check(splits)
    assert [line[:18] for line in str(error.value).splitlines()] == [
        "can't train:",
        "- data.train_file ",
        "- data.test_file =",
        "- data.train_file ",
    ]


def test_the_same_samples_on_both_sides(splits):
    """Whatever their ids; the same query of another video, or with another answer, is another sample."""
    splits["test"][3] = replace(splits["train"][2], id="other", query=" a dog.")
    splits["test"][4] = replace(splits["train"][2], spans=((1.0, 2.5),))
    [line] = check(splits)
    assert line.startswith("data.train_file = data/train.jsonl and data.test_file = data/test.jsonl: 1 of the 5 samples")
    assert line.endswith("the first: other")


@pytest.mark.slow
def test_train_stops_before_anything_is_written_or_loaded(arguments, synthetic, tmp_path, caplog):
    (tmp_path / "videos").mkdir()
    with pytest.raises(SampleError, match=r"(?s)can't train:.*train_file.*not one of its.*validation_file"):
        train.main([*arguments, f"--data.video_root={tmp_path}/videos", "--model.attention=sdpa"])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_train_says_what_is_odd(arguments, synthetic, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(train, "run", lambda cli, folder, *_: {})
    for name in ("print_summary", "print_next"):
        monkeypatch.setattr(train, name, lambda *_: None)
    with caplog.at_level(logging.WARNING):
        train.main([*arguments, f"--data.validation_file={synthetic}/train.jsonl"])
    [line] = [record.getMessage() for record in caplog.records if record.name == "taro.run.cli"]
    assert "6 of the 6 samples of the latter are in both" in line


def test_tasks_without_constructed_paths(splits):
    """Their samples need no captions; those that can have a path still do."""
    splits["train"] = [replace(sample, task="highlights", captions=()) for sample in splits["train"][:3]] + splits["train"][3:]
    [line] = check(splits)
    assert "3 of 5 samples are of a task without constructed paths (highlights); in the warm-up" in line
    assert check(splits, warmup_epochs=0) == []
    splits["train"][3:] = [replace(sample, captions=()) for sample in splits["train"][3:]]
    with pytest.raises(SampleError, match="not one of its samples has captions"):
        check(splits)
    with pytest.raises(SampleError, match=r"3 of 3 samples are of a task .* asks for such paths; set it to 0"):
        check(splits | {"train": splits["train"][:3]})
