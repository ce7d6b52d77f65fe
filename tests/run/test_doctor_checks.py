import pytest
import torch

from taro.models.families import PLACEHOLDERS, Qwen3VL, Qwen25VL
from taro.run.doctor_checks import (
    DIFFERS,
    OK,
    check_blocks,
    check_budget,
    check_grid,
    check_ids,
    check_labels,
    check_log_probs,
    check_placeholders,
    check_positions,
    check_processor,
)
from taro.video.geometry import PatchGeometry
from taro.video.load import Video, VideoSettings

IDS = dict(zip(PLACEHOLDERS, range(10, 15), strict=True))


def test_ids():
    assert check_ids("vLLM", [1, 2, 3], [1, 2, 3]).status == OK
    fault = check_ids("vLLM", [1, 2, 9, 4], [1, 2, 3])
    assert fault.status == DIFFERS and "4 tokens, ours are 3; first at 2: [1, 2, 9, 4] against [1, 2, 3]" in fault.remark
    assert "first at 2: [1, 2] against [1, 2, 3]" in check_ids("vLLM", [1, 2], [1, 2, 3]).remark


@pytest.mark.parametrize(
    ("runs", "family", "status"),
    [
        ([6, 6], Qwen3VL(), OK),
        ([12], Qwen25VL(), OK),
        ([12], Qwen3VL(), DIFFERS),
        ([6], Qwen3VL(), DIFFERS),
        ([6, 6], Qwen25VL(), DIFFERS),
    ],
)
def test_blocks(runs, family, status):
    mask = [False]
    for run in runs:
        mask += [True] * run + [False]
    assert check_blocks("ours", torch.tensor(mask), (2, 4, 6), family, merge=2).status == status


def test_labels():
    times, mark = torch.tensor([0.0, 0.5, 1.0, 1.5]), "<|vision_start|>"
    right = f"<0.2 seconds>{mark} <1.2 seconds>{mark} the 5 seconds"
    assert check_labels("ours", right, times, Qwen3VL(), 2).status == OK
    assert check_labels("ours", mark, times, Qwen25VL(), 2).status == OK
    one = check_labels("ours", f"<1.2 seconds>{mark}", times, Qwen3VL(), 2)
    assert one.status == DIFFERS and "1 of 2 are missing" in one.remark and "lmms-eval#1404" in one.remark
    other = check_labels("ours", right.replace("1.2", "1.0"), times, Qwen3VL(), 2)
    assert other.status == DIFFERS and "1.0 s for 1.2 s" in other.remark
    assert check_labels("ours", right + f"<2.2 seconds>{mark}", times, Qwen3VL(), 2).status == DIFFERS


def test_grid():
    assert check_grid("vLLM", [2, 4, 6], (2, 4, 6)).status == OK and check_grid("vLLM", [2, 4, 8], (2, 4, 6)).status == DIFFERS


def test_positions():
    mask = torch.tensor([False, True, True, True, False, False])
    right = torch.tensor([[0, 1, 3, 5, 6, 7], [0, 1, 1, 1, 6, 7], [0, 1, 1, 1, 6, 7]])
    inside = right.clone()
    inside[:, 4:] = torch.tensor([2, 3])
    assert check_positions(right, right, mask).status == OK
    known = check_positions(right, inside, mask)
    assert known.status == OK and "here at 2 and not 6" in known.remark
    fault = check_positions(inside, inside, mask)
    assert fault.status == DIFFERS and "begins at [2, 2, 2] and not at 6: transformers >= 5.3" in fault.remark
    other = right.clone()
    other[0, 2] = 2
    assert "token 2 of the video" in check_positions(other, right, mask).remark
    skipped = right.clone()
    skipped[:, 5] = 9
    assert check_positions(skipped, right, mask).status == DIFFERS


def test_log_probs():
    ours = -torch.ones(10)
    assert check_log_probs("vLLM", ours + 1e-4, ours, "float32").status == OK
    assert check_log_probs("vLLM", ours + 0.01, ours, "float32").status == DIFFERS
    assert check_log_probs("vLLM", ours + 0.01, ours, "bfloat16").status == OK
    assert check_log_probs("vLLM", ours * float("nan"), ours, "bfloat16").status == DIFFERS


def test_placeholders():
    assert check_placeholders("ours", set(IDS.values()), IDS).status == OK
    fault = check_placeholders("ours", {10, 11, 12, 13}, IDS)
    assert fault.status == DIFFERS and "<|video_pad|> can be drawn" in fault.remark


def test_the_budget_says_what_it_cut():
    video = Video(torch.zeros(8, 3, 56, 84, dtype=torch.uint8), torch.arange(8.0), 1.0, 8.0)
    settings = VideoSettings(fps=1.0, max_frames=8, max_tokens=24)
    cut = check_budget(80, (480, 720), video, settings, 24)
    assert cut.status == OK and "80 pictures of 720 x 480 in 8.0 s, shown 8 of 84 x 56: 24 of at most 24" in cut.remark
    assert "max_tokens" in cut.remark and "max_frames" not in cut.remark
    assert "raise video.max_frames" in check_budget(80, (56, 84), video, VideoSettings(fps=2.0), 24).remark
    assert "raise" not in check_budget(8, (56, 84), video, settings, 24).remark


@pytest.mark.parametrize(
    ("saved", "status"),
    [
        (None, OK),
        ({}, OK),
        ({"patch_size": 14, "merge_size": 2}, OK),
        ({"patch_size": 16}, DIFFERS),
        ({"image_mean": [0.5] * 3}, DIFFERS),
        ({"min_pixels": 3136, "max_pixels": 12845056}, OK),
        ({"size": {"shortest_edge": 3136, "longest_edge": 12845056}}, OK),
        ({"max_pixels": 1000}, DIFFERS),
        ({"size": {"shortest_edge": 5000, "longest_edge": 12845056}}, DIFFERS),
        ({"size": {"shortest_edge": 5000}, "do_resize": False}, OK),
    ],
)
def test_the_saved_processor(saved, status):
    assert check_processor(saved, PatchGeometry(), (8, 3, 56, 84), Qwen25VL()).status == status


def test_sizes_of_a_whole_video():
    """Qwen3-VL's limits are those of all frames together."""
    for least, status in ((8 * 56 * 84, OK), (8 * 56 * 84 + 1, DIFFERS)):
        saved = {"size": {"shortest_edge": least, "longest_edge": 10**7}}
        assert check_processor(saved, PatchGeometry(), (8, 3, 56, 84), Qwen3VL()).status == status
