"""A real vLLM server, started as a user starts it. The model's embeddings are not tied: see docs/rollouts.md on CPU servers."""

import copy
import json
import socket
import urllib.request
from dataclasses import replace
from unittest import mock

import lightning as L
import pytest
import torch
from engine_checks import check_ends, check_greedy, check_mismatches, check_stream, check_sync, largest_difference
from server_process import KEY, ServerProcess
from tolerances import LOG_PROBS

from taro.models.prompt import PromptBuilder
from taro.models.qwen_vl import QwenVL
from taro.rl.group import group_log_probs
from taro.rollout import (
    EngineError,
    EngineModel,
    RolloutPrompt,
    SamplingSettings,
    VLLMServerEngine,
    VLLMServerSettings,
)
from taro.synthetic.architecture import TINY_PROMPT, save_random
from taro.synthetic.pretraining import scene_video
from taro.synthetic.world import draw_scene
from taro.video.load import VideoSettings

pytestmark = pytest.mark.slow  # as a whole file: real runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A lively Qwen3-VL (see tests/conftest.py) whose head is its own."""
    folder = tmp_path_factory.mktemp("server") / "qwen3_vl"
    save_random(folder, "qwen3_vl", seed=1)
    config = json.loads((folder / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(config))
    policy = QwenVL.from_pretrained(str(folder))
    assert policy.model.lm_head.weight is not policy.model.get_input_embeddings().weight
    disturb(policy, lambda parameter, noise: 4.0 * parameter if parameter.dim() > 1 else 0.1 * noise)
    policy.save_pretrained(folder)
    return str(folder)


def disturb(policy, change):
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += change(parameter, torch.randn(parameter.shape, generator=generator))
    return policy.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def policy(folder):
    return QwenVL.from_pretrained(folder).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def builder(folder):
    return PromptBuilder(folder, TINY_PROMPT, max_tokens=1024)


@pytest.fixture(scope="module")
def model(builder):
    return EngineModel.of(builder, max_model_len=1024, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def prompts(builder):
    """Videos of different length and shape; the last prompt is longer than vLLM's blocks, 128 tokens on a CPU."""
    prompts = []
    for number, words in enumerate([1, 1, 1, 1, 1, 60]):
        scene = draw_scene(100 + number)
        settings = VideoSettings(fps=0.5 + 0.1 * number, max_frames=6 + 2 * (number % 4), max_tokens=16 + 16 * number)
        prompts.append(builder.build(" ".join([scene.events[0].text] * words), scene_video(scene, settings, builder.geometry)))
    assert len({prompt.video.frames.shape for prompt in prompts}) >= 4 and len(prompts[-1].input_ids) > 260
    return prompts


@pytest.fixture(scope="module", autouse=True)
def starting_server(folder):
    """The tests that come first need none, and it starts meanwhile."""
    server = ServerProcess(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def server(starting_server):
    starting_server.wait()
    return starting_server


@pytest.fixture(scope="module")
def shared_engine(server, model, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("VLLM_API_KEY", KEY)
        weights = tmp_path_factory.mktemp("weights")
        yield VLLMServerEngine(model, VLLMServerSettings(url=server.url, weights="folder", folder=str(weights)))


@pytest.fixture
def engine(shared_engine, policy):
    """With the weights of `policy`."""
    shared_engine.sync(policy.model.named_parameters())
    return shared_engine


def test_no_server(model, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(EngineError, match=rf"no vLLM server answers at {url} .*set model.vllm_server.url"):
        VLLMServerEngine(model, VLLMServerSettings(url=url, weights="folder", folder=str(tmp_path)))


def test_greedy_completions_are_those_of_the_native_engine(engine, policy, builder, prompts):
    check_greedy(engine, policy, builder, prompts)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_are_the_trainers(engine, policy, builder, prompts, temperature):
    path = tuple(builder.encode("<think>\nFrom 1.0s to 3.0s, the red square moves left"))
    prefixes = ((), path, (), path[:3])
    requests = [RolloutPrompt(prompt, prefixes, (2, 3, 2, -5)) for prompt in prompts[:4]]
    groups = engine.generate(requests, SamplingSettings(temperature, max_tokens=len(path) + 8))
    assert largest_difference(policy, prompts[:4], groups, temperature, prefixes) <= LOG_PROBS
    for group in groups:
        for prefix, completion in zip(prefixes, group.completions, strict=True):
            assert tuple(completion[: len(prefix)].tolist()) == prefix and len(prefix) < len(completion)
        assert group.completions[0].tolist() == group.completions[2].tolist()


def test_completions_end_where_the_trainer_says(engine, prompts, monkeypatch):
    check_ends(engine, prompts[0], monkeypatch)


def test_log_probs_follow_a_sync(engine, folder, policy, prompts):
    changed = disturb(QwenVL.from_pretrained(folder), lambda parameter, noise: 0.05 * parameter.abs().mean() * noise)
    ask, kept = engine.server.ask, {"/reset_prefix_cache": {"success": True}}
    patch = mock.patch.object(engine.server, "ask", lambda method, path, *body: kept.get(path) or ask(method, path, *body))
    check_sync(engine, policy, changed, prompts[-2:], LOG_PROBS, patch)


class WeightsOfSteps(L.Callback):
    """The policy as it was when each step began, and how far off what it trains on was sampled from each of those, in nats."""

    def __init__(self):
        self.policies, self.differences = [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.policies.append(copy.deepcopy(module.policy).eval())

    @torch.no_grad()
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        groups = [training.group for training in outputs["groups"]]
        self.differences.append([max(off(policy, group) for group in groups) for policy in self.policies if groups])


def off(policy, group):
    [own] = group_log_probs(policy, [group], temperature=1.0)
    return float((own.log_probs - group.rollout_log_probs)[group.sampled_mask].abs().max())


def test_rollouts_ahead_are_of_the_weights_of_the_step_before(fit, arguments, steps, server, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    to_server = ["weights=folder", f"folder={tmp_path}/weights", f"url={server.url}"]
    run = [*arguments, f"--model.name_or_path={folder}", "--model.engine=vllm_server", "--model.rollouts_ahead=1"]
    run += [f"--model.vllm_server.{setting}" for setting in to_server]
    run += [f"--data.grounding.{name}=960" for name in ("max_prompt_tokens", "evaluation_max_prompt_tokens")]
    short = ["--model.sampling.max_tokens=32", "--curriculum.warmup_epochs=0", "--trainer.max_steps=4"]
    weights = WeightsOfSteps()
    fit([*run, *short, "--model.optimizer.learning_rate=3e-3"], steps, weights)
    assert steps.column("rollout/staleness") == [0.0, 1.0, 1.0, 1.0]
    first, second, third, fourth = weights.differences
    assert first == []  # nothing to train on, and so no update
    assert max(second[:2]) < LOG_PROBS and max(third[:2]) < LOG_PROBS < third[2]
    assert fourth[2] < LOG_PROBS < min(fourth[0], fourth[3])


def test_a_stream_is_continuous(engine, policy, prompts):
    check_stream(engine, policy, prompts, 2, LOG_PROBS)


def count_drawn(url):
    """Tokens that the server has drawn so far, for whomever."""
    lines = urllib.request.urlopen(f"{url}/metrics", timeout=10).read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:generation_tokens_total"))


def test_a_stream_that_is_given_up_leaves_nothing_behind(engine, server, model, prompts, monkeypatch):
    monkeypatch.setattr(engine, "model", replace(model, end_ids=frozenset()))
    requests = [RolloutPrompt(prompts[0], ((9,) * 795,), (0,)), RolloutPrompt(prompts[1], ((),), (0,))]
    before = count_drawn(server.url)
    stream = engine.stream(requests, SamplingSettings(0.0, 800), at_once=2)
    assert next(stream)[0] == 0
    stream.close()
    drawn = count_drawn(server.url)
    assert drawn - before < 700
    engine.generate(requests[:1], SamplingSettings(0.0, 797))
    assert count_drawn(server.url) - drawn < 20


@pytest.mark.parametrize("way", ["kept", "forgotten"])
def test_a_groups_video_is_sent_once(engine, builder, prompts, monkeypatch, way):
    """Or once more for a completion that no longer finds it. The completions are those with the video in each request."""
    path = tuple(builder.encode("<think>\nFrom 1.0s to 3.0s, the red square moves left"))
    requests = [RolloutPrompt(prompt, ((), path, (), path[:3]), (2, 3, 4, -5)) for prompt in prompts[-2:]]
    sampling, ask, sent = SamplingSettings(1.0, len(path) + 8), engine.server.ask, []

    def asked(method, url, body=None, *rest):
        features = (body or {}).get("features")
        if features is not None:
            sent.append(features["kwargs_data"]["image"][0] is not None)
            if way == "forgotten" and not sent[-1]:
                ask("POST", "/reset_mm_cache")
        return ask(method, url, body, *rest)

    monkeypatch.setattr(engine.server, "ask", asked)
    monkeypatch.setattr(engine, "settings", replace(engine.settings, at_once=1))  # one after the other
    assert engine.keeps_videos
    groups = engine.generate(requests, sampling)
    assert sent.count(True) == (2 if way == "kept" else 10) and sent.count(False) == 8
    monkeypatch.setattr(engine, "keeps_videos", False)
    for group, other in zip(groups, engine.generate(requests, sampling), strict=True):
        for one, same, a, b in zip(group.completions, other.completions, group.log_probs, other.log_probs, strict=True):
            assert torch.equal(one, same)
            torch.testing.assert_close(a, b, atol=LOG_PROBS, rtol=0, equal_nan=True)


def test_a_completion_that_is_given_up_is_a_dead_servers(engine, prompts, monkeypatch):
    """A server that is stopped says so of what it is working on, if it says anything."""
    aborted = {"choices": [{"finish_reason": "abort", "token_ids": [5], "logprobs": {"content": [{"logprob": -1.0}]}}]}
    monkeypatch.setattr(engine.server, "ask", lambda *_: aborted)
    with pytest.raises(EngineError, match=r"no vLLM server answers at http://.* \(it gave up a completion in the middle\)"):
        engine.generate([RolloutPrompt(prompts[0], ((),), (0,))], SamplingSettings(1.0, 4))


def test_a_prompt_that_is_read_differently_is_an_error(engine, prompts, monkeypatch):
    check_mismatches(engine, prompts[0], monkeypatch)


def test_what_the_server_says_is_passed_on(engine, model, prompts, monkeypatch):
    request = RolloutPrompt(prompts[0], ((),), (0,))
    too_long = RolloutPrompt(prompts[0], ((9,) * 1100,), (0,))
    with pytest.raises(EngineError, match=r"POST http://.*/inference/v1/generate with 400: .*maximum model length of 1024"):
        engine.generate([too_long], SamplingSettings(1.0, 1101))
    with pytest.raises(EngineError, match="start it with --max-model-len 2048"):
        VLLMServerEngine(replace(model, max_model_len=2048), engine.settings)
    with monkeypatch.context() as patched:
        patched.setattr(engine.server, "settings", replace(engine.settings, timeout=0.01))
        with pytest.raises(EngineError, match=r"took more than 0.01 s .*raise model.vllm_server.timeout"):
            engine.generate([request], SamplingSettings(1.0, 400))
    monkeypatch.delenv("VLLM_API_KEY")
    with pytest.raises(EngineError, match="401") as caught:
        engine.generate([request], SamplingSettings(1.0, 4))
    assert KEY not in str(caught.value) and KEY not in repr(vars(engine.server))


def test_a_server_that_is_killed_and_comes_back(engine, server, policy, prompts, monkeypatch):
    """The last test: it starts a second server."""
    requests = [RolloutPrompt(prompt, ((),), (0,)) for prompt in prompts]
    before = engine.generate(requests, SamplingSettings(0.0, 8))
    stream = engine.stream(requests, SamplingSettings(0.0, 8), at_once=2)
    next(stream)
    server.kill()
    # Of what it worked on it may have said that it fails, or nothing.
    with pytest.raises(EngineError, match=f"no vLLM server answers at {server.url}|POST {server.url}.* with 50"):
        list(stream)
    with pytest.raises(EngineError, match="no vLLM server answers"):
        engine.sync(policy.model.named_parameters())
    with monkeypatch.context() as patched:
        patched.setattr(engine, "settings", replace(engine.settings, timeout=0.0))
        with pytest.raises(EngineError, match="waited for it for 0 s"):
            engine.restart()
    server.start()
    engine.restart()
    with pytest.raises(EngineError, match="sync them first, and after a restart"):
        engine.generate(requests, SamplingSettings(0.0, 8))
    engine.sync(policy.model.named_parameters())
    for one, other in zip(engine.generate(requests, SamplingSettings(0.0, 8)), before, strict=True):
        assert torch.equal(one.completions[0], other.completions[0])
