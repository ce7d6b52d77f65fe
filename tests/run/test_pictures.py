import csv
import re
from types import SimpleNamespace
from unittest.mock import create_autospec

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from taro.run import pictures, train
from taro.run.pictures import as_markdown
from taro.view.timeline import Timeline, Track


@pytest.mark.slow
def test_a_run_shows_its_groups(arguments, scripted, tmp_path):
    """Every second step of three, and histograms of each; gaps are those that were measured. Another logger gets the numbers,
    of all parts of each step."""
    short = ["--pictures_every=2", "--trainer.max_epochs=1", "--trainer.limit_val_batches=0", "--trainer.logger=CSVLogger"]
    train.main([*arguments, *short, "--model.temporal_reward.measured=all", "--model.optimizer.learning_rate=1e-3"])
    logged = EventAccumulator(str(tmp_path / "run"), {"images": 0, "histograms": 0, "tensors": 0}).Reload()
    for name in ("rollout/IoU", "taro/temporal_gap"):
        assert [event.step for event in logged.Histograms(name)] == [0, 1, 2]
        assert all(0 < event.histogram_value.num <= 6 for event in logged.Histograms(name))
    (text,) = logged.Tensors("rollout/group/text_summary")
    said = text.tensor_proto.string_val[0].decode()
    assert text.step == 1 and all(line.startswith("    ") for line in said.splitlines()) and said.count("</answer>") >= 1
    rewards = [float(reward) for reward in re.findall(r"reward ([\d.-]+)", said)]
    assert len(rewards) == 3 and rewards == sorted(rewards, reverse=True)
    (figure,) = logged.Images("rollout/group")
    assert figure.step == 1 and figure.width > figure.height > 100
    (table,) = (tmp_path / "run").rglob("metrics.csv")
    rows = list(csv.DictReader(table.open()))
    numbers = {name: [float(row[name]) for row in rows if row[name]] for name in rows[0]}
    parts = ("rollout", "shuffled", "reference", "update")
    by_part = [name for part in parts for name in (f"timing_s/{part}", f"memory/{part}/cpu_gib")]
    for name in ["frac_reward_zero_std", "entropy", "kl", "rewards/temporal/mean", "rollout/IoU", "timing_s/step", *by_part]:
        assert len(numbers[name]) == 3, name
    assert numbers["curriculum/constructed_probability"] == [1.0] * 3
    assert all(sum(numbers[f"timing_s/{part}"][step] for part in parts) <= numbers["timing_s/step"][step] for step in range(3))


def test_what_can_not_be_drawn_is_said_once_and_ends_nothing(monkeypatch):
    """Whatever it is: values without a range in a histogram, or a group that no figure can show."""
    logger = create_autospec(TensorBoardLogger, instance=True)
    logger.experiment.add_histogram.side_effect = ValueError("no finite range")
    trainer = SimpleNamespace(loggers=[logger], log_every_n_steps=1, is_global_zero=True)
    monkeypatch.setattr(pictures, "steps_done", lambda trainer: 2)
    group = SimpleNamespace(rewards=SimpleNamespace(total=torch.tensor([0.0, 1.0])), shuffled_log_probs=None)
    outputs = {"groups": [group], "rollouts": [{"iou": 0.5, "temporal_gap": None}]}
    callback = pictures.TrainingPictures(every=1)
    with pytest.warns(UserWarning, match=r"a picture of step 2 can't be drawn \(ValueError: no finite range\)") as said:
        for _ in range(2):
            callback.on_train_batch_end(trainer, None, outputs, None, 0)
    assert len(said) == 1


def test_what_a_model_says_is_no_markup():
    track = Track("#1", None, 0.0, "reward 0.00", "<img src=x>\n# head\n```")
    lines = as_markdown("q\n<b>", Timeline(10.0, ((1.0, 2.0),), (track,))).splitlines()
    assert all(line.startswith("    ") for line in lines) and lines[-1] == "    ```"
