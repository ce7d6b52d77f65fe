import pytest

from taro.data.samples import Sample
from taro.evaluation.other_tools import Text
from taro.evaluation.predictions import EvaluationError
from taro.evaluation.texts_of_samples import match_samples

DOG = Sample("1", "videos/a.mp4", "A dog runs.", ((1.0, 3.0),), 9.0)
CAT = Sample("2", "videos/a.mp4", "a cat", ((2.0, 4.0), (5.0, 6.0)), 9.0)
OTHER = Sample("3", "videos/b.mp4", "a dog runs", ((1.0, 3.0),), 9.0)
SAMPLES = [DOG, CAT, OTHER]


def match(*texts, samples=SAMPLES):
    found = match_samples(texts, samples)
    assert [(one.id, one.truths) for one in found.texts] == [(sample.id, sample.spans) for sample in samples]
    return [one.text for one in found.texts], found.remarks


@pytest.mark.parametrize(
    "text",
    [
        Text("2", "x", ((2.0, 4.0),)),
        Text("2", "x", ()),
        Text("key", "x", ((5.0, 6.004),), "a", "a  Cat."),
        Text("key", "x", ((2.0, 4.0),), "a", prompt="Find a cat in the video."),
        Text("1", "x", ((2.0, 4.0),), "a", "a cat"),  # an id of its own that another sample happens to have
    ],
)
def test_of_which_sample_a_text_is(text):
    texts, remarks = match(text)
    assert texts == [None, "x", None]
    assert remarks == ["2 samples have no prediction: they count as not asked:\n- 1\n- 3"]


@pytest.mark.parametrize(
    "stranger",
    [
        Text("9", "x", ((1.0, 3.0),)),
        Text("key", "x", ((1.0, 3.1),), "a", "a dog runs"),
        Text("key", "x", ((1.0, 3.0),), "c", "a dog runs"),
        Text("key", "x", ((1.0, 3.0),), "a", "a dog"),
        Text("key", "x", ((1.0, 3.0),), "a"),
    ],
)
def test_texts_of_no_sample(stranger):
    texts, remarks = match(*(Text(sample.id, "y", ()) for sample in SAMPLES), stranger)
    assert texts == ["y", "y", "y"] and remarks == [f"1 predictions are of no sample: they don't count:\n- {stranger.id}"]


@pytest.mark.parametrize(
    "text",
    [Text("3", "x", ((7.0, 8.0),)), Text("3", "x", (), video="a"), Text("3", "x", (), query="a cat")],
)
def test_an_id_that_is_another_sample_s(text):
    _, remarks = match(Text("1", "y", ()), Text("2", "y", ()), text)
    assert remarks[1].endswith("- 3: a sample has this id, but another query, video or true span")


def test_the_last_of_several_counts():
    texts, remarks = match(Text("1", "x", ()), Text("key", "y", ((1.0, 3.0),), "a", "a dog runs"))
    assert texts[0] == "y" and "1 predictions are of a sample that has one already: the last one counts:" in remarks[1]
    assert remarks[1].endswith("- key answers 1, as 1 does")


def test_samples_that_ask_the_same_get_a_text_each():
    """Of two queries in one prompt the longer one is meant."""
    again = Sample("4", "a.mp4", "a dog runs", ((1.0, 3.0),), 9.0)
    short = Sample("5", "a.mp4", "a dog", ((1.0, 3.0),), 9.0)
    texts = [Text(name, name, ((1.0, 3.0),), "a", prompt="When does it happen that a dog runs?") for name in "xy"]
    assert match(*texts, samples=[short, DOG, again])[0] == [None, "x", "y"]


def test_many_are_listed_in_part():
    samples = [Sample(str(number), "a.mp4", f"q{number}", ((0.0, 1.0),), 9.0) for number in range(50)]
    _, (remark,) = match(Text("0", "x", ()), samples=samples)
    assert remark.splitlines()[0].startswith("49 samples") and remark.endswith("- and 29 more")


def test_nothing_in_common():
    with pytest.raises(EvaluationError, match=r"not one of 1 predictions .* Predictions are charades_0; samples are 1, 2, 3\."):
        match(Text("charades_0", "x", ((1.0, 3.0),)))
