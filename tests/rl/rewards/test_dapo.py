import pytest

from taro.rl.rewards.dapo import Overlong, overlong_penalty


@pytest.mark.parametrize(("tokens", "penalty"), [(0, 0), (80, 0), (81, -0.05), (90, -0.5), (100, -1), (101, -1), (500, -1)])
def test_the_last_tokens_cost(tokens, penalty):
    assert overlong_penalty(tokens, 100, 20) == pytest.approx(penalty)


def test_a_completion_with_all_of_its_tokens(complete):
    assert Overlong(longest=8, buffer=4)(complete("<answer>2 to 6</answer>", token_ids=tuple(range(7)))) == -0.75
    for buffer in (0, 9):
        with pytest.raises(ValueError, match=f"buffer must be above 0 and at most longest = 8, got {buffer}"):
            Overlong(longest=8, buffer=buffer)
