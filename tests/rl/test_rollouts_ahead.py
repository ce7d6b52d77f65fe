"""Training on rollouts that a server makes one step ahead."""

import threading
import time

import lightning as L
import pytest
import torch
from plain_gradients import PLAIN
from shared_fixtures import ENDINGS

from taro.run.checks import ConfigError
from taro.run.cli import parse

pytestmark = pytest.mark.slow  # as a whole file: real runs

AHEAD = ["--model.rollouts_ahead=1", "--model.engine=vllm_server"]
SERVER = ["--model.vllm_server.weights=folder", "--model.vllm_server.folder=nowhere", "--model.optimizer.learning_rate=1e-2"]


class Watch(L.Callback):
    """The policy's weights at the beginning of each step, and the seeds of its batch and of the groups that it trains on."""

    def __init__(self):
        self.weights, self.came, self.trained = [], [], []
        self.seconds = 0.0  # that rollouts take longer than the update
        self.over = {}  # of a prompt's seeds, set when the step that it came in is

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.weights.append(digest(module.policy.named_weights()))
        self.came.append([example.seeds for example in batch])
        self.over |= {seeds: threading.Event() for seeds in self.came[-1]}

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        for seeds in self.came[-1]:
            self.over[seeds].set()
        self.trained.append([training.group.example.seeds for training in outputs["groups"]])


def digest(named_weights):
    return sum(float(value.detach().double().abs().sum()) for _, value in named_weights)


@pytest.fixture
def server(scripted, tiny_builder, monkeypatch):
    """A stand-in, which answers no training prompt before the step that it was begun in has updated the weights."""
    watch, made = Watch(), {}
    endings = [[*tiny_builder.encode(text), tiny_builder.eos_id] for text in ENDINGS]

    def script(row, seed, number):
        return endings[row]  # whose rewards differ

    class Server(scripted.engine):
        is_policy, stale, at_work = False, True, False

        def sync(self, named_parameters):
            assert not self.at_work
            self.weights, self.stale = digest(named_parameters), False

        def generate(self, prompts, sampling):
            groups, training = super().generate(prompts, sampling), bool(prompts) and len(prompts[0].seeds) > 1
            self.at_work = True
            if training:
                made.update({prompt.seeds: self.weights for prompt in prompts})
                assert all(watch.over[prompt.seeds].wait(60) for prompt in prompts)
                time.sleep(watch.seconds)
            self.at_work = False
            for group in groups:
                object.__setattr__(group, "log_probs", tuple(torch.full((len(row),), -1.0) for row in group.completions))
            return groups

    monkeypatch.setattr("taro.rollout.start.VLLMServerEngine", lambda *_: Server(script))
    monkeypatch.setattr("taro.run.checks.vllm_is_installed", lambda: True)
    watch.made = made
    return watch


def test_a_step_trains_on_what_the_weights_of_the_step_before_made(fit, arguments, steps, server):
    """While that step updated them; a validation between two steps waits for it."""
    validated = ["--trainer.limit_val_batches=1.0", "--trainer.val_check_interval=2"]
    fit([*arguments, *PLAIN, *SERVER, *AHEAD, *validated, "--trainer.max_steps=4"], steps, server)
    assert server.trained == [[], *server.came[:-1]] and len(server.trained) == 4
    for step in range(1, 4):
        assert [server.made[seeds] for seeds in server.trained[step]] == [server.weights[step - 1]] * 2
    assert server.weights[0] == server.weights[1] and len(set(server.weights)) == 3
    assert steps.column("rollout/staleness") == [0.0, 1.0, 1.0, 1.0]


def test_a_server_is_left_with_nothing_to_do(fit, arguments, server):
    """The rollouts of the last batch, which nobody trains on, are over when the run is."""
    server.seconds = 2.0
    short = ["--trainer.max_steps=2", "--trainer.limit_val_batches=0"]
    module = fit([*arguments, *PLAIN, *AHEAD, *SERVER, *short], server).model
    assert module.engine.begun.groups.done()


def test_a_run_does_not_go_on_with_rollouts_ahead(fit, arguments, server):
    run = [*arguments, *PLAIN, *SERVER, "--trainer.max_steps=2", "--checkpoint.every_n_steps=1"]
    fit([*run, *AHEAD], server)
    cli = parse([*run, *AHEAD, "--ckpt_path=last", "--trainer.max_steps=3"])
    cli.datamodule.setup("fit")
    with pytest.raises(ConfigError, match=r"model.rollouts_ahead = 1: no checkpoint has .* set it to 0 to go on without"):
        _ = cli.resume_point
    for others in (["--trainer.max_steps=2", *AHEAD], ["--trainer.max_steps=3", AHEAD[1]]):
        cli = parse([*run, "--ckpt_path=last", *others])
        cli.datamodule.setup("fit")
        assert cli.resume_point.step == 2
