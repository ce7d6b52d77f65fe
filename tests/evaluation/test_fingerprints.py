from dataclasses import replace
from importlib.metadata import version
from types import SimpleNamespace

import pytest

from taro.data.samples import Sample
from taro.evaluation.fingerprints import describe_model, describe_packages, describe_samples

SAMPLES = [Sample("0", "a/v.mp4", "q", ((0.0, 1.0),), 20.0), Sample("1", "a/w.mp4", "r", ((0.0, 1.0),), 20.0)]


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
