"""A step with a prompt of each task."""

from dataclasses import replace

import pytest

from taro.data.samples import load_samples, save_samples
from taro.tasks import TASKS

TEXTS = (
    "</think><answer>B, 1.0s to 9.0s</answer>",
    "</think><answer>none</answer>",
    "</think><answer>A, 0.0s to 2.0s, 3.0s to 30.0s</answer>",
)


@pytest.fixture
def mixed(synthetic, tmp_path):
    """A file with a sample of each task; the event of one doesn't occur."""
    own = {
        "multi_span": {"spans": ()},
        "dense": {"extra": {"queries": ["the red square moves left"]}},
        "grounded_qa": {"extra": {"choices": ["to greet", "to leave"], "answer": "B"}},
        "multiple_choice": {"extra": {"choices": ["to greet", "to leave"], "answer": "B"}, "spans": ()},
    }
    samples = load_samples(synthetic / "train.jsonl")
    samples.append(replace(samples[0], id="one more"))
    mixed = [replace(sample, task=task, **own.get(task, {})) for sample, task in zip(samples, TASKS, strict=True)]
    save_samples(mixed, tmp_path / "mixed.jsonl")
    return str(tmp_path / "mixed.jsonl")


def test_a_mixed_batch(fit, arguments, scripted, tiny_builder, steps, mixed):
    scripted(lambda row, seed, number: [*tiny_builder.encode(TEXTS[row]), tiny_builder.eos_id])
    files = [f"--data.{split}_file={mixed}" for split in ("train", "validation")]
    mix = ["--data.prompts_per_step=7", f"--data.task_weights={{{', '.join(f'{task}: 1' for task in TASKS)}}}"]
    rewards = ["--model.task_rewards={grounded_qa: {iou: 1, answer: 0.5}}", "--model.temporal_reward.measured=all"]
    rewards += ["--model.temporal_reward.tokens=response"]
    lengths = ["--model.sampling.max_tokens=400", "--data.grounding.max_prompt_tokens=1024", "--trainer.max_steps=1"]
    rewards += ["--data.grounding.instructions={dense: Answer in JSON.}"]
    validated = ["--trainer.limit_val_batches=1.0", "--trainer.val_check_interval=1"]
    cli = fit([*arguments, *files, *mix, *rewards, *lengths, *validated], steps)
    asked = {one.sample.task: cli.datamodule.builder(training=True).decode(one.prompt.input_ids) for one in steps.batches[0]}
    assert "Answer in JSON." in asked["dense"] and TASKS["dense"].instruction not in asked["dense"]
    assert all(TASKS[task].instruction in asked[task] for task in TASKS if task != "dense")
    (row,), (records,) = steps.metrics, steps.records
    by_task = {task: [one for one in records if one.get("task", "grounding") == task] for task in TASKS}
    assert {len(own) for own in by_task.values()} == {3}
    constructed = {task for task, own in by_task.items() if any(one["constructed"] for one in own)}
    assert constructed == set(TASKS) - {"highlights"}
    gaps = {task for task, own in by_task.items() if any(one["temporal_gap"] is not None for one in own)}
    assert gaps == set(TASKS) - {"multi_span", "multiple_choice"}  # where nothing happens nothing is shuffled
    assert [one["iou"] for one in by_task["multi_span"]] == [0.0, 1.0, 0.0]
    assert [one["iou"] for one in by_task["multiple_choice"]] == [1.0, 0.0, 0.0]
    assert row["tasks/grounded_qa/rewards/answer/mean"] == pytest.approx(1 / 3) and row["tasks/dense/prompts"] == 1
    assert set(by_task["grounded_qa"][0]["rewards"]) == {"iou", "answer", "temporal"}
    assert set(by_task["dense"][0]["rewards"]) == {"format", "timestamp_iou", "temporal"} and row["grad_norm"] > 0
    validation = cli.trainer.callback_metrics
    assert "vtg/mIoU" in validation and {f"vtg/{task}/mIoU" for task in TASKS} <= set(validation)
    assert float(validation["vtg/multi_span/refusal_recall"]) in (0.0, 1.0)
