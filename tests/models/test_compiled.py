import pytest
import torch
from tolerances import LOG_PROBS
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor.exc import InvalidCxxCompiler
from torch.distributed.device_mesh import init_device_mesh

from taro.models.compiled import CompilerError, compile_layers, require_compiler
from taro.models.log_probs import GroupInputs, compute_log_probs, empty_pass
from taro.models.packing import pack_group
from taro.models.qwen_vl import QwenVL
from taro.models.sharding import gathered, shard
from taro.models.weights import whole_weight
from taro.rollout import NativeEngine, RolloutPrompt, SamplingSettings

PACKS = (((4, 6, 3), (1, 0)), ((5, 1, 0, 9, 2),), ((8,), (2, 2), (3, 1, 7)))  # tokens of the completions of their groups


@pytest.fixture
def counter(monkeypatch):
    """Compiles without making kernels of it, which takes a minute on a CPU, and counts the graphs."""
    torch.compiler.reset()
    counter, compile_ = CompileCounterWithBackend("eager"), torch.compile
    monkeypatch.setattr(torch, "compile", lambda *args, **settings: compile_(*args, backend=counter, **settings))
    yield counter
    torch.compiler.reset()


@pytest.fixture
def policy(model_folder):
    policy = QwenVL.from_pretrained(model_folder)
    policy.freeze_tower()
    return policy


@torch.no_grad()
def packs(policy, prompts):
    generator, found = torch.Generator().manual_seed(0), []
    for lengths in PACKS:
        rows = [[torch.randint(0, 300, (length,), generator=generator) for length in own] for own in lengths]
        groups = zip(prompts, rows, strict=False)
        found.append([GroupInputs(p, pack_group(p.input_ids, own), policy.encode_video(p.video.frames)) for p, own in groups])
    return found


def score(policy, pack):
    """Log-probs of a pack, and the gradient of their sum of squares."""
    policy.zero_grad()
    with gathered(policy):
        log_probs = torch.cat([group.log_probs.flatten() for group in compute_log_probs(policy, pack)])
        log_probs.square().sum().backward()
    grads = {name: whole_weight(p.grad).clone() for name, p in policy.named_parameters() if p.grad is not None}
    return log_probs.detach(), grads


def assert_same(found, expected):
    torch.testing.assert_close(found[0], expected[0], atol=LOG_PROBS, rtol=0)
    assert found[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        assert (found[1][name] - value).norm() <= 1e-4 * value.norm(), name


@pytest.mark.slow
def test_compiled_layers_are_the_layers(policy, prompts, counter):
    """Once for packs of all lengths and of any number of groups, also where the backward pass runs them again."""
    policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    policy.train()
    all_packs, names = packs(policy, prompts), set(policy.state_dict())
    expected = [score(policy, pack) for pack in all_packs]
    assert counter.frame_count == 0
    compile_layers(policy.decoder)
    graphs = []
    for pack, wanted in zip(all_packs, expected, strict=True):
        assert_same(score(policy, pack), wanted)
        graphs.append(counter.frame_count)
    assert 0 < graphs[0] == graphs[-1] <= 8 and set(policy.state_dict()) == names


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen3_5"], indirect=True)
def test_all_passes_of_a_step_are_compiled(policy, prompts, counter):
    """With two kinds of layers there are more kinds of passes than PyTorch compiles unasked."""
    reference, (first, *others) = policy.frozen_copy(), packs(policy, prompts)
    for model in (policy, reference):
        compile_layers(model.decoder)

    def step(pack):
        for model in (policy, reference):
            with torch.no_grad():
                compute_log_probs(model, pack)
                compute_log_probs(model, [])
        score(policy, pack)
        empty_pass(policy).backward()

    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        step(first)
        graphs = counter.frame_count
        for pack in others:
            step(pack)
    assert 8 < counter.frame_count == graphs


def test_decoding_is_left_as_it_is(policy, prompts, counter):
    request = RolloutPrompt(prompts[0], ((),), (0,), policy.encode_video(prompts[0].video.frames))
    answers = []
    for _ in range(2):
        (group,) = NativeEngine(policy, end_ids=()).generate([request], SamplingSettings(temperature=0.0, max_tokens=8))
        answers.append(group.completions[0].tolist())
        compile_layers(policy.decoder)
    assert answers[0] == answers[1] and counter.frame_count == 0


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2_5_vl"], indirect=True)
def test_compiled_layers_are_sharded(policy, prompts, counter, process_group):
    """FSDP2 gathers around them."""
    pack = packs(policy, prompts)[0]
    expected = score(policy, pack)
    shard(policy, init_device_mesh("cpu", (1,)), None)
    compile_layers(policy.decoder)
    assert_same(score(policy, pack), expected)
    assert 0 < counter.frame_count <= 5


def test_without_a_compiler_there_is_an_error(monkeypatch):
    def fail(*inputs):
        raise InvalidCxxCompiler

    monkeypatch.setattr(torch, "compile", lambda function: fail)
    monkeypatch.setattr("taro.models.compiled.find_spec", lambda name: None)
    with pytest.raises(CompilerError, match=r"does not work on cuda here \(no Triton: pip install triton\)"):
        require_compiler("cuda")
    with pytest.raises(CompilerError, match=r"torch.compile does not work here \(No working C\+\+ compiler found"):
        require_compiler("cpu")
