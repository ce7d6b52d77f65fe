import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask
from torch.utils._python_dispatch import TorchDispatchMode

from taro.models.packing import Pack, pack_group, plan_even_packs, plan_packs

PROMPT = [10, 11, 12]
COMPLETIONS = [[1, 2, 3], [], [4], [5, 6]]


def packed():
    return pack_group(PROMPT, COMPLETIONS)


def test_layout():
    group = packed()
    assert group.input_ids.tolist() == [10, 11, 12, 1, 2, 3, 4, 5, 6]
    assert group.segment_ids.tolist() == [0, 0, 0, 1, 1, 1, 3, 4, 4]
    assert group.offsets.tolist() == [0, 1, 2, 3, 4, 5, 3, 3, 4]
    assert group.prompt_length == 3
    assert group.completion_ids.tolist() == [[1, 2, 3], [0, 0, 0], [4, 0, 0], [5, 6, 0]]
    assert group.response_mask.int().tolist() == [[1, 1, 1], [0, 0, 0], [1, 0, 0], [1, 1, 0]]


def test_every_response_token_is_predicted_by_the_token_before_it_in_its_own_sequence():
    group = packed()
    for row, completion in enumerate(COMPLETIONS):
        sequence = PROMPT + completion
        for place in range(len(completion)):
            predictor = int(group.predictor_index[row, place])
            assert int(group.input_ids[predictor]) == sequence[len(PROMPT) + place - 1]
            assert int(group.offsets[predictor]) == len(PROMPT) + place - 1
            assert place == 0 or int(group.segment_ids[predictor]) == row + 1


def test_attention_mask_equals_the_slow_version():
    group = packed()
    mask = group.attention_mask()
    owner = [None] * 3 + [row for row, completion in enumerate(COMPLETIONS) for _ in completion]
    for query in range(9):
        for key in range(9):
            sees = key <= query and owner[key] in (None, owner[query])
            assert bool(mask[query, key]) == sees, (query, key)


def test_positions_restart_after_the_prompt_for_each_completion():
    prompt_positions = torch.tensor([[0, 1, 7], [0, 1, 4], [0, 1, 2]])
    got = packed().position_ids(prompt_positions)
    after = [8, 9, 10, 8, 8, 9]
    assert got.tolist() == [[0, 1, 7, *after], [0, 1, 4, *after], [0, 1, 2, *after]]


def test_lists_and_tensors_are_taken_alike():
    other = pack_group(torch.tensor(PROMPT), [torch.tensor(row, dtype=torch.long) for row in COMPLETIONS])
    for name, value in vars(packed()).items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(getattr(other, name))), name


@pytest.mark.parametrize("completions", [[[]], [[], []]])
def test_empty_completions_are_rows_without_tokens(completions):
    group = pack_group(PROMPT, completions)
    assert group.input_ids.tolist() == PROMPT
    for tensor in (group.completion_ids, group.response_mask, group.predictor_index):
        assert tensor.shape == (len(completions), 0)


@pytest.mark.parametrize(
    ("prompt", "completions", "message"),
    [([], [[1]], "prompt_ids"), (PROMPT, [], "at least one completion"), ([PROMPT], [[1]], "prompt_ids")],
)
def test_what_can_not_be_packed(prompt, completions, message):
    with pytest.raises(ValueError, match=message):
        pack_group(prompt, completions)


def two_groups():
    return Pack((packed(), pack_group([20, 21], [[7], [8, 9]])))


def test_a_pack_is_its_groups_one_after_the_other():
    pack = two_groups()
    assert pack.input_ids.tolist() == [10, 11, 12, 1, 2, 3, 4, 5, 6, 20, 21, 7, 8, 9]
    assert pack.input_ids[pack.predictors()].tolist() == [12, 1, 2, 12, 12, 5, 21, 21, 8]


def test_no_group_of_a_pack_sees_another():
    pack = two_groups()
    first, second = (group.attention_mask() for group in pack.groups)
    expected = torch.zeros(14, 14, dtype=torch.bool)
    expected[:9, :9], expected[9:, 9:] = first, second
    assert torch.equal(pack.attention_mask(), expected)


@pytest.mark.parametrize("lengths", [(1,), (200, 3, 0, 130), (0,)], ids=str)
def test_the_block_mask_is_the_same_mask(lengths):
    """Over several blocks of 128, and not full at their edges."""
    first = pack_group(range(150), [range(length) for length in lengths])
    pack = Pack((first, pack_group(range(70), [range(90), range(5)])))
    total, mask = len(pack.input_ids), pack.attention_mask()
    place = torch.arange(total)
    sees = pack.block_mask().mask_mod(0, 0, place[:, None], place[None, :])
    assert torch.equal(sees, mask)
    blocks = torch.nn.functional.pad(mask, (0, -total % 128) * 2).unflatten(0, (-1, 128)).unflatten(2, (-1, 128))
    assert torch.equal(pack.block_mask().to_dense()[0, 0].bool(), blocks.any(dim=(1, 3)))


@pytest.mark.parametrize("seed", range(6))
def test_the_block_mask_is_that_of_the_dense_mask(seed):
    """Counts and places of partial and of full blocks, of queries and of keys, as PyTorch finds them in the dense mask.
    Prompts and completions begin and end at, before and after the edges of blocks."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*sizes):
        return sizes[int(torch.randint(len(sizes), (), generator=generator))]

    sizes = (1, 5, 127, 128, 129, 256, 300, 500)
    rows = [[range(draw(0, *sizes)) for _ in range(draw(1, 2, 5))] for _ in range(draw(1, 2, 3))]
    pack = Pack(tuple(pack_group(range(draw(*sizes)), completions) for completions in rows))
    found = pack.block_mask()
    total = len(pack.input_ids)
    expected = create_block_mask(found.mask_mod, None, None, total, total, device="cpu")
    assert found.shape == expected.shape == (1, 1, total, total) and found.BLOCK_SIZE == expected.BLOCK_SIZE
    for name in ("kv", "full_kv", "q", "full_q"):
        for part in ("num_blocks", "indices"):
            one, other = (getattr(mask, f"{name}_{part}") for mask in (found, expected))
            assert one.dtype == other.dtype and torch.equal(one, other), f"{name}_{part}"
    assert int(expected.full_kv_num_blocks.sum()) > 0 or total < 600


class LargestTensor(TorchDispatchMode):
    """How many elements the largest tensor has that is made under it."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        made = result if isinstance(result, (tuple, list)) else [result]
        self.elements = max([self.elements, *(value.numel() for value in made if isinstance(value, torch.Tensor))])
        return result


def test_no_mask_over_all_pairs_of_tokens_is_made():
    """Of 6,600 tokens there are 52 * 52 blocks, and 44 million pairs."""
    pack = Pack(tuple(pack_group(range(900), [range(300)] * 8) for _ in range(2)))
    with LargestTensor() as largest:
        pack.block_mask()
    assert largest.elements < len(pack.input_ids) + 128


@pytest.mark.parametrize(
    ("sizes", "packs"),
    [
        ([], []),
        ([10], [[0]]),
        ([4, 6, 1], [[0, 1], [2]]),
        ([5, 6, 4, 5, 5], [[0], [1, 2], [3, 4]]),
        ([10, 10], [[0], [1]]),
        ([11], [[0]]),
        ([3, 11, 4, 6, 12, 30, 1], [[0], [1], [2, 3], [4], [5], [6]]),
    ],
)
def test_packs_are_filled_in_order_up_to_the_budget(sizes, packs):
    """A group that is larger has a pack of its own."""
    assert plan_packs(sizes, budget=10) == packs


@pytest.mark.parametrize(
    ("sizes", "packs"),
    [
        ([], []),
        ([10], [[0]]),
        ([4, 6, 1], [[0, 2], [1]]),
        ([5, 6, 4, 5, 5], [[0, 4], [1], [2, 3]]),
        ([10, 10], [[0], [1]]),
        ([11], [[0]]),
        ([3, 11, 4, 6, 12, 30, 1], [[0, 2], [1], [3, 6], [4], [5]]),
    ],
)
def test_packs_are_about_even_and_within_the_budget(sizes, packs):
    """A group that is larger has a pack of its own."""
    assert plan_even_packs(sizes, sizes, budget=10) == packs


def test_packs_are_even_by_what_they_cost():
    """Not by their tokens, whose number is bounded all the same."""
    sizes, costs = [4, 4, 1, 1, 1], [6.0, 3.0, 3.0, 1.0, 1.0]
    assert plan_even_packs(sizes, costs, budget=7) == [[0, 3], [1, 2, 4]]
    assert plan_even_packs(sizes, costs, budget=5) == [[0], [1, 3], [2, 4]]
    assert plan_even_packs(sizes, costs, budget=100) == [[0, 1, 2, 3, 4]]


def test_as_many_packs_as_other_ranks_have():
    assert plan_even_packs([3, 3, 3], [3, 3, 3], budget=10, least=2) == [[0, 2], [1]]
    assert plan_even_packs([3, 3], [3, 3], budget=10, least=5) == [[0], [1]]
    assert plan_even_packs([], [], budget=10, least=2) == []


def test_pairs_are_what_the_mask_lets_through():
    assert packed().pairs == int(packed().attention_mask().sum())
