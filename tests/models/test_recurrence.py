import copy
import gc

import pytest
import torch
from torch import nn
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

from taro.models.packing import Pack, pack_group
from taro.models.recurrence import PackedDeltaNet, _StateAfter, share_prompts
from taro.synthetic.architecture import build_config, build_model, build_tokenizer

LENGTHS = (5, 1, 0, 70, 2)  # of completions; a chunk of the rule has 64 tokens


@pytest.fixture(scope="module")
def config():
    return build_config("qwen3_5", build_tokenizer(), layers=2).text_config


@pytest.fixture(scope="module")
def layer():
    """That remembers: after a prompt of 200 tokens, the first still matters."""
    model = build_model(build_config("qwen3_5", build_tokenizer(), layers=2), 0)
    layer = copy.deepcopy(model.model.language_model.layers[0].linear_attn)
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3.0)
        layer.A_log.zero_()
        layer.dt_bias.fill_(-5.0)  # a step of about 1 / 150
    share_prompts(layer)
    return layer


def inputs(prompt, lengths, seed=0):
    """Hidden states of a prompt, of each completion, and the weights of what comes out."""
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(length, 96, generator=generator) for length in (prompt, *lengths)]
    group = pack_group(range(1, prompt + 1), [range(length) for length in lengths])
    return parts, group, [torch.randn(part.shape, generator=generator) for part in parts]


def run(layer, parts, weights, forward):
    """What comes out for each part, and the gradients of its weighted sum: of the parts, and of the layer's weights."""
    parts = [part.clone().requires_grad_() for part in parts]
    outputs = forward(parts)
    total = sum((output * weight).sum() for output, weight in zip(outputs, weights, strict=True))
    return outputs, torch.autograd.grad(total, [*parts, *layer.parameters()])


def packed(layer, *groups):
    def forward(parts):
        together = layer(torch.cat(parts)[None], pack=Pack(groups))[0]
        return together.split([len(part) for part in parts])

    return forward


def whole_rows(layer):
    """The slow and obvious way: the prompt again for each completion."""

    def forward(parts):
        prompt, *completions = parts
        rows = [layer(torch.cat([prompt, row])[None])[0, len(prompt) :] for row in completions]
        return [layer(prompt[None])[0], *rows]

    return forward


def assert_equal(got, expected):
    for a, b in zip(got[0], expected[0], strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    for a, b in zip(got[1], expected[1], strict=True):
        assert (a - b).norm() <= 1e-4 * max(float(b.norm()), 1e-3)


@pytest.mark.parametrize("prompt", [1, 2, 64, 200])
@pytest.mark.parametrize("lengths", [LENGTHS, (1, 1), (0, 1), (0,)], ids=str)
def test_a_forked_state_is_that_of_whole_rows(layer, prompt, lengths):
    """The prompt may be shorter than the convolution, and the completions of one token."""
    parts, group, weights = inputs(prompt, lengths)
    assert_equal(run(layer, parts, weights, packed(layer, group)), run(layer, parts, weights, whole_rows(layer)))


def test_the_first_tokens_of_a_prompt_matter(layer):
    """Else the comparisons of this file would say little."""
    parts, group, _ = inputs(200, (5, 3))
    changed = [torch.cat([parts[0][:1] + 1, parts[0][1:]]), *parts[1:]]
    before, after = (packed(layer, group)(some) for some in (parts, changed))
    assert all((a - b).abs().max() > 1e-4 for a, b in zip(before[1:], after[1:], strict=True))


def test_groups_of_a_pack_do_not_see_each_other(layer):
    one, two = inputs(70, LENGTHS), inputs(3, (2, 9), seed=1)
    alone = [run(layer, parts, weights, packed(layer, group)) for parts, group, weights in (one, two)]
    together = run(layer, one[0] + two[0], one[2] + two[2], packed(layer, one[1], two[1]))
    count = len(one[0])
    for number, part in enumerate((slice(0, count), slice(count, count + len(two[0])))):
        assert_equal((together[0][part], together[1][part]), (alone[number][0], alone[number][1][: len(alone[number][0])]))


@pytest.mark.parametrize("poison", [1e3, -1e3])
def test_padding_never_reaches_a_token(layer, poison, monkeypatch):
    """Whatever stands there: values and gradients stay."""
    parts, group, weights = inputs(70, LENGTHS)
    expected, forward, poisoned = run(layer, parts, weights, packed(layer, group)), Qwen3_5GatedDeltaNet.forward, []

    def poisoning(self, states, *args, **kwargs):
        if len(states) == len(LENGTHS):
            poisoned.append(int((~group.response_mask).sum()))
            states = states.masked_fill(~group.response_mask[..., None], poison)
        return forward(self, states, *args, **kwargs)

    monkeypatch.setattr(Qwen3_5GatedDeltaNet, "forward", poisoning)
    assert_equal(run(layer, parts, weights, packed(layer, group)), expected)
    assert poisoned == [5 * 70 - sum(LENGTHS)]


def test_states_are_gone_with_the_pass(layer):
    """At once, with all that their backward pass would need: not when Python collects garbage."""
    parts, group, _ = inputs(70, LENGTHS)
    gc.collect()
    gc.disable()
    try:
        outputs = packed(layer, group)([part.requires_grad_() for part in parts])
        assert outputs[0].requires_grad
        assert not [thing for thing in gc.get_objects() if isinstance(thing, _StateAfter)]
    finally:
        gc.enable()


def test_other_layers_are_left_alone(config):
    modules = nn.ModuleList([nn.Linear(2, 2), Qwen3_5GatedDeltaNet(config, 0)])
    share_prompts(modules)
    assert [type(module) for module in modules] == [nn.Linear, PackedDeltaNet]
    assert type(copy.deepcopy(modules)[1]) is PackedDeltaNet
    assert modules.state_dict().keys() == nn.ModuleList([nn.Linear(2, 2), Qwen3_5GatedDeltaNet(config, 0)]).state_dict().keys()
