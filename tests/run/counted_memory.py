"""What a pass of a model of real size keeps in memory, counted without computing anything: PyTorch's fake tensors have shapes
and no numbers."""

import weakref

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForImageTextToText

from taro.models.adapters import LoRASettings, add_adapters
from taro.models.attention import SHARED_PREFIX
from taro.models.log_probs import GroupInputs, compute_log_probs
from taro.models.packing import pack_group
from taro.models.prompt import Prompt
from taro.models.qwen_vl import QwenVL, VisionFeatures
from taro.models.weights import parameters_on_meta
from taro.run.memory import GIB


class Counting(TorchDispatchMode):
    """Bytes of the tensors that are there, of those made inside, and the most that they were."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.there = {}

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        output = operator(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, FakeTensor):
                self.add(tensor)
        return output

    def add(self, tensor):
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key not in self.there:
            self.there[key] = weakref.ref(storage, lambda _: self.remove(key, size))
            self.now += size
            self.most = max(self.most, self.now)

    def leave_out(self, *tensors):
        self.there |= {id(tensor.untyped_storage()): None for tensor in tensors}

    def remove(self, key, size):
        del self.there[key]
        self.now -= size


def fake_policy(config, family, fake, rank=0, checkpointing=True, dtype=torch.bfloat16):
    """Of a config, with a frozen tower, and adapters if `rank` says so; gradients are there already."""
    attentions = {"text_config": SHARED_PREFIX, "vision_config": "sdpa"}
    with parameters_on_meta():
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation=attentions)
        policy = QwenVL(model, family, None, list(range(5)))
        policy.freeze_tower()
        if rank:
            add_adapters(policy.model, LoRASettings(rank=rank))
    if checkpointing:
        policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    made = {}
    for module in policy.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter not in made:  # tied ones stay one
                with fake:
                    made[parameter] = nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype), parameter.requires_grad)
                    made[parameter].grad = torch.empty_like(made[parameter]) if parameter.requires_grad else None
            module._parameters[name] = made.get(parameter)
    return policy.train()


def fake_group(policy, fake, prompt, completions):
    """A prompt of so many tokens, most of them video, with so long completions. The ids are real: how many of them a mask has
    decides on shapes."""
    video = 7 * prompt // 8
    mask = torch.arange(prompt) < video
    packed = pack_group(torch.ones(prompt, dtype=torch.long), [torch.ones(length, dtype=torch.long) for length in completions])
    with fake:  # without Qwen3-VL's features of deeper layers, which are added where the mask is: a shape that isn't known
        features = VisionFeatures(torch.empty(video, policy.model.config.text_config.hidden_size, dtype=torch.bfloat16))
    return GroupInputs(Prompt(torch.ones(prompt), torch.arange(prompt).expand(3, -1), mask, None), packed, features)


def count(policy, groups, mixed=True):
    """GiB that a pass with its backward pass takes at most, beside weights and gradients; `mixed`: under autocast."""
    counting = Counting()
    for parameter in policy.parameters():
        counting.leave_out(parameter, *([] if parameter.grad is None else [parameter.grad]))
    with counting:
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed, cache_enabled=False):
            loss = sum(found.log_probs.sum() for found in compute_log_probs(policy, groups, with_entropy=True))
        loss.backward()
    return counting.most / GIB
