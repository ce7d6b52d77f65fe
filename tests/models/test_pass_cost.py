import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from taro.models.log_probs import GroupInputs, compute_log_probs
from taro.models.packing import pack_group
from taro.models.pass_cost import PassCost


def test_products_are_those_that_a_pass_counts(policy, prompts):
    """But for norms and biases, which are weights and no products, and for attention, which is counted by pairs."""
    prompt = prompts[0]
    packed = pack_group(prompt.input_ids, [range(1, 30), range(1, 50)])
    features = policy.encode_video(prompt.video.frames)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        compute_log_probs(policy, [GroupInputs(prompt, packed, features)])
    counted = counter.get_flop_counts()["Global"]
    products = sum(counted.get(name, 0) for name in (torch.ops.aten.mm, torch.ops.aten.addmm))
    cost = PassCost.of_model(policy)
    assert cost.token * len(packed) + cost.response * 78 == pytest.approx(products, rel=0.02)
    assert cost(packed) == cost.token * len(packed) + cost.response * 78 + cost.pair * packed.pairs


def test_a_recurrent_layer_looks_at_no_pairs(policy):
    text = policy.decoder.config
    width = text.num_attention_heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    assert PassCost.of_model(policy).pair == 4 * width * kinds.count("full_attention") > 0
