"""Evaluations and runs as they are on disk, with markup in all that data says; and a browser."""

import json

import pytest
from recorded import MARKUP, completion

from taro.data.samples import Sample, save_samples
from taro.evaluation.evaluate import make_report
from taro.evaluation.predictions import MISSING_VIDEO, Prediction
from taro.files import write_text
from taro.jsonl import ResumableFolder
from view.chromium import CHROMIUM, Chromium


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
