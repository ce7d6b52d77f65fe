"""What the doctor looks at: each check takes what was read and what is right, and says what it found.

P prompt tokens, F frames, T temporal patches, C tokens of the answer.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from taro.messages import first_names
from taro.models.families import PLACEHOLDERS, Family
from taro.video.geometry import PatchGeometry
from taro.video.load import Video, VideoSettings

OK, DIFFERS, NOT_INSTALLED = "ok", "differs", "not installed"
TOLERANCE = {"float32": 1e-3}  # nats, of the mean over an answer's tokens
TOLERANCE_HALF = 0.05  # the same in 16 bits
LABEL = re.compile(r"<([\d.]+) seconds>(?=<\|vision_start\|>)")

POSITIONS_FAULT = (
    "transformers >= 5.3 lets the text after a Qwen2.5-VL video begin inside of the video (huggingface/transformers#45381)"
)
LABELS_FAULT = (
    "frames that are handed to an engine without their times lose the labels (EvolvingLMMs-Lab/lmms-eval#1404), and where the "
    "model is to find a time its answers mean nothing: give their rate and numbers (video_metadata) along"
)


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table. Filled by a check."""

    check: str
    of: str  # who has read it: ours, transformers, vLLM
    status: Literal["ok", "differs", "not installed"]
    remark: str  # what was found, and what to do


def check_ids(of: str, ids: Sequence[int], ours: Sequence[int]) -> Finding:
    """Token ids of the whole prompt."""
    if list(ids) == list(ours):
        return Finding("prompt ids", of, OK, f"{len(ours)} tokens")
    place = next((i for i, (a, b) in enumerate(zip(ids, ours, strict=False)) if a != b), min(len(ids), len(ours)))
    near = slice(max(0, place - 2), place + 3)
    return Finding(
        "prompt ids",
        of,
        DIFFERS,
        f"{len(ids)} tokens, ours are {len(ours)}; first at {place}: {list(ids[near])} against {list(ours[near])}. Nothing "
        "that is sampled from another prompt can be learned from: are chat template and versions those of the model?",
    )


def check_blocks(of: str, video_mask: Tensor, grid: tuple[int, int, int], family: Family, merge: int) -> Finding:
    """Runs of video tokens, of the mask (P,): one for each temporal patch where the model is told times, else one."""
    is_video, sizes = torch.unique_consecutive(video_mask, return_counts=True)
    found = sizes[is_video].tolist()
    tokens = grid[1] * grid[2] // merge**2
    right = [tokens] * grid[0] if family.labels_times else [tokens * grid[0]]
    if found == right:
        return Finding("video blocks", of, OK, f"{len(found)} of {found[0]} tokens")
    remark = f"{len(found)} with {sum(found)} tokens, {len(right)} with {sum(right)} are needed: the video is not all there, or"
    return Finding("video blocks", of, DIFFERS, f"{remark} is cut in another way")


def check_labels(of: str, text: str, timestamps: Tensor, family: Family, frames_per_patch: int) -> Finding:
    """The time before each block, of the frames' own times (F,): the mean of a temporal patch's first and last."""
    found = LABEL.findall(text)
    if not family.labels_times:
        return Finding("time labels", of, OK, "none, as it should be: time is in the positions")
    times = timestamps.reshape(-1, frames_per_patch)  # (T, frames_per_patch)
    right = [f"{time:.1f}" for time in ((times[:, 0] + times[:, -1]) / 2).tolist()]
    if found == right:
        return Finding("time labels", of, OK, f"{len(right)}: {first_names(right)}")
    if len(found) < len(right):
        return Finding("time labels", of, DIFFERS, f"{len(right) - len(found)} of {len(right)} are missing: {LABELS_FAULT}")
    wrong = [f"{there} s for {here} s" for there, here in zip(found, right, strict=False) if there != here]
    return Finding("time labels", of, DIFFERS, f"{first_names(wrong) or f'{len(found)} for {len(right)}'}: {LABELS_FAULT}")


def check_grid(of: str, grid: Sequence[int], right: Sequence[int]) -> Finding:
    """Patches in time, height and width."""
    if tuple(grid) == tuple(right):
        return Finding("grid", of, OK, " x ".join(map(str, right)))
    remark = f"{tuple(grid)}, of our frames it is {tuple(right)}: they were sampled or resized once more; pass do_resize=False "
    return Finding("grid", of, DIFFERS, f"{remark}and do_sample_frames=False")


def check_positions(positions: Tensor, theirs: Tensor, video_mask: Tensor) -> Finding:
    """The M-RoPE positions (3, P) that the model is given. By Qwen's definition text goes on after the largest so far; up to
    there they are transformers' own."""
    of = "ours"
    end = int(video_mask.nonzero().max()) + 1
    following = torch.arange(positions.shape[1] - end) + int(positions[:, :end].max()) + 1
    if not torch.equal(positions[:, :end], theirs[:, :end]):
        place = int((positions != theirs).any(0).nonzero()[0])
        here, there = positions[:, place].tolist(), theirs[:, place].tolist()
        remark = f"token {place} of the video is at {here}, by transformers at {there}"
        return Finding("positions", of, DIFFERS, f"{remark}: are frame rate and grid the video's?")
    if not torch.equal(positions[:, end:], following.expand(3, -1)):
        fault = f": {POSITIONS_FAULT}" if torch.equal(positions, theirs) else ""
        remark = f"the text after the video begins at {positions[:, end].tolist()} and not at {int(following[0])}{fault}"
        return Finding("positions", of, DIFFERS, f"{remark}; pass position_ids as taro.models.positions makes them")
    if torch.equal(positions, theirs):
        return Finding("positions", of, OK, "as transformers makes them")
    remark = f"by Qwen's definition. Known: {POSITIONS_FAULT}, here at {int(theirs[0, end])} and not {int(following[0])}"
    return Finding("positions", of, OK, f"{remark}; outside of TaRO pass position_ids, too")


def check_log_probs(of: str, log_probs: Tensor, ours: Tensor, dtype: str) -> Finding:
    """Log-probs (C,) of the tokens of one answer."""
    differences = (log_probs - ours).abs()
    mean, allowed = float(differences.mean()), TOLERANCE.get(dtype, TOLERANCE_HALF)
    remark = f"{mean:.1e} nats apart on average, {float(differences.max()):.1e} at most, over {len(ours)} tokens in {dtype}"
    if mean <= allowed:
        return Finding("log-probs", of, OK, remark)
    remark += f"; {allowed:g} is rounding. If all lines above are ok, weights or dtype are others"
    return Finding("log-probs", of, DIFFERS, remark)


def check_placeholders(of: str, banned: Collection[int], placeholders: Mapping[str, int]) -> Finding:
    """Tokens that can't be drawn, by id: all of PLACEHOLDERS must be among them."""
    free = [name for name in PLACEHOLDERS if placeholders[name] not in banned]
    if not free:
        return Finding("placeholders", of, OK, f"{len(PLACEHOLDERS)} can't be drawn")
    remark = f"{first_names(free)} can be drawn, and a completion with a video token ends training later: ban them in sampling"
    return Finding("placeholders", of, DIFFERS, remark)


def check_budget(pictures: int, size: tuple[int, int], video: Video, settings: VideoSettings, tokens: int) -> Finding:
    """What the model is shown of a video of so many pictures of (height, width) pixels. Cutting is no fault."""
    count, _, height, width = video.frames.shape
    before, after = f"{pictures} pictures of {size[1]} x {size[0]}", f"{count} of {width} x {height}"
    remark = f"{before} in {video.duration:.1f} s, shown {after}: {tokens} of at most {settings.max_tokens} tokens"
    if video.fps < 0.95 * settings.fps and pictures > count:
        remark += f"; {video.fps:.2f} frames a second and not {settings.fps:g}: raise video.max_frames to see more"
    if height * width < 0.8 * size[0] * size[1]:
        remark += "; smaller than they are: raise video.max_tokens to see more of each"
    return Finding("token budget", "ours", OK, remark)


def check_processor(
    saved: Mapping[str, Any] | None, geometry: PatchGeometry, frames_shape: Sequence[int], family: Family
) -> Finding:
    """Whether the processor that is saved with the model would leave frames (F, 3, H, W), as training showed them, alone."""

    def finding(status: Literal["ok", "differs"], remark: str) -> Finding:
        return Finding("saved processor", "transformers", status, remark)

    if saved is None:
        return finding(OK, "none is there: other tools need one, copy preprocessor_config.json from the model's source")
    right = {
        "patch_size": geometry.patch_size,
        "merge_size": geometry.merge_size,
        "temporal_patch_size": geometry.temporal_patch_size,
        "image_mean": list(geometry.image_mean),
        "image_std": list(geometry.image_std),
    }
    wrong = [f"{name} {saved[name]}, needs {value}" for name, value in right.items() if saved.get(name, value) != value]
    if wrong:
        return finding(DIFFERS, f"{'; '.join(wrong)}: copy preprocessor_config.json from the model's source")
    size = saved.get("size") or {}
    least = saved.get("min_pixels") or size.get("shortest_edge")
    most = saved.get("max_pixels") or size.get("longest_edge")
    count, _, height, width = frames_shape
    pixels, of = (count * height * width, "video") if family.labels_times else (height * width, "frame")
    if saved.get("do_resize") is False:
        return finding(OK, "it doesn't resize")
    if least is None and most is None:
        return finding(OK, "it states no sizes: other tools resize by transformers' defaults, pass do_resize=False there")
    if (least or 0) <= pixels <= (most or pixels):
        return finding(OK, f"it leaves frames of {width} x {height} as they are")
    return finding(
        DIFFERS,
        f"it resizes: a {of} has {pixels} pixels in training ({width} x {height}) and {least} to {most} by the saved sizes. "
        "TaRO's engines are not concerned; other tools need do_resize=False, or these sizes in the file",
    )
