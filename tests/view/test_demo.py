from dataclasses import replace
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from taro.data.samples import load_samples, save_samples
from taro.video.file import VideoError
from taro.view.answer import Answer
from taro.view.demo import (
    TINY,
    DemoSettings,
    answer_page,
    answer_part,
    check,
    check_video,
    explain,
    offer_videos,
    start_grounder,
    write_answer,
)
from taro.view.timeline import TokenGap, ViewError

pytestmark = pytest.mark.slow  # as a whole file: a model answers


@pytest.fixture
def alone(video_file, scenes, tmp_path):
    """Settings without a server."""
    query = scenes[0].events[0].text
    return DemoSettings(video=str(video_file), query=query, output=str(tmp_path / "page.html"), max_tokens=160)


def test_an_answer_as_a_page_moves_its_player(alone, open_page):
    answer, missing = write_answer(start_grounder(alone), replace(alone, shuffle=True, radius=2.0))
    assert not missing
    page = Path(alone.output).read_text()
    assert answer.gaps and "with shuffled frames a token of the reasoning is" in page
    shown, (start, end) = open_page(page, width=390), answer.spans[0]
    shown.wait("document.querySelector('video').readyState >= 1")
    assert not shown.run("document.querySelector('#unplayable').checkVisibility()")
    shown.click(".bar")
    assert shown.run("document.querySelector('video').currentTime") == start
    shown.run("[...document.querySelectorAll('.taro-text .time')].at(-1).click()")
    assert shown.run("document.querySelector('video').currentTime") == end
    assert shown.run("document.querySelectorAll('.taro-text span[title*=shuffled]').length") > 10
    assert not shown.run("document.documentElement.scrollWidth > innerWidth")
    assert shown.violations() == {} == shown.violations("dark")


@pytest.mark.parametrize(("change", "message"), [({"max_tokens": 8}, "names no span"), ({"radius": 0.01}, "raise the radius")])
def test_an_answer_is_written_even_where_nothing_can_be_shuffled(alone, change, message):
    settings = replace(alone, shuffle=True, **change)
    answer, missing = write_answer(start_grounder(settings), settings)
    page = Path(alone.output).read_text()
    assert message in missing and not answer.gaps
    assert f"not asked with shuffled frames: {missing.partition(': ')[2][:20]}" in unescape(page)


@pytest.mark.parametrize(
    ("gap", "likely"), [(0.251, "0.25 nats less likely"), (-1.0, "1.00 nats more likely"), (-0.004, "as likely")]
)
def test_how_much_less_likely_the_reasoning_is(gap, likely):
    video = SimpleNamespace(duration=20.0, frames=torch.zeros(2, 3, 16, 16, dtype=torch.uint8), timestamps=torch.zeros(2))
    answer = Answer("v.mp4", "q", "<think>", (), (), True, 0.1, SimpleNamespace(video=video), temporal_gap=gap)
    assert f"a token of the reasoning is {likely} in the mean" in answer_part(answer)


def test_what_is_asked_and_said_is_text(alone, open_page, markup, tmp_path):
    answer = start_grounder(alone).ask(alone.video, alone.query)
    (tmp_path / "old.avi").write_bytes(b"no browser plays it")
    said = replace(answer, query=markup, text=markup, gaps=(TokenGap(1.0, 0, 5),), spans=(), video=str(tmp_path / "old.avi"))
    page = answer_page(said)
    assert markup not in page and "no span can be read in it" in page
    shown = open_page(page)
    assert shown.run("document.title").startswith("<script>")
    shown.wait("document.querySelector('#unplayable').checkVisibility()")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": None}, "--query are missing"),
        ({"query": None, "output": None}, "--query and --output are missing"),
        ({"video": "nowhere.mp4"}, "nowhere.mp4: does not exist"),
        ({"video": None, "query": None, "output": None, "shuffle": True}, "--shuffle is for --output"),
        ({"max_minutes": 0.1}, "minutes long, 0.1 are allowed: cut out a part of it, or raise --max_minutes"),
    ],
)
def test_settings_that_can_not_work(alone, change, message):
    with pytest.raises((ViewError, VideoError), match=message):
        check(replace(alone, **change))


def test_settings_that_work(alone, monkeypatch):
    check(alone)
    monkeypatch.setattr("taro.view.demo.TINY", Path("nowhere"))
    check(replace(alone, model="some"))
    with pytest.raises(ViewError, match="--model: name one; the tiny model is in a checkout only"):
        check(alone)
    assert TINY.is_dir()


def test_a_problem_of_a_file_does_not_say_where_it_lies(tmp_path):
    (tmp_path / "fake.mp4").write_text("no video")
    with pytest.raises(VideoError) as error:
        check_video(str(tmp_path / "fake.mp4"), 10.0)
    assert explain(error.value).startswith("fake.mp4: cannot be decoded") and str(tmp_path) not in explain(error.value)


def test_videos_that_are_offered(synthetic, tmp_path):
    (tmp_path / "synthetic").mkdir()
    offered = offer_videos(DemoSettings(), tmp_path / "synthetic")
    assert len({one.video for one in offered}) == 3 and all(Path(one.video).is_file() for one in offered)
    samples = load_samples(synthetic / "train.jsonl")
    gone, clip = replace(samples[0], video="gone.mp4"), replace(samples[1], clip=(0.0, samples[1].duration))
    settings = DemoSettings(annotations=str(tmp_path / "samples.jsonl"))
    save_samples([gone, clip, *samples[2:]], tmp_path / "samples.jsonl")
    own = offer_videos(settings, tmp_path)
    assert [one.query for one in own] == [one.query for one in samples[2:]]
    assert all(Path(one.video).is_relative_to(tmp_path) for one in own)
    assert len(list(tmp_path.glob("*/*.mp4"))) == 3 + len({one.video for one in samples[2:]})  # each once
    (tmp_path / "fake.mp4").write_text("no video")
    other, fake = replace(gone, id="other"), replace(gone, id="fake", video=str(tmp_path / "fake.mp4"))
    save_samples([gone, other, clip, fake, samples[2]], tmp_path / "samples.jsonl")
    with pytest.raises(ViewError) as error:
        offer_videos(replace(settings, max_minutes=0.01), tmp_path)
    assert str(error.value).endswith(
        "none of its videos can be offered: 2 are not there: name their folder with --video_root; 1 are clips of longer "
        "videos, which are not cut out here; 1 can't be read; 1 are longer than --max_minutes"
    )
