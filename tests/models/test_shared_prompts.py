import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from taro.models.shared_prompts import SharedPrompts, attend

LENGTHS, OWNERS, SIZE = (5, 9, 1), (0, 0, 1, 1, 1, 2), 8  # tokens of three prompts, whose rows are 2, 3 and 1


def shared_prompts(kv_heads=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    keys, values = (
        (None, torch.randn(3, kv_heads, max(LENGTHS), SIZE, generator=generator).to(dtype)) for _ in range(2)
    )  # the first layer is recurrent
    mask = torch.arange(max(LENGTHS)) >= max(LENGTHS) - torch.tensor(LENGTHS)[:, None]
    return SharedPrompts(keys, values, mask, torch.tensor(OWNERS))


def states(heads, kv_heads, new, own, rows=len(OWNERS), dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    shapes = ((heads, new), (kv_heads, own), (kv_heads, own))
    return [torch.randn(rows, count, length, SIZE, generator=generator).to(dtype) for count, length in shapes]


def one_by_one(query, key, value, mask, scaling, prompts):
    """The slow and obvious way: each row with its own copy of its prompt's keys, without any padding."""
    rows = []
    for row, owner in enumerate(prompts.owners.tolist()):
        real, new, own = prompts.mask[owner], query.shape[2], key.shape[2]
        keys = torch.cat([prompts.keys[1][owner][:, real], key[row]], 1).float()
        values = torch.cat([prompts.values[1][owner][:, real], value[row]], 1).float()
        seen = torch.ones(new, own, dtype=torch.bool).tril(own - new) if mask is None else mask[row, 0]
        seen = torch.cat([torch.ones(new, int(real.sum()), dtype=torch.bool), seen], 1)
        shared = query.shape[1] // key.shape[1]
        keys, values = (one.repeat_interleave(shared, 0) for one in (keys, values))
        rows.append(scaled_dot_product_attention(query[row].float(), keys, values, attn_mask=seen, scale=scaling))
    return torch.stack(rows).transpose(1, 2)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("new", "own"), [(1, 1), (1, 6), (3, 3), (2, 6)])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (2, 2)])
def test_rows_see_their_prompts_and_themselves(heads, kv_heads, new, own, masked):
    prompts, (query, key, value) = shared_prompts(kv_heads), states(heads, kv_heads, new, own)
    mask = None
    if masked:  # left-padded rows, of which the last has nothing but padding
        mask = torch.ones(new, own, dtype=torch.bool).tril(own - new).repeat(len(OWNERS), 1, 1, 1)
        for row in range(len(OWNERS)):
            mask[row, ..., : min(row, own)] = False
    for scaling in (None, 0.7):
        found = attend(query, key, value, mask, scaling, 1, prompts)
        torch.testing.assert_close(found, one_by_one(query, key, value, mask, scaling, prompts), atol=2e-6, rtol=0)


@pytest.mark.parametrize("autocast", [False, True])
def test_scores_of_bfloat16_are_float32(autocast):
    """The result differs by its own rounding alone, also in a run with bf16-mixed."""
    prompts, inputs = shared_prompts(dtype=torch.bfloat16), states(4, 2, 1, 6, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = attend(*inputs, None, None, 1, prompts)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), one_by_one(*inputs, None, None, prompts), atol=0, rtol=2**-8)


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 5], [1, 3, 4], [5], [0, 5]])
def test_rows_that_go_on_take_their_prompts_along(rows):
    prompts, index, inputs = shared_prompts(), torch.tensor(rows), states(4, 2, 1, 6)
    fewer = prompts.select(index)
    assert len(fewer.mask) == len({OWNERS[row] for row in rows}) and fewer.keys[0] is None
    expected = attend(*inputs, None, None, 1, prompts)[index]
    found = attend(*(one[index] for one in inputs), None, None, 1, fewer)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


def test_a_prompt_is_there_once():
    """Whatever its rows; nothing is copied while all of them go on."""
    prompts = shared_prompts()
    assert prompts.select(torch.tensor([1, 2, 5])).keys[1] is prompts.keys[1]
