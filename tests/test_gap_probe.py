"""Where the tiny base model reasons with times, shuffling frames at the true boundaries costs more than shuffling as many
elsewhere."""

import sys
from pathlib import Path

import pytest
import torch

from taro.data.examples import GroundingExample
from taro.models.prompt import PromptBuilder
from taro.models.qwen_vl import QwenVL
from taro.models.settings import GroundingSettings
from taro.rollout import NativeEngine
from taro.synthetic.pretraining import scene_video
from taro.synthetic.world import draw_scene, scene_samples

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
from gap_probe import TOKENS, correct_groups, probe_gaps  # noqa: E402

BASE = ROOT / "assets" / "tiny-qwen2.5-vl"
OPENING = "<think>\nI need to find the specific moment {query}.\nFrom"  # left alone, the base does not name times
FIRST_SEED = 7_000_000_000_000_000_000  # scenes that neither training nor evaluation draws


@pytest.fixture
def pairs():
    settings = GroundingSettings.load(BASE)
    builder = PromptBuilder(str(BASE), settings.prompt, settings.max_prompt_tokens)
    policy = QwenVL.from_pretrained(str(BASE)).eval()
    examples = []
    for seed in range(FIRST_SEED, FIRST_SEED + 64):
        scene = draw_scene(seed)
        sample = scene_samples(scene, f"{seed}.mp4")[0]
        video = scene_video(scene, settings.video, builder.geometry)
        examples.append(GroundingExample(sample, builder.build(sample.query, video)))
    groups = correct_groups(policy, builder, NativeEngine(policy, builder.end_ids), examples, group_size=4, opening=OPENING)
    return probe_gaps(policy, groups, radius=1.5)


@pytest.mark.slow
def test_gaps_are_larger_at_the_true_boundaries(pairs):
    """Whichever tokens of a completion are measured."""
    assert {pair.tokens for pair in pairs} == set(TOKENS) and {pair.radius for pair in pairs} == {1.5}
    for tokens in TOKENS:
        by_sample = {}
        for pair in pairs:
            if pair.tokens == tokens:
                by_sample.setdefault(pair.sample, []).append(pair.boundary - pair.elsewhere)
        assert len(by_sample) >= 15, tokens
        differences = torch.tensor([torch.tensor(own).mean() for own in by_sample.values()])
        assert differences.mean() > 2 * differences.std() / len(differences) ** 0.5, tokens
