from statistics import mean

import pytest

from taro.data.samples import Caption, Sample, save_samples
from taro.synthetic.captions import CAPTIONERS, CaptionNoise, describe, main, measure
from taro.synthetic.world import draw_scene, scene_samples

TRUTH = (Caption(5.0, 9.0, "one"), Caption(10.0, 12.0, "two"), Caption(14.0, 20.0, "three"))
MANY = range(2000)


def test_exact_captions_are_the_truth():
    assert describe(TRUTH, 24.0, CAPTIONERS["exact"], seed=3) == TRUTH
    assert CAPTIONERS["exact"] == CaptionNoise()


def test_the_seed_of_the_video_decides():
    made = {seed: describe(TRUTH, 24.0, CAPTIONERS["loose"], seed) for seed in range(20)}
    assert all(describe(TRUTH, 24.0, CAPTIONERS["loose"], seed) == captions for seed, captions in made.items())
    assert len(set(made.values())) == 20


@pytest.mark.parametrize("name", ["loose", "looser"])
def test_times_and_shares_are_those_of_the_settings(name):
    noise = CAPTIONERS[name]
    truth = {caption.text: caption for caption in TRUTH}
    made = [describe(TRUTH, 100.0, noise, seed) for seed in MANY]
    for part, (least, most) in (("start", noise.start), ("end", noise.end)):
        moved = [getattr(c, part) - getattr(truth[c.text], part) for captions in made for c in captions if c.text != "two"]
        assert least - 0.01 <= min(moved) < least + 0.1 and most - 0.1 < max(moved) <= most + 0.01
        assert mean(moved) == pytest.approx((least + most) / 2, abs=0.1)
    described = mean(len(captions) for captions in made) / len(TRUTH)
    none = noise.missing ** len(TRUTH)  # of those, one is described
    assert described == pytest.approx(1 - noise.missing + none / len(TRUTH), abs=0.03)
    assert {caption.text for captions in made if len(captions) == 1 for caption in captions} == set(truth)


def test_captions_lie_in_the_video_and_take_time():
    short = (Caption(0.0, 0.5, "first"), Caption(15.5, 16.0, "last"))
    noise = CaptionNoise(start=(-3.0, 5.0), end=(-5.0, 3.0), missing=0.9)
    made = [describe(short, 16.0, noise, seed) for seed in MANY]
    assert all(captions for captions in made)
    assert all(0 <= c.start < c.end <= 16.0 and c.end - c.start >= 0.49 for captions in made for c in captions)


def test_bad_settings_are_all_named():
    with pytest.raises(ValueError, match=r"start is \(least, most\), got \(1, 0\); missing is a share .* got 1"):
        CaptionNoise(start=(1, 0), missing=1)


def test_a_captioners_errors_are_measured_by_the_words_of_events():
    def sample(number, span, query, captions):
        return Sample(f"v_{number}", "v.mp4", query, (span,), 20.0, captions=captions)

    said = (Caption(1.5, 4.0, "the red square grows."), Caption(7.0, 9.0, "a dog"))
    rows = [sample(0, (1.0, 5.0), "the red square grows", said), sample(1, (6.0, 9.0), "the blue circle blinks", said)]
    errors = measure(rows)
    assert (errors.events, errors.missing, errors.invented) == (2, 1, 1)
    assert (errors.starts, errors.ends, errors.ious) == ((0.5,), (-1.0,), (2.5 / 4,))


def test_the_noise_of_the_model_is_measured_as_it_was_set(tmp_path, capsys):
    noise = CAPTIONERS["loose"]
    scenes = [draw_scene(seed) for seed in range(400)]
    samples = [sample for scene in scenes for sample in scene_samples(scene, f"{scene.seed}.mp4", noise)]
    errors = measure(samples)
    assert errors.invented == 0 and errors.missing / errors.events == pytest.approx(noise.missing, abs=0.04)
    assert mean(errors.starts) == pytest.approx(sum(noise.start) / 2, abs=0.15)
    assert mean(errors.ends) == pytest.approx(sum(noise.end) / 2, abs=0.15)
    save_samples(samples, tmp_path / "captioned.jsonl")
    main([f"--input={tmp_path / 'captioned.jsonl'}"])
    assert f"{errors.events} events: {errors.missing} not described; 0 captions of no event" in capsys.readouterr().out
