import pytest

from taro.rl.rewards.completion import choice


@pytest.mark.parametrize(
    ("text", "letter"),
    [("B", "B"), ("(B)", "B"), ("B. a dog", "B"), ("I think B", "B"), ("I’d say C", "C"), ("I", "I"), ("", None)],
)
def test_the_letter_of_a_choice(text, letter):
    assert choice(text) == letter


@pytest.mark.parametrize(("right", "reward"), [("B", 1.0), ("b", 1.0), ("(b)", 1.0), ("B. a dog", 1.0), ("a", 0.0)])
def test_the_right_choice(complete, right, reward):
    assert complete("<answer>I think B</answer>", answer=right).chose_rightly() == reward


def test_an_answer_that_names_no_choice_is_an_error(complete):
    with pytest.raises(ValueError, match="the sample's answer 'a dog' names no choice: it must have a capital letter"):
        complete("<answer>B</answer>", answer="a dog").chose_rightly()
