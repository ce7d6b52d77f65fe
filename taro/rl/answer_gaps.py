"""How much less likely a model's own answers get when frames are shuffled around the true boundaries, for each set of tokens
that the temporal reward can average over: `eval.py --gap`.

The answers are those of a finished evaluation, as text, and the frames are shuffled as the probe `shuffled_at_boundaries` does
it. One line for each answer in `gap/gap.jsonl` of its folder.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import torch

from taro.data.examples import GroundingExample, TrainingExample
from taro.evaluation.predictions import Prediction, read_predictions
from taro.evaluation.probe_table import GAPS
from taro.evaluation.probes import RADIUS
from taro.evaluation.questions import Questions
from taro.evaluation.settings import EvaluationSettings, resolve
from taro.jsonl import ResumableFolder, Shard, read_folder
from taro.models.prompt import PromptBuilder
from taro.models.qwen_vl import QwenVL
from taro.progress import track_items
from taro.rl.group import group_log_probs, make_group, shuffled_log_probs
from taro.rl.group_rewards import compute_gaps
from taro.rl.settings import TemporalRewardSettings
from taro.rl.temporal_gap import GapTokens
from taro.rollout import RolloutGroup
from taro.rollout.start import load_model
from taro.seeds import stable_seed

SHUFFLE = TemporalRewardSettings(radius=RADIUS)


def measure_gaps(settings: EvaluationSettings) -> None:
    """Of the answers in `settings.output`, those of its shard, whose gap is not there yet.

    Raises:
        ModelError: not a Qwen-VL model.
        ResumeError: the gaps there are those of another configuration.
        RowError: predictions that can't be read.
    """
    benchmark, output = resolve(settings), Path(settings.output)
    questions = Questions.load(settings, Path(benchmark.annotations), benchmark.video_root, evaluating=True)
    answers = {name: one for name, one in read_predictions(read_folder(output)).items() if one.completion}
    about = {"radius": RADIUS, **questions.describe(), "grounding": questions.describe_grounding()}
    folder = ResumableFolder(output / GAPS, about, Shard.parse(settings.shard), GAPS)
    done = folder.read()
    todo = [sample for sample in folder.shard.of(questions.samples) if sample.id in answers and sample.id not in done]
    if not todo:
        return
    policy = load_model(settings.model, settings.device, settings.dtype)
    rows = _measure(policy, questions, iter(questions.examples(todo)), answers)
    folder.append(track_items(rows, f"{benchmark.name}, {GAPS}", len(todo), lambda row: row["gaps"] is None))


def _measure(
    policy: QwenVL, questions: Questions, examples: Iterator[GroundingExample], answers: dict[str, Prediction]
) -> Iterator[dict[str, Any]]:
    for example in examples:
        if example.prompt is not None:
            name = example.sample.id
            gaps = answer_gaps(policy, questions.model.builder, example.to(policy.device), answers[name].completion)
            yield {"id": name, "gaps": gaps}


@torch.no_grad()
def answer_gaps(
    policy: QwenVL, builder: PromptBuilder, example: GroundingExample, text: str
) -> dict[str, float | None] | None:
    """Nats per token by set of tokens, None for a set that the answer has none of; None where no frame is moved.

    Args:
        policy: the model.
        builder: of its prompts.
        example: the question with its prompt.
        text: of the answer; the token that ended it is not counted.
    """
    ids, prompt = torch.tensor(builder.encode(text)), example.prompt
    seed = stable_seed("probe", example.sample.id)
    asked = TrainingExample(**vars(example), prefixes=((),), seeds=(0,), shuffle_seed=seed)
    rollout = RolloutGroup((ids,), (torch.full((len(ids),), math.nan),), (True,))
    group = make_group(asked, rollout, policy.encode_video(prompt.video.frames), builder)
    if not group.moves_frames(SHUFFLE.shuffle):
        return None
    (true,), (shuffled,) = group_log_probs(policy, [group], 1.0), shuffled_log_probs(policy, [group], SHUFFLE, 1.0)
    found = {name: float(compute_gaps(group, true.log_probs, shuffled, name)) for name in get_args(GapTokens)}
    return {name: None if math.isnan(gap) else gap for name, gap in found.items()}
