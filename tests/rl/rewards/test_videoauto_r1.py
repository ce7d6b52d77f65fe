import pytest

from taro.rl.rewards.videoauto_r1 import VideoAutoR1, twice

TEXT = r"\boxed{{{}}}<think>a</think>\boxed{{{}}}"
LATER = "Let's analyze the problem step by step."


@pytest.mark.parametrize(
    ("first", "second", "abstains", "total"),
    [(1, 1, False, 2.0), (0, 1, False, 1.1), (0, 1, True, 1.4), (0, 0.7, True, 0.77), (1, 0, False, 0.9), (0, 0, True, 0.0)],
)
def test_twice(first, second, abstains, total):
    assert sum(twice(first, second, abstains).values()) == pytest.approx(total)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (TEXT.format("2 to 6", "2.0s to 6.0s"), (0.9, 1.1, 0.0, 1.0)),
        (TEXT.format("4 to 6", "2 to 6"), (0.45, 1.1, 0.0, 1.0)),
        (TEXT.format(LATER, "2 to 6"), (0.0, 1.1, 0.3, 1.0)),
        (TEXT.format(LATER, "9 to 12"), (0.0, 0.0, 0.0, 1.0)),
        (r"\boxed{2 to 6}", (0.9, 0.0, 0.0, 0.0)),  # one answer alone
        (r"<think>a</think>\boxed{2 to 6}\boxed{2 to 6}", (0.9, 1.1, 0.0, 0.0)),
        ("2 to 6", (0.0, 0.0, 0.0, 0.0)),
        (TEXT.format("6 to 2", ""), (0.0, 0.0, 0.0, 1.0)),
    ],
)
def test_answers_by_hand(complete, text, parts):
    names = ("first", "second", "abstention", "format")
    assert VideoAutoR1()(complete(text)) == pytest.approx(dict(zip(names, parts, strict=True)))


def test_choices(complete):
    found = VideoAutoR1(accuracy="choice")(complete(TEXT.format("A", "(B)"), answer="B"))
    with pytest.raises(ValueError, match="the sample's answer 'the second' names no choice"):
        VideoAutoR1(accuracy="choice")(complete("", answer="the second"))
    assert found == {"first": 0.0, "second": 1.1, "abstention": 0.0, "format": 1.0}
