"""Evaluations and runs as they are on disk, with markup in all that data says; and a browser."""

import json

import pytest

from taro.data.samples import Sample, save_samples
from taro.evaluation.evaluate import make_report
from taro.evaluation.predictions import MISSING_VIDEO, Prediction
from taro.files import write_text
from taro.jsonl import ResumableFolder, write_lines
from view.chromium import CHROMIUM, Chromium

MARKUP = '<script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'">\u2028</script>'


def completion(start, end, said="a person"):
    return f"<think>From {start:.1f}s to {end:.1f}s, {said}</think><answer>{start:.2f}s to {end:.2f}s</answer>"


@pytest.fixture
def markup():
    return MARKUP


@pytest.fixture
def samples(video_file):
    """30 of them; the first ones have a video that is there, the last one's is missing."""
    videos = [str(video_file)] * 3 + ["nowhere.mp4"] * 27
    return [
        Sample(f"s{k}{MARKUP if k == 0 else ''}", video, f"event {k} {MARKUP}", ((k / 2, k / 2 + 5.0),), 20.0)
        for k, video in enumerate(videos)
    ]


@pytest.fixture
def write_evaluation(samples, tmp_path):
    """Makes the folder of an evaluation whose answers are off by `shift` seconds, more and more."""
    save_samples(samples, tmp_path / "samples.jsonl")

    def write(name="base", shift=0.1, finish=True, again=False):
        predictions = []
        if again:
            save_samples(samples, tmp_path / "samples.jsonl")
        for k, sample in enumerate(samples[:-2]):
            start, end = sample.spans[-1] if sample.spans else (k / 2, k / 2 + 5.0)
            text = completion(start + shift * k, end + shift * k, MARKUP)
            predictions.append(Prediction.answered(sample, text, True, 0.1))
        predictions.append(Prediction.answered(samples[-2], f"<think>{MARKUP}", False, 0.1))
        predictions.append(Prediction.failed(samples[-1], MISSING_VIDEO, f"nowhere.mp4 does not exist {MARKUP}"))
        folder = ResumableFolder(
            tmp_path / name, {"dataset": f"Set{MARKUP}", "model": f"{name}{MARKUP}", "samples": {"count": len(samples)}}
        )
        folder.append(one.to_row() for one in predictions)
        if finish:
            about = {"annotations": str(tmp_path / "samples.jsonl"), "video_root": None}
            metrics = about | make_report(samples, predictions, resamples=10).to_json()
            write_text(tmp_path / name / "metrics.json", json.dumps(metrics))
        return tmp_path / name

    return write


def record(id, start, rewards, constructed=False, query="event", said="a person"):
    return {
        "id": id,
        "query": query,
        "spans": [[3.0, 8.0]],
        "completion": completion(start, start + 5, said),
        "answer": [start, start + 5.0],
        "constructed": constructed,
        "finished": True,
        "iou": 0.5,
        "temporal_gap": None if constructed else 0.25,
        "rewards": rewards,
        "reward": rewards["format"] + 2 * rewards["iou"],
        "weight": rewards["format"] - 0.5,
    }


@pytest.fixture
def run_folder(tmp_path):
    """Three steps of two prompts with two completions each; the first prompt is met in each step."""
    folder = tmp_path / "run"
    query = f"event {MARKUP}"
    for step in (1, 2, 3):
        rows = [
            record("always", 3.0 + step, {"format": 1.0, "iou": 0.1 * step}, query=query, said=f"word{step} {MARKUP}"),
            record("always", 9.0, {"format": 1.0, "iou": 0.0}, constructed=True, query=query),
            record(f"once{step}", 5.0, {"format": 0.0, "iou": 0.0}),
            record(f"once{step}", 6.0, {"format": 0.0, "iou": 0.0}),
        ]
        write_lines(rows, folder / "rollouts" / f"step_{step:06d}.jsonl")
    return folder


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    browser = Chromium(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Opens a page from its text."""
    pages = []

    def open_one(page, width=1280):
        path = tmp_path / "opened.html"
        path.write_text(page)
        pages.append(browser.open(path.as_uri(), width))
        pages[-1].wait(f"document.readyState === 'complete' && location.href === {json.dumps(path.as_uri())}")
        return pages[-1]

    yield open_one
    for page in pages:
        page.close()
