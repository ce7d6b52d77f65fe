"""Tests with a real vLLM: `make test-vllm`. Elsewhere they are not collected."""

import gc
import importlib.util
import os

import pytest
import torch

from taro.models.prompt import PromptBuilder
from taro.rollout import EngineModel, VLLMEngine
from taro.synthetic.architecture import TINY_PROMPT
from taro.synthetic.pretraining import scene_video
from taro.synthetic.world import draw_scene
from taro.video.load import VideoSettings

collect_ignore_glob = [] if importlib.util.find_spec("vllm") else ["test_*.py"]
os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_collection_modifyitems(items):
    """A worker takes all tests that share an engine, or all of a file."""
    for item in items:
        if "shared_engine" in item.fixturenames and "model_folder" in item.fixturenames:
            group = f"engine {item.callspec.params['family']}"
        else:
            group = item.path.name
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def engine_model(model_folder):
    builder = PromptBuilder(model_folder, TINY_PROMPT)
    if builder.family.recurrent:
        pytest.skip("vLLM's recurrent layers refuse float32 on a CPU: see test_recurrent.py")
    return EngineModel.of(builder, max_model_len=1024, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def shared_engine(engine_model):
    engine = VLLMEngine(engine_model)
    yield engine
    engine.close()


@pytest.fixture
def engine(shared_engine, policy):
    """With the weights of `policy`. An engine of another test that is collected only now takes the process groups along."""
    from vllm.distributed.parallel_state import model_parallel_is_initialized

    gc.collect()
    if not model_parallel_is_initialized():
        shared_engine.restart()
    shared_engine.sync(policy.model.named_parameters())
    return shared_engine


@pytest.fixture(scope="session")
def many_prompts(builder):
    """20 prompts with videos of different length and shape."""
    prompts = []
    for number in range(20):
        scene = draw_scene(100 + number)
        settings = VideoSettings(fps=0.5 + 0.1 * number, max_frames=6 + 2 * (number % 7), max_tokens=16 + 12 * number)
        prompts.append(builder.build(scene.events[0].text, scene_video(scene, settings, builder.geometry)))
    assert len({prompt.video.frames.shape for prompt in prompts}) >= 8
    return prompts


@pytest.fixture(scope="session")
def long_prompts(builder):
    """Of several of vLLM's blocks: 128 tokens each on a CPU, and only whole ones are kept for later requests."""
    prompts = []
    for number in range(3):
        scene = draw_scene(200 + number)
        video = scene_video(scene, VideoSettings(fps=1.0, max_frames=12, max_tokens=100), builder.geometry)
        prompts.append(builder.build(" ".join([scene.events[0].text] * 60), video))
    assert all(len(prompt.input_ids) > 260 for prompt in prompts)
    return prompts


@pytest.fixture
def changed_policy(own_policy):
    """Other weights than `policy`'s."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in own_policy.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * parameter.abs().mean() * torch.randn(parameter.shape, generator=generator)
    return own_policy
