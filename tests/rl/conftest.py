import lightning as L
import pytest
import torch

from taro.data.examples import TrainingExample
from taro.data.samples import Caption, Sample, load_samples
from taro.rl.group import make_group
from taro.rollout import RolloutGroup

TEXTS = (
    "<think>\nFrom 2.0s to 6.0s, the red square moves left\n</think>\n<answer>2.0s to 6.0s</answer>",
    "<think>no times here, only words</think><answer>2.5s to 6.5s</answer>",
    "nothing of the kind",
)
SHORT, LONG = "</think><answer>2.0s to 9.0s</answer>", "From 1.0s to 9.0s the red square moves left\n" * 2
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


@pytest.fixture
def uneven(scripted, tiny_builder):
    """Completions of very different lengths: the first prompt's are short, the second's long; rewards differ."""
    encode = tiny_builder.encode
    texts = {
        (0, 0): "<think>a" + SHORT,
        (0, 1): "no",
        (0, 2): "</think><answer>0.0s to 12.0s</answer>",
        (1, 0): "<think>" + LONG + "</think><answer>1.0s to 20.0s</answer>",
        (1, 1): "\n" + LONG + SHORT,
        (1, 2): LONG,
    }
    scripted(lambda row, seed, number: [*encode(texts[number, row]), tiny_builder.eos_id])


@pytest.fixture
def answering(scripted, tiny_builder, synthetic):
    """Scripts completions with different reasoning, and the true answer where `right(number)` of the prompt says so, else a
    wrong one; gives the callback that knows what was asked."""
    spans = {sample.query: sample.spans[0] for sample in load_samples(synthetic / "train.jsonl")}
    reasons = ("no", "From 1.0s to 3.0s, the red square moves left", "the blue circle blinks")
    asked = []

    class Ask(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            asked[:] = [example.sample.query for example in batch]

    def install(right):
        def script(row, seed, number):
            start, end = spans[asked[number]] if right(number) else (0.0, 0.1 * row)
            text = f"<think>{reasons[row]}</think><answer>{start}s to {end}s</answer>"
            return [*tiny_builder.encode(text), tiny_builder.eos_id]

        scripted(script)
        return Ask()

    return install
