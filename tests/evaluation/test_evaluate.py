import json
from dataclasses import replace

import pytest
import torch

from taro.data.samples import load_samples, save_samples
from taro.evaluation.answer_only import OFTEN, ONCE, START
from taro.evaluation.blind import TRAINING
from taro.evaluation.predictions import EvaluationError, load_predictions
from taro.evaluation.probe_table import read_probe_table
from taro.jsonl import read_config
from taro.rollout import RolloutGroup
from taro.run import eval as command


class Engine:
    """Answers with what it sees: whether frames differ, and the seed of a draw. It counts the prompts."""

    def __init__(self, builder):
        self.builder, self.asked = builder, 0

    def close(self):
        pass

    def stream(self, prompts, sampling, at_once):
        for number, prompt in enumerate(prompts):
            self.asked += 1
            frames = prompt.prompt.video.frames
            end = 4.0 if (frames == frames[0]).all() else 9.0
            rows = []
            for seed, prefix in zip(prompt.seeds, prompt.prefixes, strict=True):
                begin = seed % 3 if sampling.temperature else 0
                text = f"{begin}s to {end}s</answer>" if prefix else f"<think>{'a ' * 30}</think><answer>0s to {end}s</answer>"
                rows.append(torch.tensor([*prefix, *self.builder.encode(text), self.builder.eos_id]))
            yield number, RolloutGroup(tuple(rows), (torch.zeros(1),) * len(rows), (True,) * len(rows))


@pytest.fixture
def engines(tiny_builder, monkeypatch):
    """Those that were started."""
    started = []
    monkeypatch.setattr("taro.rollout.start.start_engine", lambda *_, **__: started.append(Engine(tiny_builder)) or started[-1])
    return started


@pytest.fixture
def evaluate(model, synthetic, tmp_path):
    def run(*arguments):
        own = [f"--model={model}", f"--annotations={synthetic}/train.jsonl", f"--output={tmp_path}/out"]
        return command.main([*own, "--workers=0", "--limit=3", *arguments])

    return run


def test_several_probes_are_asked_beside_the_unchanged_videos(evaluate, engines, tmp_path):
    """With one engine, each kind in a folder as an evaluation of its own leaves it, and nothing twice."""
    output, plain = tmp_path / "out", evaluate()
    assert engines[0].asked == len(plain.predictions) == 3
    found = evaluate("--probe=blind,reversed")
    assert found.predictions == plain.predictions and [one.asked for one in engines] == [3, 6]  # what is there is kept
    ends = {name: {one.answer[1] for one in load_predictions(output / name)} for name in ("", "blind", "reversed")}
    assert ends == {"": {9.0}, "blind": {4.0}, "reversed": {9.0}}
    assert json.loads((output / "blind" / "metrics.json").read_text())["probe"] == "blind"
    assert [row.name for row in read_probe_table(output).probes] == ["as they are", "blind", "reversed"]
    evaluate("--probe=blind,one_frame,reversed")
    assert [one.asked for one in engines] == [3, 6, 3]
    alone = tmp_path / "alone"
    evaluate("--probe=blind", f"--output={alone}")
    assert read_config(alone) == read_config(output / "blind") and not (alone / "blind").exists()


def test_answers_without_reasoning_at_equal_tokens(evaluate, engines, tmp_path):
    output = tmp_path / "out"
    whole = evaluate("--answer_only").predictions
    once, often = (load_predictions(output / name) for name in (ONCE, OFTEN))
    count = read_config(output / OFTEN)["median_of"]
    assert count == whole[0].tokens // once[0].tokens > 1
    assert once[0].completion == f"{START}0s to 9.0s</answer>" and once[0].answer == (0.0, 9.0)
    assert {one.tokens for one in often} == {count * once[0].tokens} and {one.answer[1] for one in often} == {9.0}
    assert len({one.answer[0] for one in often}) > 1 and engines[0].asked == 9
    assert [row.answers for row in read_probe_table(output).ways] == [1, 1, count]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--probe=blind,shufled"], r"--probe blind,shufled: there is no shufled; did you mean shuffled\?; allowed: blind,"),
        (["--probe=blind,shuffled", "--zoom"], "--zoom and --probe: choose one"),
        (["--gap", "--zoom"], "--zoom and --gap: choose one"),
        (["--gap", "--answer_only", "--output=null"], "--gap and --answer_only needs --output"),
        (["--probe=blind,reversed", "--output=null"], "--probe blind,reversed needs --output"),
        (["--fit=gone.jsonl"], "--fit gone.jsonl: no such samples file"),
        (["--answer_only", "--shard=0/2"], "--answer_only and --shard: choose one"),
        (["--probe=blind,shifted_labels"], "--probe shifted_labels: a qwen2_5_vl model"),
    ],
)
def test_what_can_not_be_asked(evaluate, engines, arguments, message):
    with pytest.raises(EvaluationError, match=message):
        evaluate(*arguments)
    assert not engines


def test_training_samples_are_fitted_on(evaluate, engines, synthetic, model, tmp_path):
    """Those that are named, or else those of the run whose model it is."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "hf").symlink_to(model)
    assert evaluate().beside.fit is None
    own = [f"--model={tmp_path}/run/hf", f"--output={tmp_path}/own"]
    for name in ("train", "test"):
        (tmp_path / "run" / "config.yaml").write_text(f"data: {{train_file: {synthetic}/{name}.jsonl}}")
        found = evaluate(*own)
        stored = json.loads((tmp_path / "own" / "metrics.json").read_text())
        assert stored["fit"] == found.beside.fit == f"{synthetic}/{name}.jsonl" and stored["blind"][0]["fitted"] == TRAINING
    assert evaluate(*own, f"--fit={synthetic}/train.jsonl").beside.fit == f"{synthetic}/train.jsonl"


def test_reasoning_is_compared_for_questions_about_one_span(evaluate, synthetic, tmp_path):
    save_samples([replace(one, task="multi_span") for one in load_samples(synthetic / "train.jsonl")], tmp_path / "rows.jsonl")
    with pytest.raises(EvaluationError, match="--answer_only is for questions about one span, there are some of multi_span"):
        evaluate("--answer_only", f"--annotations={tmp_path}/rows.jsonl")


def test_gaps_are_measured_once(evaluate, engines, tmp_path, monkeypatch):
    """With the model's own weights, of all answers, and shown."""
    evaluate("--gap")
    rows = [json.loads(line) for line in (tmp_path / "out" / "gap" / "gap.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and all(row["gaps"]["response"] is not None for row in rows)
    assert [row.tokens for row in read_probe_table(tmp_path / "out").gaps][:2] == ["response", "think"]
    monkeypatch.setattr("taro.rl.answer_gaps.load_model", None)  # nothing is left to be measured
    evaluate("--gap")
