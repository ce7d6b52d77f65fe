import itertools
from dataclasses import replace
from importlib.metadata import version
from types import SimpleNamespace

import pytest
import torch

from taro.data.samples import Sample, load_samples
from taro.evaluation.answers import still_to_ask
from taro.evaluation.questions import Questions, describe_model, describe_packages, describe_samples
from taro.models.settings import GroundingSettings
from taro.rollout import RolloutGroup, SamplingSettings
from taro.rollout.start import AskedModel
from taro.synthetic.architecture import TINY_PROMPT
from taro.video.load import VideoSettings

SAMPLES = [Sample("0", "a/v.mp4", "q", ((0.0, 1.0),), 20.0), Sample("1", "a/w.mp4", "r", ((0.0, 1.0),), 20.0)]


class Engine:
    """Says each seed of each prompt."""

    def __init__(self, builder):
        self.builder, self.closed = builder, 0

    def close(self):
        self.closed += 1

    def stream(self, prompts, sampling, at_once):
        for number, prompt in enumerate(prompts):
            texts = [f"<think>a</think><answer>{seed}s to 9s</answer>" for seed in prompt.seeds]
            completions = tuple(torch.tensor([*self.builder.encode(text), self.builder.eos_id]) for text in texts)
            yield number, RolloutGroup(completions, (torch.zeros(1),) * len(texts), (True,) * len(texts))


def test_samples_without_a_video_come_first_and_need_no_engine(synthetic, tiny_builder, tmp_path, monkeypatch):
    samples = load_samples(synthetic / "train.jsonl")
    samples[2:4] = [replace(sample, video=str(tmp_path / "gone.mp4")) for sample in samples[2:4]]
    started = []
    monkeypatch.setattr("taro.rollout.start.start_engine", lambda *_, **__: started.append(1) or Engine(tiny_builder))
    settings = SimpleNamespace(engine="native", batch_size=1, workers=0, max_tokens=8, device="cpu", dtype="auto", vllm=None)
    grounding = GroundingSettings(TINY_PROMPT, VideoSettings(fps=0.5, max_tokens=16), 1024)
    sampling, file = SamplingSettings(0.0, 8), synthetic / "train.jsonl"
    questions = Questions(settings, file, None, samples, AskedModel(settings, grounding, tiny_builder, sampling))
    found = questions.ask(samples, "test", seeds=lambda _: (1, 2))
    lost = list(itertools.islice(found, 2))
    questions.close()  # nothing yet
    assert [group[0].id for group in lost] == [sample.id for sample in samples[2:4]] and not started
    assert [one.failure for group in lost for one in group] == ["missing_video"] * 2
    assert lost[0][0].reason == f"{tmp_path}/gone.mp4 does not exist"
    rest = list(found)
    assert [group[0].id for group in rest] == [sample.id for sample in samples[:2] + samples[4:]] and started == [1]
    assert all([one.answer for one in group] == [(1.0, 9.0), (2.0, 9.0)] for group in rest)
    questions.close()
    assert questions.engine.closed == 1
    (tmp_path / "gone.mp4").touch()
    failures = {samples[1].id: "unreadable_video", samples[2].id: "missing_video", samples[4].id: None}
    assert still_to_ask(samples[:5], failures) == [samples[0], samples[2], samples[3]]
    (tmp_path / "gone.mp4").unlink()
    assert still_to_ask(samples[:5], failures) == [samples[0], samples[3]]


@pytest.mark.parametrize(
    "change", [{"id": "2"}, {"query": "s"}, {"spans": ((0.0, 2.0),)}, {"clip": (1.0, 21.0)}, {"video": "x"}]
)
def test_other_samples_differ(change):
    assert describe_samples(SAMPLES) != describe_samples([SAMPLES[0], replace(SAMPLES[1], **change)])
    assert describe_samples(SAMPLES)["count"] == 2


def test_videos_may_be_elsewhere():
    moved = [replace(sample, video=sample.video.replace("a/", "/b/c/")) for sample in SAMPLES]
    assert describe_samples(SAMPLES) == describe_samples(moved)


def test_a_model_is_told_by_its_files(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"1234")
    (tmp_path / "tokenizer.json").write_text("a")
    (tmp_path / "README.md").write_text("a")
    (tmp_path / "taro.json").write_text("a")
    before = describe_model(str(tmp_path), None)
    assert before.keys() == {"model.safetensors", "tokenizer.json"} and before["model.safetensors"].startswith("4 bytes, ")
    for name in ("README.md", "taro.json", "tokenizer.json"):
        (tmp_path / name).write_text("b")
        assert (describe_model(str(tmp_path), None) != before) == (name == "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("a")
    assert describe_model(str(tmp_path), None) == before
    (tmp_path / "model.safetensors").write_bytes(b"12345")
    assert describe_model(str(tmp_path), None) != before


def test_packages_are_told_by_their_modules():
    found = describe_packages("yaml", "nobody_has_this")
    assert found == {"yaml": version("PyYAML"), "nobody_has_this": None}


def test_a_hub_model_is_told_by_its_commit():
    assert describe_model("Some/Model", SimpleNamespace(_commit_hash="abc")) == {"commit": "abc"}
