"""One GRPO step with all of TaRO's passes, the plain way and ours, in one process and in turns:

    python benchmarks/step.py
    python benchmarks/step.py --group 16 --prompt 4000 --size 3b --device cuda --dtype bfloat16 --gradient_checkpointing

`predicted` is what counting tokens says: a phase that handles half the tokens takes half the time; decoding and the optimizer
handle as many on both sides. Seconds are medians over the repeats; memory is the peak above what is held between steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
from plain import PlainWay
from torch import Tensor
from workload import SHAPES, Phases, build_policy, build_prompt, random_completions

from taro.data.examples import TrainingExample
from taro.data.samples import Sample
from taro.models.attention import SHARED_PREFIX
from taro.models.families import FAMILIES
from taro.models.log_probs import compute_log_probs
from taro.models.packing import pack_group
from taro.models.prompt import Prompt
from taro.models.qwen_vl import QwenVL
from taro.models.tower_attention import attend_to_segments
from taro.rl.group import Group, group_log_probs, shuffled_log_probs
from taro.rl.losses import kl_loss, policy_loss
from taro.rl.settings import TemporalRewardSettings
from taro.rollout import NativeEngine, RolloutGroup, RolloutPrompt, SamplingSettings

PHASES = ("video", "prefill", "decode", "shuffled", "reference", "policy forward", "backward", "optimizer")
SENSITIVITY = TemporalRewardSettings()


@dataclass
class Bench:
    """A model, its reference and one prompt."""

    policy: QwenVL
    reference: QwenVL
    prompt: Prompt
    sample: Sample
    group: int
    length: int
    rows: int
    checkpointing: bool
    sensitivity: bool = True

    def __post_init__(self) -> None:
        self.plain = PlainWay(self.policy, self.reference, self.prompt, self.rows)
        self.engine = NativeEngine(self.policy, end_ids=())
        trained = [p for p in self.policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-6)
        self.sizes = (len(self.prompt.input_ids), group_tokens := self.group * self.length)
        self.packed = len(self.prompt.input_ids) + group_tokens
        self.repeated = self.group * (len(self.prompt.input_ids) + self.length)

    def loss(self, log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
        """With arbitrary advantages: what they are costs nothing."""
        advantages = torch.linspace(-1, 1, len(log_probs), device=log_probs.device)
        mask, free = torch.ones_like(log_probs, dtype=torch.bool), torch.zeros_like(advantages, dtype=torch.bool)
        tokens = self.group * self.length
        policy = policy_loss(log_probs, log_probs.detach(), advantages, mask, free, denominator=tokens)
        return policy.loss + 0.01 * kl_loss(log_probs, ref_log_probs, mask, denominator=tokens).loss

    def plain_step(self, phases: Phases) -> None:
        set_attention(self, "sdpa")
        with torch.no_grad():
            with phases.phase("decode", self.group * self.length):
                completions = self.plain.generate(self.group, self.length)
            if self.sensitivity:
                shuffled = self.prompt.video.frames[shuffled_order(self.prompt)]
                with phases.phase("shuffled", 2 * self.repeated):
                    for row in completions.split(1):
                        self.plain.log_probs(self.policy, row)
                        self.plain.log_probs(self.policy, row, shuffled)
            with phases.phase("reference", self.repeated):
                ref = torch.cat([self.plain.log_probs(self.reference, rows) for rows in completions.split(self.rows)])
        self.policy.train(self.checkpointing)
        for rows, ref_rows in zip(completions.split(self.rows), ref.split(self.rows), strict=True):
            tokens = self.repeated * len(rows) // self.group
            with phases.phase("policy forward", tokens):
                loss = self.loss(self.plain.log_probs(self.policy, rows), ref_rows)
            with phases.phase("backward", tokens):
                loss.backward()
        self.policy.eval()
        self.update(phases)

    def our_step(self, phases: Phases) -> None:
        set_attention(self, SHARED_PREFIX)
        with torch.no_grad():
            with phases.phase("decode", self.group * self.length):
                features = self.policy.encode_video(self.prompt.video.frames)
                request = RolloutPrompt(self.prompt, ((),) * self.group, tuple(range(self.group)), features)
                (rollout,) = self.engine.generate([request], SamplingSettings(max_tokens=self.length))
            group = self.packed_group(rollout, features)
            if self.sensitivity:
                with phases.phase("shuffled", self.packed):
                    shuffled_log_probs(self.policy, [group], SENSITIVITY, 1.0)
            with phases.phase("reference", self.packed):
                ref = group_log_probs(self.reference, [group], 1.0)[0].log_probs
        self.policy.train(self.checkpointing)
        with phases.phase("policy forward", self.packed):
            loss = self.loss(group_log_probs(self.policy, [group], 1.0)[0].log_probs, ref)
        with phases.phase("backward", self.packed):
            loss.backward()
        self.policy.eval()
        self.update(phases)

    def packed_group(self, rollout: RolloutGroup, features) -> Group:
        example = TrainingExample(self.sample, self.prompt, prefixes=((),) * self.group)
        packed = pack_group(self.prompt.input_ids, [c.to(self.policy.device) for c in rollout.completions])
        return Group(example, rollout, features, packed, ("",) * self.group, ([],) * self.group)

    def update(self, phases: Phases) -> None:
        with phases.phase("optimizer", 1):
            self.optimizer.step()
            self.optimizer.zero_grad()

    @torch.no_grad()
    def difference(self) -> float:
        """The largest difference of a log-prob between the two ways."""
        completions = torch.stack(random_completions(self.policy, self.group, self.length))
        set_attention(self, "sdpa")
        plain = self.plain.log_probs(self.policy, completions)
        set_attention(self, SHARED_PREFIX)
        none = tuple(torch.zeros(self.length) for _ in range(self.group))
        features = self.policy.encode_video(self.prompt.video.frames)
        group = self.packed_group(RolloutGroup(tuple(completions), none, (True,) * self.group), features)
        return float((plain - compute_log_probs(self.policy, [group.inputs()])[0].log_probs).abs().max())


def set_attention(bench: Bench, name: str) -> None:
    for model in (bench.policy, bench.reference):
        model.model.set_attn_implementation({"text_config": name, "vision_config": "sdpa"})
        if name == SHARED_PREFIX:
            attend_to_segments(model.tower)


def shuffled_order(prompt: Prompt) -> Tensor:
    """(F,) the middle of the video reversed: which frames move costs the plain way nothing."""
    order = torch.arange(len(prompt.video.frames))
    order[len(order) // 2 :] = order[len(order) // 2 :].flip(0)
    return order


def build(arguments: argparse.Namespace) -> Bench:
    policy = build_policy(arguments.size, arguments.family, arguments.device, getattr(torch, arguments.dtype))
    reference = policy.frozen_copy()
    if arguments.gradient_checkpointing:
        policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    prompt = build_prompt(policy, arguments.prompt, arguments.frames)
    seconds = arguments.frames / 2
    sample = Sample(id="a", video="a.mp4", query="q", spans=((0.3 * seconds, 0.7 * seconds),), duration=seconds)
    return Bench(
        policy, reference, prompt, sample, arguments.group, arguments.completion, arguments.rows or arguments.group,
        arguments.gradient_checkpointing, not arguments.without_sensitivity,
    )  # fmt: skip


def measure(bench: Bench, repeats: int, warm_up: bool = True) -> dict[str, dict]:
    """For each way its phases: median seconds, tokens and peak memory. The first round warms up and is left out."""
    steps = {"plain": bench.plain_step, "ours": bench.our_step}
    runs: dict[str, list[Phases]] = {way: [] for way in steps}
    for _ in range(repeats + warm_up):
        for way, step in steps.items():
            with Phases(bench.policy).watching(bench.policy.model, bench.reference.model) as phases:
                step(phases)
            runs[way].append(phases)
    return {way: summarise(measured[warm_up:]) for way, measured in runs.items()}


def summarise(runs: list[Phases]) -> dict:
    names = [name for name in PHASES if name in runs[0].seconds]
    return {
        "phases": {
            name: {
                "seconds": statistics.median(run.seconds[name] for run in runs),
                "tokens": runs[0].tokens[name],
                "peak_gib": max(run.peak[name] for run in runs),
            }
            for name in names
        },
        "seconds": statistics.median(sum(run.seconds.values()) for run in runs),
        "peak_gib": max(max(run.peak.values()) for run in runs),
    }


def compare(result: dict) -> dict:
    """Ratios of each phase, of forward and backward together, and of the whole step, with what tokens predict."""
    plain, ours = result["plain"]["phases"], result["ours"]["phases"]

    def ratio(names: list[str]) -> dict:
        seconds = sum(plain[n]["seconds"] for n in names)
        expected = sum(plain[n]["seconds"] * ours[n]["tokens"] / plain[n]["tokens"] for n in names)
        return {"ratio": seconds / sum(ours[n]["seconds"] for n in names), "predicted": seconds / expected}

    ratios = {name: ratio([name]) for name in plain}
    ratios["policy forward + backward"] = ratio(["policy forward", "backward"])
    ratios["whole step"] = ratio(list(plain))
    return ratios


def sensitivity_share(bench: Bench, result: dict) -> float:
    """What the temporal-sensitivity reward adds to our step: its pass, and the patches that are encoded again for it."""
    ours = result["ours"]["phases"]
    video, own = ours["video"], int(bench.prompt.video_mask.sum())
    again = video["seconds"] * (1 - own / video["tokens"])
    return (ours["shuffled"]["seconds"] + again) / result["ours"]["seconds"]


def table(result: dict, ratios: dict) -> str:
    lines = [f"{'phase':<26}{'plain s':>10}{'ours s':>10}{'plain tok':>11}{'ours tok':>10}{'plain GiB':>11}{'ours GiB':>10}"
             f"{'ratio':>8}{'predicted':>11}"]  # fmt: skip
    for name, values in ratios.items():
        parts = [result[way]["phases"].get(name) for way in ("plain", "ours")]
        if all(parts):
            seconds, tokens, peak = ([part[key] for part in parts] for key in ("seconds", "tokens", "peak_gib"))
            cells = "".join(f"{s:>10.3f}" for s in seconds) + f"{tokens[0]:>11,}{tokens[1]:>10,}"
            cells += f"{peak[0]:>11.2f}{peak[1]:>10.2f}" if any(peak) else " " * 21
        elif name == "whole step":
            cells = "".join(f"{result[way]['seconds']:>10.3f}" for way in ("plain", "ours")) + " " * 21
            cells += f"{result['plain']['peak_gib']:>11.2f}{result['ours']['peak_gib']:>10.2f}"
        else:
            cells = " " * 62
        lines.append(f"{name:<26}{cells}{values['ratio']:>7.2f}x{values['predicted']:>10.2f}x")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--group", type=int, default=8, help="completions (G)")
    arguments.add_argument("--prompt", type=int, default=1200, help="prompt tokens (P), about")
    arguments.add_argument("--completion", type=int, default=96, help="tokens of each completion (C)")
    arguments.add_argument("--frames", type=int, default=64, help="of the video, at 2 a second")
    arguments.add_argument("--size", choices=SHAPES, default="tiny")
    arguments.add_argument("--family", choices=FAMILIES, default="qwen2_5_vl")
    arguments.add_argument("--rows", type=int, default=None, help="sequences in one pass of the plain way; all by default")
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    arguments.add_argument("--gradient_checkpointing", action="store_true")
    arguments.add_argument("--without_sensitivity", action="store_true", help="no temporal-sensitivity reward")
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--json", type=Path, default=None, help="write the figures to this file, too")
    return arguments


def main() -> None:
    arguments = parser().parse_args()
    bench = build(arguments)
    p, tokens = len(bench.prompt.input_ids), bench.group * bench.length
    parameters = sum(parameter.numel() for parameter in bench.policy.parameters()) / 1e6
    print(f"{arguments.family}, {parameters:.1f} M parameters, {arguments.dtype} on {arguments.device}, "
          f"{torch.get_num_threads()} threads; P = {p} ({int(bench.prompt.video_mask.sum())} video), C = {bench.length}, "
          f"G = {bench.group}; P + G C = {p + tokens}, G (P + C) = {bench.repeated}")  # fmt: skip
    print(f"largest difference of a log-prob between the two ways: {bench.difference():.1e}")
    result = measure(bench, arguments.repeats)
    ratios = compare(result)
    print(table(result, ratios))
    if bench.sensitivity:
        result["sensitivity_share"] = sensitivity_share(bench, result)
        print(f"the temporal-sensitivity reward takes {result['sensitivity_share']:.1%} of our step")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"arguments": vars(arguments) | {"json": None}, **result, "ratios": ratios}))


if __name__ == "__main__":
    main()
