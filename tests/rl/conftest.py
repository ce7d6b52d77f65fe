import pytest
import torch

from taro.data.examples import TrainingExample
from taro.data.samples import Caption, Sample
from taro.rl.group import make_group
from taro.rollout import RolloutGroup

TEXTS = (
    "<think>\nFrom 2.0s to 6.0s, the red square moves left\n</think>\n<answer>2.0s to 6.0s</answer>",
    "<think>no times here, only words</think><answer>2.5s to 6.5s</answer>",
    "nothing of the kind",
)
SAMPLE = Sample(
    id="one", video="one.mp4", query="x", spans=((2.0, 6.0), (9.0, 30.0)), duration=16.0, captions=(Caption(1, 2, "y"),)
)


@pytest.fixture
def group_of(builder, policy, prompts):
    """Makes a group of the texts, which start with the tokens of `prefixes`."""

    def make(prefixes=((), (), ()), texts=TEXTS):
        prompt = prompts[0]
        example = TrainingExample(SAMPLE, prompt, prefixes=prefixes, seeds=(0,) * len(texts), shuffle_seed=11)
        completions = tuple(torch.tensor([*builder.encode(text), builder.eos_id]) for text in texts)
        rollout = RolloutGroup(completions, completions, (True,) * len(texts))
        return make_group(example, rollout, policy.encode_video(prompt.video.frames), builder)

    return make


@pytest.fixture
def group(group_of):
    return group_of()
