"""An engine that is handed the policy's weights: rollouts that are begun, and waited for later."""

import threading
from types import SimpleNamespace

import pytest

from taro.rollout import EngineError, SamplingSettings, SyncedEngine

SAMPLING = SamplingSettings()


class Server:
    """Answers with the weights that it has; the prompt `slow` waits, `bad` fails while failures are left."""

    is_policy, stale = False, False

    def __init__(self):
        self.weights, self.failures, self.go_on, self.at_work = None, 0, threading.Event(), False
        self.calls = []

    def generate(self, prompts, sampling):
        self.at_work = True
        if "slow" in prompts:
            assert self.go_on.wait(30)
        self.at_work = False
        if "bad" in prompts and self.failures:
            self.failures -= 1
            raise EngineError("the server is gone")
        return [f"{prompt} by {self.weights}" for prompt in prompts]

    def sync(self, named_parameters):
        assert not self.at_work
        (self.weights,) = named_parameters
        self.calls.append("sync")

    def restart(self):
        self.calls.append("restart")


@pytest.fixture
def policy(monkeypatch):
    monkeypatch.setattr("taro.rollout.engine.reshard", lambda policy: None)
    policy = SimpleNamespace(weights=0)
    policy.named_weights = lambda: [policy.weights]
    return policy


@pytest.fixture
def engine(policy):
    return SyncedEngine(Server(), policy)


def change(engine):
    engine.policy.weights += 1
    engine.weights_changed()


def test_what_is_begun_is_made_by_the_weights_of_its_beginning(engine):
    """It comes back at once, and weights wait for it."""
    assert engine.finish() == []
    engine.begin(["slow", "a"], SAMPLING)
    change(engine)
    threading.Timer(0.05, engine.engine.go_on.set).start()
    assert engine.generate(["b"], SAMPLING) == ["b by 1"]  # as a validation does
    assert engine.finish() == ["slow by 0", "a by 0"] and engine.finish() == []
    engine.begin(["c"], SAMPLING)
    assert engine.finish() == ["c by 1"] and engine.engine.calls == ["sync"] * 2


def test_what_fails_is_made_again_once(engine, monkeypatch):
    engine.engine.failures = 1
    engine.begin(["bad"], SAMPLING)
    change(engine)
    with pytest.warns(UserWarning, match="the server is gone. Once more, with a fresh engine"):
        assert engine.finish() == ["bad by 1"]
    assert engine.engine.calls == ["sync", "restart", "sync"]
    engine.engine.failures = 2
    engine.begin(["bad"], SAMPLING)
    with pytest.warns(UserWarning, match="Once more"), pytest.raises(EngineError, match="the server is gone"):
        engine.finish()
    engine.begin(["bad"], SAMPLING)  # no failure is left
    assert engine.finish() == ["bad by 1"]
    engine.engine.failures = 1
    engine.begin(["bad"], SAMPLING)
    monkeypatch.setattr("taro.rollout.engine.world_size", lambda: 2)
    with pytest.raises(EngineError, match="the server is gone"):
        engine.finish()
