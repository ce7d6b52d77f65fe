import pytest

from taro.rl.rewards import timestamp_iou_reward
from taro.rl.rewards.ra_rft import RaRft, word_overlap

TEXT = "<think>a</think><answer>{}</answer>"


@pytest.mark.parametrize(
    ("answer", "published", "released"),
    [
        ("none", 1.0, 1.0),
        ("The event does not occur in the video.", 1.0, 1.0),
        ("No man opens a blue door: the door is red.", 1.0, 1.0),
        ("it is somewhere", 1.0, 1.0),  # names no time
        ("[]", 1.0, 1.0),
        ("2 to 6", 0.0, 0.0),
        ("The door opens from 2 to 6.", 0.0, 0.0),
        ("", 0.0, 1.0),  # trap: an empty answer is a refusal
        ("...", 0.0, 1.0),
        ("2.0s to 6.0s", 0.0, 1.0),  # trap: so is an answer with units
        ("7", 0.0, 1.0),
        ("at 1:05", 0.0, 1.0),
    ],
)
def test_trap_a_broken_answer_is_no_refusal(complete, answer, published, released):
    completion = complete(TEXT.format(answer), truth=())
    assert RaRft()(completion) == {"format": 1.0, "grounding": published}
    assert RaRft(form="released")(completion)["grounding"] == released


def test_without_an_answer_nobody_refuses(complete):
    assert RaRft()(complete("none", truth=())) == {"format": 0.0, "grounding": 0.0}
    assert RaRft(form="released")(complete("none", truth=()))["grounding"] == 0.0


def test_what_can_be_answered(complete):
    iou = timestamp_iou_reward((4.0, 8.0), (2.0, 6.0), 16.0)
    for form in ("published", "released"):
        assert RaRft(form=form)(complete(TEXT.format("4 to 8")))["grounding"] == iou
        assert RaRft(form=form)(complete(TEXT.format("none")))["grounding"] == 0.0


FULL = TEXT + "<correction>{}</correction>"
COLUMNS = {
    "answerable_query": "a man opens a red door",
    "explanation": "no door is blue", "contrast": "the man opens it",
}  # fmt: skip


def test_explanation_and_correction(complete):
    refused = complete(FULL.format("none", "a man opens a red door"), (), **COLUMNS)
    assert RaRft()(refused) == {"format": 1.0, "grounding": 1.0, "explanation": 0.0, "correction": 1.0}
    half = complete(FULL.format("no door is blue", "a man"), (), **COLUMNS)  # one answer refuses and explains
    assert RaRft()(half) == {"format": 1.0, "grounding": 1.0, "explanation": 1.0, "correction": pytest.approx(4 / 8)}
    for text, correction in (("NIL", 0.0), ("", 0.0)):
        assert RaRft()(complete(FULL.format("none", text), (), **COLUMNS))["correction"] == correction
    assert RaRft()(complete(FULL.format("2 to 6", "nil"), **COLUMNS))["correction"] == 1.0
    assert RaRft()(complete(FULL.format("2 to 6", "a man"), **COLUMNS))["correction"] == 0.0
    assert RaRft()(complete(FULL.format("none", "a man opens vanilla ice"), (), **COLUMNS))["correction"] > 0
    assert RaRft()(complete(FULL.format("2 to 6", "vanilla"), **COLUMNS))["correction"] == 0.0
    without = RaRft()(complete(TEXT.format("none"), (), **COLUMNS))
    assert without["format"] == without["correction"] == 0.0


@pytest.mark.parametrize("name", COLUMNS)
def test_what_is_compared_must_be_text(complete, name):
    with pytest.raises(ValueError, match=f"the sample's {name}: got 3; allowed: text, or no such key"):
        RaRft()(complete(FULL.format("none", "a man"), (), **COLUMNS | {name: 3}))


def test_trap_nil_in_a_word(complete):
    """`vanilla` has the letters."""
    cone = {"answerable_query": "a vanilla cone"}
    refused = complete(FULL.format("none", "a vanilla cone"), (), **cone)
    answered = complete(FULL.format("2 to 6", "vanilla"), **cone)
    assert (RaRft()(refused)["correction"], RaRft()(answered)["correction"]) == (1.0, 0.0)
    released = RaRft(form="released")
    assert (released(refused)["correction"], released(answered)["correction"]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("text", "truth", "format_", "correction"),
    [
        (TEXT.format("2 to 6"), [(2, 6)], 0.0, 0.0),
        (FULL.format("2 to 6", "NIL"), [(2, 6)], 1.0, 1.0),
        (FULL.format("2 to 6", "a man"), [(2, 6)], 1.0, 0.0),
        (FULL.format("none", "a man"), (), 1.0, 0.0),  # there is nothing to compare with
        (TEXT.format("none"), (), 0.0, 0.0),
    ],
)
def test_as_released_all_are_to_correct(complete, text, truth, format_, correction):
    """Samples with an answerable query, and those without one."""
    parts = RaRft(form="released")(complete(text, truth))
    assert (parts["format"], parts["correction"]) == (format_, correction)
    assert "correction" not in RaRft()(complete(text, truth))


def test_as_released_an_empty_correction_is_compared(complete, monkeypatch):
    monkeypatch.syspath_prepend(__file__.rpartition("/")[0])
    similar = RaRft("test_ra_rft.half", "released")
    assert similar(complete(FULL.format("none", ""), (), **COLUMNS))["correction"] == 0.5
    assert similar(complete(TEXT.format("none"), (), **COLUMNS))["correction"] == 0.0
    assert RaRft("test_ra_rft.half")(complete(FULL.format("none", ""), (), **COLUMNS))["correction"] == 0.0


def test_word_overlap():
    assert word_overlap("a b b", "b B c") == pytest.approx(4 / 6)
    assert word_overlap("", "") == 1.0 and word_overlap("a", "") == 0.0


def same(first, second):
    return float(first == second)


def half(first, second):
    return 0.5


@pytest.mark.parametrize(
    ("path", "problem"),
    [("nowhere_to_be_found.f", "there is no module"), ("math.pi", "must be the import path"), (3, "valid string")],
)
def test_a_similarity_that_is_not_there_is_refused_at_once(path, problem):
    with pytest.raises(ValueError, match=f"similarity = {path!r}: .*{problem}"):
        RaRft(similarity=path)


def test_a_similarity_of_ones_own(complete, monkeypatch):
    monkeypatch.syspath_prepend(__file__.rpartition("/")[0])
    completion = complete(FULL.format("none", "a man"), (), **COLUMNS)
    assert RaRft(similarity="test_ra_rft.same")(completion)["correction"] == 0.0
