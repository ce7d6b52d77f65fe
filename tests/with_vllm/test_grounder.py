"""What the demo and notebooks ask with, on a vLLM that they start themselves."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from taro.rollout.start import AskedModel
from taro.view.demo import DemoSettings, start_grounder, write_answer
from taro.view.grounder import Grounder

TINY = str(Path(__file__).parents[2] / "assets" / "tiny-qwen2.5-vl")  # which answers


@pytest.fixture(scope="module")
def grounder():
    with closing(Grounder(TINY, engine="vllm", max_tokens=160)) as grounder:
        yield grounder


def test_it_answers_as_natively_whichever_thread_asks(grounder, video_file, scenes):
    """A server takes any of its threads for a question."""
    native = Grounder(TINY, max_tokens=160)
    assert native.streams and not grounder.streams
    for event in scenes[0].events[:2]:
        expected = native.ask(str(video_file), event.text)
        with ThreadPoolExecutor(1) as thread:
            answer = thread.submit(grounder.ask, str(video_file), event.text).result()
        assert (answer.text, answer.spans, answer.finished) == (expected.text, expected.spans, True)
        for name in ("id", "text", "start", "end"):
            assert [getattr(token, name) for token in answer.tokens] == [getattr(token, name) for token in expected.tokens]
        assert [one.log_prob for one in answer.tokens] == pytest.approx([one.log_prob for one in expected.tokens], abs=5e-4)
        assert grounder.gap(answer).temporal_gap == pytest.approx(native.gap(expected).temporal_gap, abs=1e-5)


def test_a_page_without_a_server(grounder, video_file, scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(AskedModel, "start", lambda self: grounder.engine)
    own = {"video": str(video_file), "query": scenes[0].events[0].text, "output": str(tmp_path / "page.html")}
    settings = DemoSettings(TINY, engine="vllm", shuffle=True, max_tokens=160, **own)
    answer, missing = write_answer(start_grounder(settings), settings)
    assert not missing and answer.gaps and answer.text == grounder.ask(own["video"], own["query"]).text
    assert "with shuffled frames a token of the reasoning is" in Path(settings.output).read_text()
