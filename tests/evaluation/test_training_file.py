from dataclasses import replace

import pytest

from taro.data.samples import Sample, SampleError, save_samples
from taro.evaluation.training_file import Fit, find_fit, load_fit

SAMPLE = Sample("1", "a.mp4", "a dog", ((0.0, 5.0),), 10.0)


def test_what_asks_for_one_span_is_fitted_on(tmp_path):
    other = replace(SAMPLE, id="2", task="multi_span")
    save_samples([SAMPLE, other], tmp_path / "both.jsonl")
    save_samples([other], tmp_path / "none.jsonl")
    assert [sample.id for sample in load_fit(tmp_path / "both.jsonl").samples] == ["1"]
    with pytest.raises(SampleError, match="got no sample that asks for one span; --fit needs"):
        load_fit(tmp_path / "none.jsonl")


def test_a_training_file_that_can_not_be_used_is_logged(tmp_path, caplog):
    (tmp_path / "hf").mkdir()
    (tmp_path / "config.yaml").write_text(f"data: {{train_file: {tmp_path}/own.jsonl}}")
    assert find_fit("Qwen/Qwen2.5-VL-7B-Instruct") is find_fit(f"{tmp_path}/hf") is None and not caplog.text
    (tmp_path / "own.jsonl").write_text("{}\n")
    assert find_fit(f"{tmp_path}/hf") is None and "are not fitted on training samples" in caplog.text
    for name in ("own", "named"):
        save_samples([SAMPLE], tmp_path / f"{name}.jsonl")
    assert isinstance(own := find_fit(f"{tmp_path}/hf", "gone.jsonl"), Fit) and own.file == f"{tmp_path}/own.jsonl"
    assert find_fit(f"{tmp_path}/hf", f"{tmp_path}/named.jsonl").file == f"{tmp_path}/named.jsonl"
