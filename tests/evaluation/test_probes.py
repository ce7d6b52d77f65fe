import re
from dataclasses import replace
from typing import get_args

import pytest
import torch

from taro.data.samples import Sample
from taro.evaluation.predictions import EvaluationError
from taro.evaluation.probes import PROBES, SHIFT, Probe, find_change, read_probes
from taro.models.families import Qwen3VL, Qwen25VL
from taro.video.load import Video

FRAMES = torch.arange(40).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).to(torch.uint8)
VIDEO = Video(FRAMES, torch.arange(40, dtype=torch.float64) / 2, 2.0, 20.0)
SAMPLE = Sample("a", "a.mp4", "a dog runs", ((5.0, 12.0),), 20.0)
NEAR = {*range(7, 14), *range(21, 28)}  # 3.5 to 6.5 s and 10.5 to 13.5 s


def order(name, sample=SAMPLE):
    changed = PROBES[name](VIDEO, sample)
    assert changed.frames.shape == VIDEO.frames.shape and changed.frames.dtype == torch.uint8
    assert torch.equal(changed.timestamps, VIDEO.timestamps)
    return changed.frames[:, 0, 0, 0].tolist()


def moved(name, sample=SAMPLE):
    return {place for place, frame in enumerate(order(name, sample)) if frame != place}


def test_every_name_has_a_probe():
    assert tuple(PROBES) == get_args(Probe)


def test_nothing_or_one_frame_is_left_to_see():
    assert set(order("blind")) == {128}
    assert order("one_frame") == [20] * 40


def test_the_order_of_the_frames_changes():
    assert order("reversed") == list(range(39, -1, -1))
    assert sorted(order("shuffled")) == list(range(40)) != order("shuffled")


def test_frames_move_where_the_name_says():
    assert moved("shuffled_at_boundaries") <= NEAR and len(moved("shuffled_at_boundaries")) > 7
    assert not moved("shuffled_elsewhere") & NEAR and len(moved("shuffled_elsewhere")) > 7
    assert moved("shuffled_inside") <= set(range(10, 25)) and len(moved("shuffled_inside")) > 7


def test_without_a_place_elsewhere_the_video_stays():
    spans = tuple((time, time + 2.0) for time in (2.0, 6.0, 10.0, 14.0))
    assert not moved("shuffled_elsewhere", Sample("a", "a.mp4", "a dog runs", spans, 20.0))


@pytest.mark.parametrize("name", ["shuffled", "shuffled_inside"])
def test_a_sample_always_sees_the_same_video(name):
    assert order(name) == order(name) != order(name, Sample("b", "a.mp4", "a dog runs", ((5.0, 12.0),), 20.0))


def test_several_names():
    assert read_probes("shuffled,blind,shuffled") == ("shuffled", "blind") and read_probes(None) == ()
    assert read_probes("blind, reversed,") == ("blind", "reversed")
    for none in ("", " , "):
        with pytest.raises(EvaluationError, match=f"--probe '{none}': names none; allowed: blind, one_frame"):
            read_probes(none)
    with pytest.raises(EvaluationError, match="there is no backwards; allowed: blind, one_frame, reversed"):
        read_probes("blind,backwards,")


def test_labels_move_and_frames_do_not():
    changed = find_change("shifted_labels", Qwen3VL())(VIDEO, SAMPLE)
    assert changed.frames is VIDEO.frames and changed.fps == VIDEO.fps and changed.duration == VIDEO.duration
    assert torch.equal(changed.timestamps, VIDEO.timestamps + SHIFT)


def test_a_model_without_labels_has_no_probe_of_them(builder):
    """The prompt would be the same. That of the others has the shifted times, and in every other place the same tokens."""
    geometry = builder.geometry
    video = replace(VIDEO, frames=torch.zeros(40, 3, geometry.factor, geometry.factor, dtype=torch.uint8))
    whole, shifted = (builder.build("x", part) for part in (video, PROBES["shifted_labels"](video, SAMPLE)))
    if not builder.family.labels_times:
        assert torch.equal(whole.input_ids, shifted.input_ids) and torch.equal(whole.position_ids, shifted.position_ids)
        with pytest.raises(EvaluationError, match=r"--probe shifted_labels: a qwen2_5_vl model.* allowed for qwen3_vl"):
            find_change("shifted_labels", builder.family)
    else:
        texts = [builder.tokenizer.decode(prompt.input_ids) for prompt in (whole, shifted)]
        times = [[float(time) for time in re.findall(r"<([\d.]+) seconds>", text)] for text in texts]
        assert len(times[0]) == 20 and times[1] == pytest.approx([time + SHIFT for time in times[0]])
        assert len({re.sub(r"<[\d.]+ seconds>", "", text) for text in texts}) == 1
    assert find_change("reversed", Qwen25VL()) is PROBES["reversed"] and find_change(None, Qwen25VL()) is None
