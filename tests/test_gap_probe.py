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
from gap_probe import TOKENS, correct_groups, probe_gaps, shuffle_elsewhere  # noqa: E402

BASE = ROOT / "assets" / "tiny-qwen2.5-vl"
TIMES = torch.arange(40) / 2  # 2 fps, 20 s
OPENING = "<think>\nI need to find the specific moment {query}.\nFrom"  # left alone, the base does not name times
FIRST_SEED = 7_000_000_000_000_000_000  # scenes that neither training nor evaluation draws


@pytest.fixture(scope="module")
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
@pytest.mark.parametrize("tokens", TOKENS)
def test_gap_is_larger_at_the_true_boundaries(pairs, tokens):
    chosen = [pair for pair in pairs if pair.tokens == tokens]
    samples = sorted({pair.sample for pair in chosen})
    assert len(samples) >= 15
    differences = torch.tensor(
        [
            torch.tensor([pair.boundary - pair.elsewhere for pair in chosen if pair.sample == sample]).mean()
            for sample in samples
        ]
    )
    assert differences.mean() > 2 * differences.std() / len(differences) ** 0.5


@pytest.mark.slow
def test_gaps_of_a_sample_are_those_of_its_completions(pairs):
    assert {pair.tokens for pair in pairs} == set(TOKENS)
    assert all(pair.radius == 1.5 for pair in pairs)
    assert any(pair.boundary != pair.elsewhere for pair in pairs)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def moved(permutation):
    return [i for i, source in enumerate(permutation.tolist()) if i != source]


def test_frames_out_of_order_are_refused():
    with pytest.raises(ValueError, match="ascending"):
        shuffle_elsewhere(TIMES.flip(0), [5.0], [5.0], 1.0, seeded(0))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("boundaries", [[5.0], [4.0, 12.0], [6.0, 7.5], [0.0, 19.5], [7.0, 7.0]])
def test_control_moves_as_many_frames_away_from_the_boundaries(boundaries, seed):
    avoid = [*boundaries, 9.0]
    permutation = shuffle_elsewhere(TIMES, torch.tensor(boundaries), torch.tensor(avoid), 1.0, seeded(seed))
    assert sorted(permutation.tolist()) == list(range(40))
    assert all(abs(TIMES[i] - boundary) > 1.0 for i in moved(permutation) for boundary in avoid)
    assert torch.equal(permutation, shuffle_elsewhere(TIMES, boundaries, avoid, 1.0, seeded(seed)))


@pytest.mark.parametrize("boundaries", [[5.0], [4.0, 12.0], [6.0, 7.5], [0.0, 19.5]])
def test_control_reaches_the_window_sizes_of_the_real_one_and_many_places(boundaries):
    size = sum(any(abs(time - b) <= 1.0 for b in boundaries) for time in TIMES.tolist())
    draws = [moved(shuffle_elsewhere(TIMES, boundaries, boundaries, 1.0, seeded(seed))) for seed in range(60)]
    assert max(map(len, draws)) == size
    allowed = {i for i, time in enumerate(TIMES.tolist()) if all(abs(time - b) > 1.0 for b in boundaries)}
    assert len(set().union(*map(set, draws))) > len(allowed) * 0.8


def test_control_without_room_is_none():
    assert shuffle_elsewhere(TIMES, [10.0], [10.0], 5.0, seeded(0)) is None  # 21 frames; 9 and 10 are left
    assert shuffle_elsewhere(TIMES[:4], [10.0, 0.5], [10.0, 0.5], 9.0, seeded(0)) is None
    assert shuffle_elsewhere(TIMES, [10.0], [10.0], 3.0, seeded(0)) is not None  # 13 frames; 14 and 13 are left


@pytest.mark.parametrize("seed", range(20))
def test_control_finds_the_only_place(seed):
    # Windows of 5 frames at 1 s and 4 s, free are the frames 11 to 20 alone: one window fills 11-15, the other 16-20.
    permutation = shuffle_elsewhere(TIMES, [1.0, 4.0], [1.0, 4.0, *(11.25 + i for i in range(10))], 1.0, seeded(seed))
    assert {int(permutation[i]) for i in range(11, 16)} == set(range(11, 16))
    assert {int(permutation[i]) for i in range(16, 21)} == set(range(16, 21))
    assert set(moved(permutation)) <= set(range(11, 21))


@pytest.mark.parametrize("seed", range(20))
def test_control_places_the_longest_window_first(seed):
    # Windows of 3 frames at 0 s and of 5 at 4 s; free are the frames 12 to 16 and 21 to 23.
    taken = [0.0, 2.0, 4.0, 4.5, 9.25, 12.75, *(13.5 + i for i in range(7))]
    permutation = shuffle_elsewhere(TIMES, [0.0, 4.0], taken, 1.0, seeded(seed))
    assert {int(permutation[i]) for i in range(12, 17)} == set(range(12, 17))
    assert set(moved(permutation)) <= {*range(12, 17), *range(21, 24)}
    assert any(i > 16 for i in moved(permutation))


def test_control_of_nothing_moves_nothing():
    assert torch.equal(shuffle_elsewhere(TIMES, [50.0], [5.0], 1.0, seeded(0)), torch.arange(40))
