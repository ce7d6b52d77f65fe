"""Which completions of a run become traces."""

import json
from pathlib import Path

import pytest
from recorded import completion, record

from taro.data.samples import Sample, load_samples, save_samples
from taro.data.traces import TraceError, traces_of
from taro.jsonl import write_lines
from taro.prepare.traces import main
from taro.rl.rollout_log import RolloutLogError


def rollout(id, start, iou, reward, **changes):
    return record(id, start, {"format": 1.0, "iou": iou}) | {"iou": iou, "reward": reward} | changes


@pytest.fixture
def run(tmp_path):
    """A run of two steps about three samples."""
    folder = tmp_path / "run"
    spans, extra = ((3.0, 8.0),), {"source": "here"}
    samples = [Sample(id, str(tmp_path / f"{id}.mp4"), "event", spans, 20.0, extra=extra) for id in ("a", "b", "c")]
    save_samples(samples, tmp_path / "train.jsonl", relative_to=tmp_path)
    rows = [
        [rollout("a", 1.0, 0.6, 1.5), rollout("a", 2.0, 0.8, 2.0), rollout("b", 1.0, 0.2, 3.0), rollout("c", 9.0, 0.9, 0.5)],
        [rollout("a", 2.0, 0.8, 2.0), rollout("a", 3.0, 0.9, 2.0), rollout("c", 8.0, 0.9, 0.4)],
    ]
    rows[1] += [
        rollout("b", 2.0, 1.0, 3.0, finished=False),
        rollout("b", 3.0, 1.0, 3.0, constructed=True),
        rollout("b", 4.0, 1.0, 3.0, completion="<answer>3.00s to 8.00s</answer>"),
    ]
    for step, own in enumerate(rows, start=1):
        write_lines(own, folder / "rollouts" / f"step_{step:06d}.jsonl")
    (folder / "config.yaml").write_text(f"data: {{train_file: {tmp_path}/train.jsonl}}\n")
    return folder


@pytest.fixture
def traces(run, tmp_path, capsys):
    """Runs the command; gives the traces of each sample, and what was printed."""

    def take(*flags):
        main([str(run), f"--output={tmp_path}/out.jsonl", *flags])
        samples = load_samples(tmp_path / "out.jsonl")
        assert all(sample.video == str(tmp_path / f"{sample.id}.mp4") for sample in samples)
        assert all(sample.extra["source"] == "here" for sample in samples)
        return {sample.id: traces_of(sample) for sample in samples}, capsys.readouterr().out

    return take


def test_the_best_of_each_sample_are_taken_once(traces):
    """Of equal rewards the later; the same text of two steps is one."""
    found, shown = traces("--per_sample=2")
    assert found == {"a": (completion(3, 8), completion(2, 7)), "c": (completion(9, 14), completion(8, 13))}
    assert "4 of 10 completions, for 2 of 3 samples" in shown and "--stage sft --data.train_file" in shown
    assert "left out, the same text again, or beyond --per_sample 2: 2" in shown
    assert traces("--per_sample=9")[0]["a"] == (completion(3, 8), completion(2, 7), completion(1, 6))
    assert traces()[0] == {"a": (completion(3, 8),), "c": (completion(9, 14),)}


def test_thresholds(traces):
    assert traces("--min_reward=1.6")[0].keys() == {"a"}
    assert traces("--min_iou=0.85", "--per_sample=2")[0]["a"] == (completion(3, 8),)
    assert traces("--min_iou=0")[0]["b"] == (completion(1, 6),)
    assert traces("--constructed")[0]["b"] == (completion(3, 8),)
    found, shown = traces("--any_format")
    assert found["b"] == ("<answer>3.00s to 8.00s</answer>",) and "cut off at max_tokens: 1" in shown


def test_where_none_is_left_it_says_what_there_is(traces, tmp_path):
    with pytest.raises(TraceError) as caught:
        traces("--min_reward=5")
    text = str(caught.value)
    for part in (
        "none of its 10 completions is left; lower what leaves them out",
        "left out, below --min_reward 5: 6",
        "left out, below --min_iou 0.5: 1",
        "left out, with a constructed path (--constructed takes them): 1",
        "left out, without the format (--any_format takes them): 1",
        "rewards: 0.40, 1.62, 2.00, 3.00, 3.00 (lowest, quartiles, highest)",
        "0.8 to 0.9         3       0",
    ):
        assert part in text
    assert not (tmp_path / "out.jsonl").exists()


def test_what_no_trace_can_be_taken_from(run, traces, tmp_path):
    for path in (run / "rollouts").iterdir():
        path.write_text("")
    with pytest.raises(TraceError, match="none of its 0 completions is left"):
        traces()
    write_lines([rollout("a", 1.0, 0.6, 1.5, query="another")], run / "rollouts" / "step_000001.jsonl")
    with pytest.raises(TraceError, match="the sample a of its step 1 is another one now: put it back"):
        traces()
    for path in (run / "rollouts").iterdir():
        path.unlink()
    with pytest.raises(RolloutLogError, match=r"has no rollouts/step_\*.jsonl; .* whose rollouts_every is not 0"):
        traces()
    with pytest.raises(TraceError, match="--per_sample 0: must be at least 1"):
        traces("--per_sample=0")
    with pytest.raises(TraceError, match="is a folder; give the name of a file"):
        main([str(run), f"--output={tmp_path}"])


def test_traces_of_traces_take_their_place(run, traces, tmp_path):
    """As in a run that was trained on a file with traces."""
    rows = [json.loads(line) | {"traces": ["old"]} for line in Path(tmp_path / "train.jsonl").read_text().splitlines()]
    write_lines(rows, tmp_path / "train.jsonl")
    assert traces()[0]["a"] == (completion(3, 8),)
