"""One group of a model on one axis, as a picture and as a page:

    python benchmarks/timeline.py --output docs/pictures/timeline

samples a group for each of the first samples, takes the one whose rewards differ most, scores it on the true video and on one
whose frames are shuffled around the true boundaries, and writes `.png` and `.html`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from taro.data.dataset import GroundingDataset
from taro.data.examples import TrainingExample
from taro.data.samples import load_samples
from taro.models.prompt import PromptBuilder
from taro.models.qwen_vl import QwenVL
from taro.models.settings import GroundingSettings
from taro.rl.group import Group, group_log_probs, make_group, shuffled_log_probs
from taro.rl.group_rewards import GroupRewards, compute_gaps, reward_group
from taro.rl.settings import AdvantageSettings, TemporalRewardSettings
from taro.rollout import NativeEngine, RolloutPrompt, SamplingSettings
from taro.seeds import stable_seed
from taro.view.figure import draw_timeline
from taro.view.frames import load_strip
from taro.view.group import group_timeline
from taro.view.html import escape, make_page, timeline_html, write_page
from taro.view.timeline import Timeline

TEMPORAL = TemporalRewardSettings(radius=1.5, tokens="timestamps", measured="all")
MOST = 2.0 + TEMPORAL.bonus  # format, timestamp IoU, bonus


@torch.no_grad()
def sample_groups(model: str, annotations: str, limit: int, size: int) -> tuple[QwenVL, list[Group]]:
    """Groups of completions at temperature 1."""
    settings = (GroundingSettings.load(model) or GroundingSettings()).for_evaluation()
    builder = PromptBuilder(model, settings.prompt, settings.max_prompt_tokens)
    policy = QwenVL.from_pretrained(model).eval()
    dataset = GroundingDataset(load_samples(annotations, limit=limit), builder, settings)
    examples = [example for example in map(dataset.__getitem__, range(len(dataset))) if example.prompt is not None]
    requests = []
    for example in examples:
        seeds = tuple(stable_seed("picture", example.sample.id, g) for g in range(size))
        requests.append(RolloutPrompt(example.prompt, ((),) * size, seeds, policy.encode_video(example.prompt.video.frames)))
    rollouts = NativeEngine(policy, builder.end_ids).generate(requests, SamplingSettings(max_tokens=160))
    rows = zip(examples, requests, rollouts, strict=True)
    return policy, [
        make_group(TrainingExample(**vars(example), prefixes=((),) * size), rollout, request.features, builder)
        for example, request, rollout in rows
    ]


@torch.no_grad()
def score_group(policy: QwenVL, group: Group) -> tuple[GroupRewards, torch.Tensor, torch.Tensor]:
    """Its rewards, and its log-probs (G, C) on the true and on the shuffled video."""
    log_probs = group_log_probs(policy, [group], 1.0)[0].log_probs
    shuffled = shuffled_log_probs(policy, [group], TEMPORAL, 1.0)[0]
    gaps = compute_gaps(group, log_probs, shuffled, TEMPORAL.tokens)
    return reward_group(group, gaps, TEMPORAL, AdvantageSettings()), log_probs, shuffled


def make_timeline(model: str, annotations: str, limit: int, size: int) -> tuple[Timeline, str]:
    """The timeline of the group whose rewards differ most, and its query."""
    policy, groups = sample_groups(model, annotations, limit, size)
    group = max(groups, key=lambda one: float(reward_group(one, None, TEMPORAL, AdvantageSettings()).total.std()))
    rewards, *log_probs = score_group(policy, group)
    sample = group.example.sample
    return group_timeline(group, rewards, MOST, *log_probs, strip=load_strip(sample.video, sample.clip)), sample.query


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="assets/tiny-qwen2.5-vl", help="folder or hub name")
    parser.add_argument("--annotations", default="data/synthetic/test.jsonl", help="samples file")
    parser.add_argument("--limit", type=int, default=12, help="samples that a group is made of")
    parser.add_argument("--group", type=int, default=6, help="completions")
    parser.add_argument("--output", type=Path, default=Path("timeline"), help="path without the suffix")
    args = parser.parse_args()
    timeline, query = make_timeline(args.model, args.annotations, args.limit, args.group)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    draw_timeline(timeline, query).savefig(f"{args.output}.png", dpi=110)
    write_page(Path(f"{args.output}.html"), make_page(query, f"<h1>{escape(query)}</h1>{timeline_html(timeline)}", {}))
    print(f"{args.output}.png and {args.output}.html: {query}")


if __name__ == "__main__":
    main()
