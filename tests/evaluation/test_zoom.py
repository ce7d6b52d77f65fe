import json
from dataclasses import replace

import pytest
import torch

from taro.data.samples import Sample, save_samples
from taro.evaluation.predictions import EvaluationError, Prediction
from taro.evaluation.zoom import choose_part, zoom_in
from taro.rollout import RolloutGroup
from taro.run import eval as command
from taro.synthetic.world import Event, Scene, write_video

SAMPLE = Sample("a", "a.mp4", "a dog runs", ((500.0, 512.0),), 1000.0)


def answered(sample, start, end, reasoning="Something.", seconds=1.0):
    text = f"<think>{reasoning}</think><answer>{start}s to {end}s</answer>"
    return Prediction.answered(sample, text, True, seconds)


@pytest.mark.parametrize(
    ("answer", "duration", "part"),
    [
        ((490.0, 520.0), 1000.0, (440.0, 570.0)),  # 5 % of the video
        ((400.0, 500.0), 1000.0, (300.0, 600.0)),  # the answer's own length
        ((520.0, 490.0), 1000.0, (440.0, 570.0)),
        ((3.2, 9.9), 1000.0, (0.0, 60.0)),
        ((990.0, 996.5), 1000.5, (939.0, 1000.5)),
        ((100.0, 400.0), 1000.0, None),  # most of the video
        ((1200.0, 1300.0), 1000.0, None),
        ((1.0, 2.0), float("nan"), None),
        (None, 1000.0, None),
    ],
)
def test_the_part_around_an_answer(answer, duration, part):
    assert choose_part(answer, duration) == part


def test_the_second_answer_is_put_back_into_the_clock_of_the_whole():
    """A sample may be a clip itself."""
    sample, asked = replace(SAMPLE, clip=(30.0, 1030.0)), []

    def ask(samples):
        asked.extend(samples)
        return (answered(one, 58.5, "73.50", "From 58.5s to 73.50s, 2 dogs.", 2.0) for one in samples)

    first = answered(sample, 490.0, 520.0)
    (found,) = zoom_in([sample], {"a": first}, ask)
    (again,) = asked
    assert (again.clip, again.duration, again.query) == ((470.0, 600.0), 130.0, sample.query)
    assert found.answer == (498.5, 513.5) and found.iou == pytest.approx(12 / 15) and found.seconds == 3.0
    assert found.completion == "<think>From 498.5s to 513.50s, 2 dogs.</think><answer>498.5s to 513.50s</answer>"
    assert (found.first_completion, found.part) == (first.completion, (440.0, 570.0))
    assert found.to_row()["part"] == (440.0, 570.0) and "part" not in first.to_row()


def test_where_the_first_answer_stands():
    """Of another task, most of the video, failed; and where the second can't be read."""
    other = replace(SAMPLE, id="b", task="dense")
    samples = [SAMPLE, other, *(replace(SAMPLE, id=name) for name in "cd")]
    first = {"a": answered(SAMPLE, 490.0, 520.0), "b": answered(other, 490.0, 520.0), "c": answered(samples[2], 0.0, 900.0)}
    first["d"] = Prediction.failed(samples[3], "missing_video", "it is gone")
    asked = []

    def ask(samples):
        asked.extend(one.id for one in samples)
        return (Prediction.answered(one, "nothing", True, 2.0) for one in samples)

    found = {one.id: one for one in zoom_in(samples, first, ask)}
    assert asked == ["a"] and found == first | {"a": replace(first["a"], seconds=3.0)}


class Seer:
    """Answers with the times of the first and the last frame that has much red in it, in the clip's own clock."""

    def __init__(self, builder):
        self.builder, self.frames, self.closed = builder, [], 0

    def close(self):
        self.closed += 1

    def stream(self, prompts, sampling, at_once):
        for number, prompt in enumerate(prompts):
            video = prompt.prompt.video
            red = (video.frames[:, 0].float() - video.frames[:, 1:].float().amax(1)).clamp(min=60).sub(60).sum((1, 2)) > 2000
            self.frames.append((len(video.frames), video.duration))
            times = video.timestamps[red]
            text = f"<answer>{times.min():.2f}s to {times.max():.2f}s</answer>" if len(times) else "nothing"
            ids = torch.tensor([*self.builder.encode(text), self.builder.eos_id])
            yield number, RolloutGroup((ids,), (torch.zeros(len(ids)),), (True,))


@pytest.fixture
def long_video(tmp_path):
    """Six minutes, in which a red square is seen for 13 s."""
    event = Event(200.5, 213.5, "red", "square", "moves left", 28.0, 28.0, 11.0, 4.0)
    write_video(Scene(3, 56, 56, 4.0, 360.0, (event,), (30, 30, 30), None, (0,)), tmp_path / "long.mp4")
    sample = Sample("a", str(tmp_path / "long.mp4"), event.text, ((event.start, event.end),), 360.0)
    save_samples([sample], tmp_path / "long.jsonl")
    return tmp_path / "long.jsonl"


@pytest.mark.slow
def test_the_second_pass_sees_more_of_a_long_video(model, tiny_builder, long_video, tmp_path, monkeypatch):
    """With 64 frames for each pass: 5.6 s apart, then 0.9 s. A stopped evaluation goes on after the pass that is done."""
    engine, started = Seer(tiny_builder), []
    monkeypatch.setattr("taro.rollout.start.start_engine", lambda *_, **__: started.append(1) or engine)
    output = tmp_path / "zoomed"
    arguments = [f"--model={model}", f"--annotations={long_video}", "--workers=0", "--zoom", f"--output={output}"]
    arguments += ["--grounding.video.max_frames=64", "--grounding.video.max_tokens=256", "--grounding.video.fps=2.0"]
    arguments += ["--grounding.evaluation_video=null", "--grounding.prompt={query}"]
    (found,) = command.main(arguments).predictions
    (first,) = command.main([*arguments[:3], f"--output={output}/first_pass", *arguments[5:]]).predictions
    assert started == [1] and engine.closed == 1  # one engine for both, and the first pass is an evaluation that was finished
    assert [count for count, _ in engine.frames] == [64, 64]
    assert engine.frames[0][1] == 360.0 and engine.frames[1][1] == found.part[1] - found.part[0] < 60.0
    assert first.iou < 0.8 < 0.9 < found.iou and found.first_completion == first.completion
    stored = json.loads((output / "metrics.json").read_text())
    assert stored["zoom"] is True and stored["metrics"]["mIoU"] == found.iou
    (output / "predictions.jsonl").unlink()
    assert command.main(arguments).predictions[0].iou == found.iou and len(engine.frames) == 3


def test_not_with_a_probe(model, synthetic):
    with pytest.raises(EvaluationError, match="--zoom and --probe: choose one"):
        command.main([f"--model={model}", f"--annotations={synthetic}/test.jsonl", "--zoom", "--probe=blind"])
