import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from taro.cache import DiskCacheSettings
from taro.data.datamodule import ROOM_FOR_ANSWER, GroundingDataModule
from taro.data.dataset import GroundingDataset
from taro.data.difficulties import DifficultyError
from taro.data.mixture import MixtureError
from taro.data.rows import durations_agree
from taro.data.samples import Caption, Sample, SampleError, load_samples, save_samples
from taro.models.settings import GroundingSettings
from taro.prompts import constructed_path
from taro.seeds import stable_seed
from taro.synthetic.architecture import TINY_PROMPT
from taro.video.load import VideoSettings, load_video

VIDEO = VideoSettings(fps=1.0, max_tokens=64)
SETTINGS = GroundingSettings(TINY_PROMPT, VIDEO, max_prompt_tokens=1024, evaluation_max_prompt_tokens=1024)


def trainer(steps=0, world_size=1, rank=0):
    """As much of a trainer as a datamodule asks for."""
    total = SimpleNamespace(processed=steps)
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(total=total)))
    return SimpleNamespace(world_size=world_size, global_rank=rank, training=True, fit_loop=loop)


@pytest.fixture
def make(tiny_folder, synthetic):
    def make(own_trainer=None, **settings):
        values = {
            "train_file": f"{synthetic}/train.jsonl",
            "validation_file": f"{synthetic}/validation.jsonl",
            "test_file": f"{synthetic}/test.jsonl",
            "grounding": SETTINGS,
            "group_size": 4,
            "prompts_per_step": 2,
            "evaluation_batch": 2,
            "workers": 0,
        }
        data = GroundingDataModule(tiny_folder, **values | settings)
        data.trainer = own_trainer or trainer()
        data.setup("fit")
        return data

    return make


def test_incomplete_steps_are_left_out(make):
    assert len(make(prompts_per_step=4).train_dataloader()) == 1


@pytest.mark.slow
def test_steps_of_all_ranks_are_those_of_one(make):
    """The same prompts_per_step, split over two ranks."""
    alone = [[e.sample.id for e in batch] for batch in make(prompts_per_step=2).train_dataloader()]
    loaders = [make(trainer(world_size=2, rank=rank), prompts_per_step=2).train_dataloader() for rank in (0, 1)]
    shared = [[e.sample.id for part in batches for e in part] for batches in zip(*loaders, strict=True)]
    assert alone == shared and len(alone) == 3 and all(len(batch) == 2 for batch in alone)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["validation", "test"])
def test_evaluation_sees_every_sample_in_order_once(make, split, synthetic):
    expected = [sample.id for sample in load_samples(synthetic / f"{split}.jsonl")]
    loader = f"{'val' if split == 'validation' else split}_dataloader"
    alone = [e.sample.id for batch in getattr(make(), loader)() for e in batch]
    assert alone == expected
    ranks = [
        [e.sample.id for batch in getattr(make(trainer(world_size=2, rank=rank)), loader)() for e in batch]
        for rank in (0, 1)
    ]
    assert sorted(ranks[0] + ranks[1]) == sorted(expected)


@pytest.mark.slow
def test_workers_give_the_same_examples(make):
    plain, workers = (list(make(workers=workers).train_dataloader()) for workers in (0, 1))
    for one, other in zip(plain, workers, strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.sample == b.sample
            assert torch.equal(a.prompt.input_ids, b.prompt.input_ids)
            assert torch.equal(a.prompt.video.frames, b.prompt.video.frames)


def example_of(data):
    return next(iter(data.train_dataloader()))[0]


def test_without_the_curriculum_all_is_free(make):
    data = make()
    example = data.add_paths(example_of(data))
    assert example.prefixes == ((),) * 4 and not example.constructed.any()


def test_paths_are_those_of_the_prompts(make):
    """Tokens of a path that starts reasoning with some of the sample's captions; each completion has its own."""
    data = make(group_size=32)
    data.constructed_probability = 1.0
    plain = example_of(data)
    example = data.add_paths(plain)
    assert example.constructed.tolist() == [True] * 32 and len(set(example.prefixes)) > 2
    assert example.prompt is plain.prompt and example.sample is plain.sample
    texts = {data.builder(training=True).decode(list(prefix)) for prefix in example.prefixes}
    possible = set()
    for seed in range(200):
        possible.add(constructed_path(example.sample.query, example.sample.captions, random.Random(seed)))
    assert texts <= possible and all(text.startswith("<think>\n") and "</think>" not in text for text in texts)


@pytest.mark.slow
def test_each_completion_is_constructed_with_the_probability(make):
    data = make(group_size=1000)
    example = example_of(data)
    for data.constructed_probability in (0.25, 0.75):
        share = float(data.add_paths(example).constructed.float().mean())
        assert share == pytest.approx(data.constructed_probability, abs=0.06)


def test_a_sample_without_captions_has_no_paths(make, synthetic, tmp_path):
    samples = load_samples(synthetic / "train.jsonl")
    save_samples([replace(sample, captions=()) for sample in samples], tmp_path / "train.jsonl")
    data = make(train_file=str(tmp_path / "train.jsonl"))
    data.constructed_probability = 1.0
    assert data.add_paths(example_of(data)).prefixes == ((),) * 4


def test_draws_follow_from_seed_epoch_and_sample(make):
    data = make()
    data.constructed_probability = 1.0
    examples = [data.train_dataloader().dataset[number] for number in (0, 1)]

    def drawn(steps=0, seed=0, number=0):
        data.trainer, data.seed = trainer(steps), seed
        example = data.add_paths(examples[number])
        return example.prefixes, example.seeds, example.shuffle_seed

    prefixes, seeds, shuffle = drawn()
    assert drawn() == (prefixes, seeds, shuffle) == drawn(steps=2)  # the same epoch
    assert len(set(seeds)) == 4
    for other in (drawn(steps=3), drawn(seed=1), drawn(number=1)):
        assert not set(other[1]) & set(seeds)
    assert drawn(steps=3)[2] == shuffle  # a sample has one shuffled video
    assert drawn(seed=1)[2] != shuffle != drawn(number=1)[2]


def test_stable_seeds():
    assert stable_seed("a", 1) == stable_seed("a", "1") != stable_seed("a1")
    assert all(0 <= stable_seed(k) < 2**63 for k in range(100)) and len({stable_seed(k) for k in range(100)}) == 100


def test_training_adds_paths_and_evaluation_does_not(make):
    data = make()
    batch = [example_of(data)]
    assert hasattr(data.on_after_batch_transfer(batch, 0)[0], "prefixes")
    data.trainer.training = False
    assert data.on_after_batch_transfer(batch, 0) is batch


def test_evaluation_has_its_own_video_settings(make):
    settings = GroundingSettings(TINY_PROMPT, VIDEO, 1024, VideoSettings(fps=0.5, max_tokens=64), 600)
    data = make(grounding=settings)
    assert data.builder(training=True).max_tokens == 1024 and data.builder(training=False).max_tokens == 600
    assert example_of(data).prompt.video.fps == pytest.approx(1.0, abs=0.1)
    (first, *_) = next(iter(data.val_dataloader()))
    assert first.prompt.video.fps == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("fault", ["missing", "empty", "truncated"])
def test_a_bad_video_is_a_failure_with_its_reason(make, synthetic, tmp_path, fault):
    samples = load_samples(synthetic / "train.jsonl")
    path = tmp_path / "bad.mp4"
    if fault != "missing":
        data = Path(samples[0].video).read_bytes()
        path.write_bytes(b"" if fault == "empty" else data[: len(data) // 3])
    save_samples([replace(sample, video=str(path)) for sample in samples], tmp_path / "train.jsonl")
    examples = [e for batch in make(train_file=str(tmp_path / "train.jsonl")).train_dataloader() for e in batch]
    assert len(examples) == 6
    for example in examples:
        assert example.prompt is None and example.failure.startswith("VideoError: ") and "bad.mp4" in example.failure


def test_a_prompt_over_the_budget_is_a_failure(make):
    example = example_of(make(grounding=replace(SETTINGS, max_prompt_tokens=20)))
    assert example.prompt is None
    assert "PromptError: the prompt has" in example.failure and "max_prompt_tokens" in example.failure


def bad_rows(synthetic, path):
    """Two rows that can't be right, of six."""
    lines = (synthetic / "train.jsonl").read_text().replace("train/", f"{synthetic}/train/").splitlines()
    lines[1] = lines[1].replace('"duration": ', '"duration": -')
    lines[4] = lines[4].replace('"spans": [[', '"spans": [[900.0, ')
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_bad_rows_stop_or_are_dropped(make, synthetic, tmp_path):
    path = bad_rows(synthetic, tmp_path / "train.jsonl")
    with pytest.raises(SampleError, match=r"(?s)2 of 6 rows.*line 2: duration: got -.*line 5: spans") as error:
        make(train_file=path)
    assert "bad_rows" in str(error.value)
    assert len(make(train_file=path, bad_rows="drop").samples["train"]) == 4


def test_too_few_samples_for_a_step_stop_at_once(make):
    with pytest.raises(SampleError, match=r"has 6 samples, fewer than data.prompts_per_step = 8: not one step"):
        make(prompts_per_step=8)


def test_only_the_first_training_samples(make):
    data = make(limit_train=3)
    assert {split: len(samples) for split, samples in data.samples.items()}["train"] == 3
    assert len(data.samples["validation"]) >= 2


def test_a_path_leaves_room_for_the_answer(tiny_builder):
    """Many captions: a shorter path is drawn; captions that are too long alone: none."""
    data = GroundingDataModule("", "", "", max_completion_tokens=120)
    data._builders["train"] = tiny_builder
    captions = tuple(Caption(float(n), n + 1.0, "the red square moves left") for n in range(12))
    sample = Sample("a", "a.mp4", "the red square moves left", ((0.0, 1.0),), 12.0, captions=captions)
    paths = [data.draw_path(sample, random.Random(seed)) for seed in range(40)]
    assert all(0 < len(path) <= 120 - ROOM_FOR_ANSWER for path in paths)
    assert len({len(path) for path in paths}) > 1
    long = replace(sample, captions=(Caption(0.0, 1.0, "the red square " * 60),))
    assert data.draw_path(long, random.Random(0)) == ()
    highlights, several = replace(sample, task="highlights"), replace(sample, task="multi_span", spans=sample.spans * 2)
    assert data.draw_path(highlights, random.Random(0)) == ()
    data.max_completion_tokens = 250
    paths = [data.draw_path(several, random.Random(seed)) for seed in range(40)]
    assert all(0 < len(path) <= 250 - 2 * ROOM_FOR_ANSWER for path in paths)


def test_frames_are_decoded_once_and_the_oldest_are_dropped(tiny_builder, synthetic, monkeypatch):
    samples = load_samples(synthetic / "train.jsonl")
    loaded = []

    def counting(path, **settings):
        loaded.append(path)
        return load_video(path, **settings)

    monkeypatch.setattr("taro.data.dataset.load_video", counting)
    dataset = GroundingDataset(samples, tiny_builder, GroundingSettings(video=VideoSettings(fps=1.0, max_tokens=64)))
    first = [dataset[index] for index in range(len(samples))]
    again = [dataset[index] for index in range(len(samples))]
    videos = list(dict.fromkeys(sample.video for sample in samples))
    assert loaded == videos
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one.prompt.video.frames, two.prompt.video.frames)
    monkeypatch.setattr("taro.data.dataset.CACHED_BYTES", 0)
    dataset.videos.clear()
    dataset.cached_bytes = 0
    dataset[0], dataset[0]
    assert loaded == [*videos, videos[0], videos[0]] and not dataset.videos


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_all_three_read_frames_from_disk(make, tmp_path, monkeypatch, workers):
    """What another run has decoded; workers start without anything in memory."""

    def examples():
        data = make(workers=workers, frame_cache=DiskCacheSettings(str(tmp_path / "frames")))
        loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
        return [example for loader in loaders for batch in loader for example in batch]

    def never(*_, **settings):
        raise AssertionError("decoded")

    decoded = examples()
    monkeypatch.setattr("taro.data.dataset.load_video", never)
    for example, before in zip(examples(), decoded, strict=True):
        assert example.sample == before.sample
        assert torch.equal(example.prompt.video.frames, before.prompt.video.frames)


def with_duration(samples, number, duration, **changes):
    return [*samples[:number], replace(samples[number], duration=duration, **changes), *samples[number + 1 :]]


@pytest.mark.parametrize(
    ("off", "agrees"), [(0.0, True), (1.9, True), (-1.9, True), (2.1, False), (-2.1, False), (480.0, False), (6e5, False)]
)
def test_a_duration_that_is_not_the_videos_fails_its_sample_in_training_only(make, off, agrees):
    data = make()
    sample = data.samples["train"][0]
    found = data.train_dataloader().dataset[0].prompt.video.duration
    data.samples = {split: with_duration(data.samples["train"], 0, found + off) for split in data.samples}
    example = data.train_dataloader().dataset[0]
    assert (example.failure is None) == agrees
    if not agrees:
        stated = f"the sample's duration is {found + off:g} s, the video has {found:.2f} s"
        assert example.prompt is None and example.failure.startswith(f"VideoError: {sample.video}: {stated}")
    assert data.train_dataloader().dataset[1].failure is None and data.val_dataloader().dataset[0].failure is None


def test_a_long_videos_duration_may_be_off_by_a_share():
    assert durations_agree(1019.0, 1000.0) and not durations_agree(1021.0, 1000.0) and durations_agree(float("nan"), 10.0)


def test_a_clips_duration_is_the_clips(make):
    data = make()
    data.samples["train"][:2] = [
        replace(data.samples["train"][0], clip=(2.0, 8.0), duration=6.0),
        replace(data.samples["train"][0], clip=(2.0, 8.0), duration=16.0),
    ]
    dataset = data.train_dataloader().dataset
    assert dataset[0].failure is None
    assert "duration is 16 s, the clip from 2 to 8 s has 6.00 s" in dataset[1].failure


@pytest.mark.slow
def test_tasks_have_shares(make, synthetic, tmp_path):
    """A sample that comes again is rolled out anew; without weights nothing is as it wasn't."""
    samples = load_samples(synthetic / "train.jsonl")
    mixed = [replace(sample, task="actions") if place < 2 else sample for place, sample in enumerate(samples)]
    file = str(tmp_path / "mixed.jsonl")
    save_samples(mixed, file)
    data = make(train_file=file, task_weights={"actions": 2, "grounding": 1}, prompts_per_step=6)
    assert data.train_tasks == ["actions", "grounding"] and len(data.drawn_samples) == 6
    left_out = make(train_file=file, task_weights={"actions": 0, "grounding": 1})
    assert {sample.task for sample in left_out.drawn_samples} == {"grounding"}
    [batch] = data.train_dataloader()
    assert sorted(example.sample.task for example in batch) == ["actions"] * 4 + ["grounding"] * 2
    alone = data.on_after_batch_transfer(batch, 0)
    seeds = [example.seeds for example in alone]
    assert len({seed for own in seeds for seed in own}) == 4 * 6
    ranks = [make(trainer(0, 2, rank), train_file=file, task_weights=data.task_weights, prompts_per_step=6) for rank in (0, 1)]
    parts = [own.on_after_batch_transfer(next(iter(own.train_dataloader())), 0) for own in ranks]
    assert [example.seeds for part in parts for example in part] == seeds[::2] + seeds[1::2]  # also of what comes twice
    plain = make(train_file=file, prompts_per_step=6)
    [batch] = plain.train_dataloader()
    first = plain.on_after_batch_transfer(batch, 0)[0]
    assert first.seeds[0] == stable_seed("rollout", 0, 0, first.sample.id, 0)
    with pytest.raises(MixtureError, match="grounding: has 4 training samples and no weight"):
        make(train_file=file, task_weights={"actions": 1})


@pytest.mark.slow
def test_others_are_drawn_in_the_place_of_prompts(make):
    """They follow from the step, whatever was drawn before, and are those of one rank on several."""

    def drawn(number, steps=1, rank=None, places=(0, 1)):
        data = make(trainer(steps)) if rank is None else make(trainer(steps, 2, rank))
        data.train_dataloader()
        return [(example.sample.id, example.seeds) for example in data.draw_again(places, number)]

    alone = drawn(1)
    assert alone == drawn(1) and drawn(1, places=[1]) == alone[1:]
    assert [*drawn(1, rank=0, places=[0]), *drawn(1, rank=1, places=[0])] == alone
    rounds = [drawn(number, steps) for steps in range(3) for number in range(3)]
    assert len({seed for one in rounds for _, seeds in one for seed in seeds}) == 9 * 2 * 4
    assert sorted(id for steps in range(3) for id, _ in drawn(1, steps)) == sorted(s.id for s in make().samples["train"])


def test_hard_samples_come_more_often(make, synthetic, tmp_path):
    samples = load_samples(synthetic / "train.jsonl")
    scored = [replace(sample, extra={"difficulty": 100.0 if place else 50.0}) for place, sample in enumerate(samples)]
    file = str(tmp_path / "scored.jsonl")
    save_samples(scored, file)
    data = make(train_file=file, difficulty_weights="timelens2", prompts_per_step=6)
    [batch] = data.train_dataloader()
    assert {example.sample.id for example in batch} == {samples[0].id}
    assert len({seed for example in data.on_after_batch_transfer(batch, 0) for seed in example.seeds}) == 4 * 6
    with pytest.raises(DifficultyError, match=r"timelens: 6 of 6 training samples have no difficulty:"):
        make(difficulty_weights="timelens")
