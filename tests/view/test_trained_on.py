from dataclasses import replace

import pytest
import yaml

from taro.data.samples import save_samples
from taro.evaluation.training_file import find_fit, find_training_file
from taro.view.evaluated import read_evaluation
from taro.view.report import make_report_page
from taro.view.trained_on import training_sections


@pytest.fixture
def trained(write_evaluation, samples, tmp_path):
    """The evaluation of a run's model, which was trained on the videos of some samples, with other queries but one."""
    own = [replace(sample, query=f"other {k}") for k, sample in enumerate(samples[:3])]
    save_samples([*own, replace(samples[1], id="again")], tmp_path / "train.jsonl")
    (tmp_path / "run" / "hf").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text(yaml.dump({"data": {"train_file": str(tmp_path / "train.jsonl")}}))
    return replace(read_evaluation(write_evaluation()), model=str(tmp_path / "run" / "hf"))


def test_the_report_says_what_was_trained_on(trained):
    page, _ = make_report_page([trained], strips=0)
    assert '<th scope="row">videos, by where they are from</th><td>2</td><td>1</td>' in page
    assert '<th scope="row">queries, word for word</th><td>30</td><td>1</td>' in page
    assert '<th scope="row">these about a video that is trained on</th><td></td><td>1</td>' in page
    assert "<td>training samples</td>" in page and "Training samples are those of" in page


def test_where_it_is_not_known(trained, tmp_path):
    assert find_training_file(trained.model) == tmp_path / "train.jsonl"
    assert training_sections(replace(trained, model="Qwen/Qwen2.5-VL-7B-Instruct"), "base") == []
    assert training_sections(replace(trained, samples=[replace(one, video="") for one in trained.samples]), "base") == []
    (tmp_path / "train.jsonl").write_text("{}\n")
    assert "one or more are needed" in training_sections(trained, "base")[0] and find_fit(trained.model) is None
    (tmp_path / "train.jsonl").unlink()
    assert find_training_file(trained.model) is None
