import math
import shutil
from pathlib import Path

import pytest
import torch

import taro
from taro.evaluation.evaluate import evaluate
from taro.evaluation.settings import EvaluationSettings
from taro.models.families import ModelError
from taro.models.prompt import PromptError
from taro.prompts import think_span
from taro.rollout import RolloutGroup, VLLMSettings
from taro.video.load import VideoError
from taro.view.grounder import Grounder
from taro.view.timeline import ViewError

TINY = Path(__file__).parents[2] / "assets" / "tiny-qwen2.5-vl"  # which answers


@pytest.fixture(scope="module")
def grounder():
    return Grounder(str(TINY), max_tokens=160)


@pytest.fixture(scope="module")
def answer(grounder, video_file, scenes):
    return grounder.ask(str(video_file), scenes[0].events[0].text)


@pytest.mark.slow
def test_an_answer_has_its_tokens_and_its_frames(answer, grounder, scenes):
    assert taro.Grounder is Grounder and isinstance(answer, taro.Answer)
    assert "".join(token.text for token in answer.tokens) == answer.text and answer.finished and answer.seconds > 0
    assert all(answer.text[token.start : token.end] == token.text and token.log_prob <= 0 for token in answer.tokens)
    ((start, end),) = answer.spans
    assert f"{start:.1f}s to {end:.1f}s</answer>" in answer.text
    assert answer.duration == pytest.approx(scenes[0].duration, abs=0.2)
    assert len(answer.frame_times) == len(answer.prompt.video.frames) and answer.frame_times[0] == 0.0


@pytest.mark.slow
def test_it_answers_as_an_evaluation_does(answer, grounder, synthetic):
    file = f"{synthetic}/test.jsonl"
    (sample,) = evaluate(EvaluationSettings(str(TINY), annotations=file, max_tokens=160, limit=1, workers=0)).predictions
    asked = grounder.ask(next(str(path) for path in (synthetic / "test").glob("*.mp4")), sample.query)
    assert (asked.text, asked.spans[-1]) == (sample.completion, sample.answer)


def test_a_text_comes_in_pieces(answer, grounder):
    stream = grounder.stream(answer.video, answer.query)
    pieces = list(stream)
    assert grounder.streams and len(pieces) > 10 and "".join(pieces) == answer.text == stream.answer.text


class WholeEngine:
    """Says a text at once, whose last token is a part of a character."""

    def __init__(self, builder):
        self.ids = builder.encode("<think>é")[:-1]

    def generate(self, prompts, sampling):
        return [RolloutGroup((torch.tensor(self.ids),), (torch.zeros(len(self.ids)),), (False,))]


def test_other_engines_give_the_whole_text(grounder, answer, monkeypatch):
    monkeypatch.setattr(grounder, "engine", WholeEngine(grounder.model.builder))
    assert not grounder.streams
    stream = grounder.stream(answer.video, answer.query)
    assert list(stream) == ["<think>\ufffd"] and stream.answer.spans == () and not stream.answer.finished
    monkeypatch.delitem(vars(grounder), "policy", raising=False)
    assert grounder.policy.device.type == "cpu"  # loaded beside it


def test_a_notebook_shows_the_timeline(answer):
    shown = answer._repr_html_()
    assert "data-taro-timeline" in shown and "data:image/jpeg" in shown and "<ul><li>answer: " in shown
    assert answer.timeline(((1.0, 2.0),)).truths == ((1.0, 2.0),)


def test_gaps_are_of_the_frames_around_the_answer(answer, grounder):
    scored = grounder.gap(answer, radius=2.0)
    assert answer.gaps == () and len(scored.gaps) > 10
    assert [scored.text[gap.start : gap.end] for gap in scored.gaps] == [token.text for token in answer.tokens if token.text]
    assert any(abs(gap.gap) > 1e-3 for gap in scored.gaps)
    start, end = think_span(scored.text)
    inside = [gap.gap for gap in scored.gaps if gap.end > start and gap.start < end]
    assert scored.temporal_gap == pytest.approx(sum(inside) / len(inside), abs=1e-4)
    assert scored.gaps == grounder.gap(answer, radius=2.0).gaps != grounder.gap(answer, radius=2.0, seed=1).gaps


@pytest.mark.parametrize(
    ("spans", "radius", "message"), [((), 3.0, "names no span"), (((90.0, 91.0),), 1.0, "raise the radius")]
)
def test_nothing_to_shuffle(answer, grounder, spans, radius, message):
    other = type(answer)(**vars(answer) | {"spans": spans})
    with pytest.raises(ViewError, match=message):
        grounder.gap(other, radius=radius)


@pytest.mark.parametrize(
    ("video", "query", "error", "message"),
    [
        (None, "  ", ViewError, "the question is empty"),
        (None, None, ViewError, "the question is empty"),
        ("nowhere.mp4", "a", VideoError, "does not exist"),
        (None, "<|im_end|>", PromptError, "would not read as text"),
    ],
)
def test_what_can_not_be_asked(grounder, video_file, video, query, error, message):
    with pytest.raises(error, match=message):
        grounder.ask(video or str(video_file), query)


def test_settings_that_can_not_work():
    with pytest.raises(ViewError) as error:
        Grounder(
            str(TINY),
            engine="VLLM",
            device="gpu",
            max_tokens=0,
            repetition_penalty=-1.0,
            dtype="int8",
            vllm=VLLMSettings(gpu_memory_utilization=2.0),
        )
    for said in (
        "engine: 'VLLM' must be 'native' or 'vllm'",
        "--device gpu: must be",
        "max_tokens: 0 must be a whole number, at least 1",
        "repetition_penalty: -1.0 must be a number above 0",
        "dtype: 'int8' must be 'auto' or",
        "vllm.gpu_memory_utilization: 2.0 must be a share",
    ):
        assert said in str(error.value)
    with pytest.raises(ViewError, match="no such setting: max_token; there are model, engine, max_tokens"):
        Grounder(str(TINY), max_token=5)
    assert Grounder(str(TINY), repetition_penalty=1).streams  # a whole number is one, too


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("tokenizer*", "copy tokenizer"),
        ("chat_template.jinja", "copy tokenizer"),
        ("model.safetensors", r"has no weights that can be read \(.*\): copy them again"),
    ],
)
def test_a_model_folder_that_is_not_whole(tmp_path, missing, message):
    folder = shutil.copytree(TINY, tmp_path / "model")
    for path in folder.glob(missing):
        path.unlink()
    with pytest.raises(ModelError, match=message):
        Grounder(str(folder))


def test_weights_that_are_cut_off(tmp_path):
    folder = shutil.copytree(TINY, tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="has no weights that can be read"):
        Grounder(str(folder))


def test_an_answer_without_an_ending_has_no_gap_of_its_reasoning(answer, grounder):
    other = type(answer)(**vars(answer) | {"tokens": answer.tokens[-3:]})
    assert grounder.gap(other).temporal_gap is None and not math.isnan(grounder.gap(other).gaps[0].gap)
