"""The life of a vLLM engine on a GPU, with a stand-in for vLLM: what a real one does is tested in tests/with_vllm."""

import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import distributed
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from taro.models.weights import whole_weights
from taro.rollout import EngineError, EngineModel, RolloutPrompt, SamplingSettings, VLLMEngine, VLLMSettings
from taro.rollout.vllm import _renew_buffers
from taro.rollout.vllm_prompts import Drawn
from taro.video.geometry import PatchGeometry

MODEL = EngineModel("folder", None, None, frozenset({1}), (2,), 64, "bfloat16", "cuda")


class FakeLLM:
    """Writes down what is asked of it."""

    def __init__(self):
        self.calls = []
        self.llm_engine = SimpleNamespace(
            reset_mm_cache=self.note("reset_mm_cache"),
            reset_encoder_cache=self.note("reset_encoder_cache"),
            engine_core=SimpleNamespace(shutdown=self.note("shutdown")),
        )

    def note(self, name):
        return lambda *args, **kwargs: self.calls.append(name) or True

    def collective_rpc(self, method, kwargs):
        self.calls.append((method, {name: tensor.tolist() for name, tensor in kwargs["weights_iterator"]}))

    def wake_up(self, tags):
        self.calls.append(("wake_up", *tags))

    def __getattr__(self, name):
        return self.note(name)


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.setattr(VLLMEngine, "_start", lambda self: setattr(self, "llm", FakeLLM()))
    return VLLMEngine(MODEL, VLLMSettings())


WEIGHTS = [("a", torch.nn.Parameter(torch.full((2,), 1 + 2**-10)))]  # 1 in bfloat16, which the engine computes in
SYNCED = [("reload_weights", {"a": [1.0, 1.0]}), "reset_prefix_cache", "reset_mm_cache", "reset_encoder_cache"]
REQUEST = [RolloutPrompt(None, ((),), (0,))]


def test_a_sync_hands_over_the_weights_and_empties_the_caches(engine):
    engine.sync(WEIGHTS)
    assert engine.llm.calls == SYNCED
    engine.llm.reset_prefix_cache = lambda: False
    with pytest.raises(EngineError, match="its prefix cache can't be emptied"):
        engine.sync(WEIGHTS)


def test_after_a_sleep_only_a_sync_makes_it_usable(engine):
    engine.sleep()
    engine.sleep()
    assert engine.llm.calls == ["sleep"]
    with pytest.raises(EngineError, match="sync them after it slept"):
        engine.generate(REQUEST, SamplingSettings())
    engine.sync(WEIGHTS)
    reloaded, *emptied = SYNCED
    woken = [("wake_up", "weights"), reloaded, ("wake_up", "kv_cache"), *emptied]
    assert engine.llm.calls == ["sleep", *woken] and not engine.stale
    engine.sync(WEIGHTS)
    assert engine.llm.calls == ["sleep", *woken, *SYNCED]


def test_the_thread_that_renders_gets_what_is_on_the_cpu(engine, monkeypatch):
    """A thread has streams of its own, which don't wait for the frames that are made in those of another."""

    class NotingPrompt:
        def to(self, device):
            moves.append((device, threading.current_thread() is threading.main_thread()))
            return "on the CPU"

    def read(prompt, whole):
        return {"read": prompt, "by": threading.current_thread()}

    moves, asked = [], []
    engine.reader, engine.llm.llm_engine.abort_request = SimpleNamespace(read=read), None
    monkeypatch.setattr(engine, "_ask", lambda prompt, rendered, _: asked.append(rendered) or ["0"])
    monkeypatch.setattr(engine, "_collect", lambda _: [("0", Drawn([5], [-1.0], True))])
    (group,) = engine.generate([RolloutPrompt(NotingPrompt(), ((),), (0,))], SamplingSettings())
    assert group.completions[0].tolist() == [5] and moves == [("cpu", True)]
    assert asked[0]["read"] == "on the CPU" and asked[0]["by"] is not threading.main_thread()


def test_an_engine_that_began_with_dummy_weights_waits_for_a_sync(engine):
    engine = VLLMEngine(MODEL, VLLMSettings(load_format="dummy"))
    with pytest.raises(EngineError, match=r"sync them after .*, or began with dummy ones"):
        engine.generate(REQUEST, SamplingSettings())
    engine.sync(WEIGHTS)
    assert engine.llm.calls == SYNCED and not engine.stale


def test_buffers_that_dummy_weights_have_overwritten():
    """vLLM's norm of pixels, x / 255 - mean over std, comes with no sync. Of others nothing is known."""
    geometry = PatchGeometry(14, 2, 2, (0.5, 0.4, 0.3), (0.2, 0.25, 0.5))
    model = torch.nn.Module()
    _renew_buffers(geometry, model)
    model.visual = torch.nn.Module()
    model.visual.input_norm = norm = torch.nn.Module()
    norm.register_buffer("weight", torch.zeros(3))
    norm.register_buffer("bias", torch.zeros(3))
    model.layer = torch.nn.ModuleDict({"attn": torch.nn.Module()})
    model.layer["attn"].register_buffer("_k_scale", torch.ones(()))
    _renew_buffers(geometry, model)
    pixels = torch.rand(5, 3) * 255
    expected = (pixels / 255 - torch.tensor(geometry.image_mean)) / torch.tensor(geometry.image_std)
    torch.testing.assert_close(pixels * norm.weight + norm.bias, expected)
    model.register_buffer("scale", torch.ones(()))
    with pytest.raises(RuntimeError, match="dummy weights take the place of scale, too: set load_format to auto"):
        _renew_buffers(geometry, model)


def test_it_stays_awake_where_that_is_asked_for_and_on_a_cpu(engine):
    for engine.settings, engine.model in ((VLLMSettings(sleep=False), MODEL), (VLLMSettings(), replace(MODEL, device="cpu"))):
        engine.sleep()
        assert engine.llm.calls == [] and not engine.stale


@pytest.mark.slow
def test_a_fresh_engine_has_no_weights_yet(engine, monkeypatch):
    old = engine.llm
    engine.restart()
    assert old.calls == ["shutdown"] and engine.llm is not old
    with pytest.raises(EngineError, match="sync them after it slept or was restarted"):
        engine.generate(REQUEST, SamplingSettings())
    monkeypatch.setattr("taro.rollout.vllm.world_size", lambda: 2)
    with pytest.raises(EngineError, match="can't be replaced while other ranks go on"):
        engine.restart()


def test_a_sync_that_fails_is_an_engine_error(engine):
    def broken():
        raise RuntimeError("out of memory")
        yield

    with pytest.raises(EngineError, match="vLLM failed to take over the weights: RuntimeError: out of memory"):
        engine.sync(broken())


def test_sharded_parameters_are_handed_over_whole(process_group, monkeypatch):
    """In the engine's precision, which they are cast to before they are gathered."""
    sent, full_tensor = [], DTensor.full_tensor
    monkeypatch.setattr(DTensor, "full_tensor", lambda self: sent.append(self.dtype) or full_tensor(self))
    value = torch.rand(3, 2)
    mesh = distributed.init_device_mesh("cpu", (1,))
    sharded = torch.nn.Parameter(distribute_tensor(value, mesh, [Shard(0)]))
    for dtype in (torch.float32, torch.bfloat16):
        ((name, whole),) = whole_weights([("a", sharded)], dtype)
        assert name == "a" and type(whole) is torch.Tensor and not whole.requires_grad
        assert whole.dtype == dtype and torch.equal(whole, value.to(dtype))
    assert sent == [torch.float32, torch.bfloat16]
