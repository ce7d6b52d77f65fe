import lightning as L
import pytest

from taro.rl.curriculum import CurriculumCallback

PLAIN = ["--model.temporal_reward=null", "--model.loss.kl_coefficient=0"]


@pytest.mark.parametrize(
    ("epochs", "schedule", "expected"),
    [
        (1, "epochs", [1, 1, 1, 1, 0, 0, 0, 0, 0]),
        (2, "epochs", [1, 1, 1, 1, 1, 1, 1, 1, 0]),
        (0.5, "epochs", [1, 1, 0, 0, 0, 0, 0, 0, 0]),
        (0, "epochs", [0] * 9),
        (1, "linear", [1, 0.75, 0.5, 0.25, 0, 0, 0, 0, 0]),
        (2, "linear", [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0]),
        (0, "linear", [0] * 9),
    ],
)
def test_probability_of_each_step(epochs, schedule, expected):
    callback = CurriculumCallback(epochs, schedule)
    assert [callback.probability(step, steps_per_epoch=4) for step in range(9)] == expected


@pytest.mark.slow
def test_training_switches_with_the_epoch(fit, arguments, scripted, steps):
    fit([*arguments, *PLAIN, "--curriculum.warmup_epochs=1"], steps)
    for name in ("taro/constructed_fraction", "curriculum/constructed_probability"):
        assert steps.column(name) == [1, 1, 1, 0, 0, 0]
    for constructed, records in zip([True] * 3 + [False] * 3, steps.records, strict=True):
        assert [record["constructed"] for record in records] == [constructed] * 6
        assert [record["completion"].startswith("<think>\nI need to find") for record in records] == [constructed] * 6


class Probabilities(L.Callback):
    """What the datamodule was told for each step's paths, which are drawn before it starts."""

    def __init__(self):
        self.values = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.values.append(trainer.datamodule.constructed_probability)


@pytest.mark.slow
def test_linear_falls_within_training(fit, arguments, scripted):
    told = Probabilities()
    fit([*arguments, *PLAIN, "--curriculum.schedule=linear", "--curriculum.warmup_epochs=2"], told)
    assert told.values == pytest.approx([1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop", "schedule", "expected"),
    [
        (2, "epochs", [1, 1, 1, 0, 0, 0]),
        (3, "epochs", [1, 1, 1, 0, 0, 0]),  # the end of an epoch
        (1, "linear", [1, 2 / 3, 1 / 3, 0, 0, 0]),
    ],
)
def test_a_resumed_run_goes_on_with_the_curriculum(fit, arguments, scripted, steps, stop, schedule, expected):
    """From its first step on."""
    told = Probabilities()
    arguments = [*arguments, *PLAIN, f"--curriculum.schedule={schedule}", "--trainer.val_check_interval=50"]
    fit([*arguments, f"--trainer.max_steps={stop}"])
    fit([*arguments, "--ckpt_path=last"], told, steps)
    assert told.values == pytest.approx(expected[stop:])
    if schedule == "epochs":
        assert steps.column("taro/constructed_fraction") == expected[stop:]
