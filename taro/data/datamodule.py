"""Samples -> prompts, in worker processes, and for training the constructed paths that the curriculum asks for.

G completions per prompt.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

import lightning as L
import torch
from torch.utils.data import DataLoader

from taro.cache import DiskCacheSettings
from taro.data.dataset import GroundingDataset
from taro.data.difficulties import Weighting, draw_weights
from taro.data.examples import GroundingExample, TrainingExample
from taro.data.mixture import TaskMixture
from taro.data.order import EpochSampler, EvaluationBatches
from taro.data.samples import Sample, SampleError, load_samples
from taro.models.prompt import PromptBuilder
from taro.models.settings import GroundingSettings
from taro.progress import steps_done
from taro.ranges import NonNegativeInt, PositiveInt
from taro.seeds import stable_seed
from taro.tasks import find_task

ROOM_FOR_ANSWER = 48  # tokens that a constructed path leaves to the policy for each span, at least


class GroundingDataModule(L.LightningDataModule):
    """Training, validation and test samples of temporal grounding.

    Args:
        name_or_path: the model whose tokenizer and patch geometry are used (follows `model.name_or_path`).
        train_file: samples to train on, JSON lines.
        validation_file: held-out samples that choose the best checkpoint; never a set that is reported.
        test_file: samples for the metrics before and after training; None reports none.
        video_root: folder that relative video paths start from; None: the folder of each file.
        grounding: prompt text, frames and sizes.
        group_size: G (follows `model.group_size`).
        max_completion_tokens: of a completion, constructed path included (follows `model.sampling.max_tokens`).
        prompts_per_step: prompts of one optimizer step, over all ranks.
        evaluation_batch: samples of one validation or test batch, on each rank.
        workers: decoding processes of each rank.
        bad_rows: what to do with training rows whose values can't be right: `error` lists them and stops, `drop` goes on
            without them.
        seed: of the order of samples, the rollouts, the constructed paths and the perturbations.
        limit_train: use only the first so many training samples.
        task_weights: share of each task among the prompts that are drawn, as {dense: 2, grounding: 1}; an epoch has as many as
            there are samples. None: as they are in the file.
        difficulty_weights: how often a sample is drawn for its `difficulty` (python -m taro.prepare.difficulty): `timelens`, a
            normal around a mean IoU of 0.05 over how many samples have such a one; `timelens2`, (1 - mean IoU)^2. An epoch has
            as many draws as there are samples. None: each comes once.
        frame_cache: folder that keeps the sampled frames of all videos across epochs and runs; None decodes them again.
    """

    def __init__(
        self,
        name_or_path: str,
        train_file: str,
        validation_file: str,
        test_file: str | None = None,
        video_root: str | None = None,
        grounding: GroundingSettings = GroundingSettings(),
        group_size: int = 8,
        max_completion_tokens: int = 1024,
        prompts_per_step: PositiveInt = 16,
        evaluation_batch: PositiveInt = 16,
        workers: NonNegativeInt = 2,
        bad_rows: Literal["error", "drop"] = "error",
        seed: int = 0,
        limit_train: PositiveInt | None = None,
        frame_cache: DiskCacheSettings | None = None,
        task_weights: dict[str, float] | None = None,
        difficulty_weights: Weighting | None = None,
    ) -> None:
        super().__init__()
        self.name_or_path, self.video_root, self.grounding = name_or_path, video_root, grounding
        self.files = {"train": train_file, "validation": validation_file, "test": test_file}
        self.group_size, self.max_completion_tokens = group_size, max_completion_tokens
        self.prompts_per_step, self.evaluation_batch = prompts_per_step, evaluation_batch
        self.workers, self.bad_rows, self.seed, self.limit_train = workers, bad_rows, seed, limit_train
        self.frame_cache, self.task_weights, self.difficulty_weights = frame_cache, task_weights, difficulty_weights
        self.constructed_probability = 0.0  # set by CurriculumCallback
        self.samples: dict[str, list[Sample]] = {}
        self._builders: dict[str, PromptBuilder] = {}

    def setup(self, stage: str) -> None:
        """Read all samples files.

        Raises:
            SampleError: bad rows, all of them in one message, or too few rows for one step.
            MixtureError: weights of tasks that don't fit the samples.
            DifficultyError: samples that are to be drawn by difficulty and have none.
        """
        for split, file in self.files.items():
            if file is not None and split not in self.samples:
                training = split == "train"
                self.samples[split] = load_samples(
                    file,
                    video_root=self.video_root,
                    bad_rows=self.bad_rows if training else "keep",
                    limit=self.limit_train if training else None,
                )
        if len(self.samples["train"]) < self.prompts_per_step:
            raise SampleError(
                f"data.train_file = {self.files['train']} has {len(self.samples['train'])} samples, fewer than "
                f"data.prompts_per_step = {self.prompts_per_step}: not one step can be made"
            )
        self.mixture()

    def mixture(self) -> TaskMixture | None:
        """What draws the training samples where tasks or difficulties have weights. Raises as `setup`."""
        if not (self.task_weights or self.difficulty_weights):
            return None
        samples = self.samples["train"]
        chances = self.difficulty_weights and draw_weights(samples, self.difficulty_weights)
        return TaskMixture([sample.task for sample in samples], self.task_weights or None, chances)

    @property
    def drawn_samples(self) -> list[Sample]:
        """Training samples without those of a task that has the weight 0."""
        weights = self.task_weights or {}
        return [sample for sample in self.samples["train"] if weights.get(sample.task, 1.0)]

    @property
    def train_tasks(self) -> list[str]:
        """Names of the tasks that training samples have."""
        return list(dict.fromkeys(sample.task for sample in self.samples["train"]))

    def builder(self, *, training: bool) -> PromptBuilder:
        """The prompt builder for training or for evaluation."""
        key = "train" if training else "evaluation"
        if key not in self._builders:
            settings = self.grounding if training else self.grounding.for_evaluation()
            self._builders[key] = PromptBuilder(self.name_or_path, settings.prompt, settings.max_prompt_tokens)
        return self._builders[key]

    def train_dataloader(self) -> DataLoader:
        world, rank = self.trainer.world_size, self.trainer.global_rank
        if self.prompts_per_step % world:
            raise ValueError(
                f"data.prompts_per_step = {self.prompts_per_step} can't be shared by {world} ranks: make it a multiple"
            )
        per_rank, samples = self.prompts_per_step // world, self.samples["train"]
        builder = self.builder(training=True)
        self.train_set = GroundingDataset(samples, builder, self.grounding, self.frame_cache, check_durations=True)
        self.sampler = EpochSampler(
            len(samples), self.seed, per_rank, lambda: steps_done(self.trainer), rank, world, self.mixture()
        )
        return self._loader(self.train_set, batch_size=per_rank, sampler=self.sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return self._evaluation_loader("validation")

    def test_dataloader(self) -> DataLoader:
        return self._evaluation_loader("test")

    def _evaluation_loader(self, split: str) -> DataLoader:
        samples, settings = self.samples[split], self.grounding.for_evaluation()
        dataset = GroundingDataset(samples, self.builder(training=False), settings, self.frame_cache)
        rank, world = self.trainer.global_rank, self.trainer.world_size
        return self._loader(dataset, batch_sampler=EvaluationBatches(len(samples), self.evaluation_batch, rank, world))

    def _loader(self, dataset: GroundingDataset, **settings: object) -> DataLoader:
        return DataLoader(
            dataset,
            collate_fn=list,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            **settings,
        )

    def transfer_batch_to_device(
        self, batch: list[GroundingExample], device: torch.device, dataloader_idx: int
    ) -> list[GroundingExample]:
        return [example.to(device) for example in batch]

    def on_after_batch_transfer(
        self, batch: list[GroundingExample], dataloader_idx: int
    ) -> list[GroundingExample] | list[TrainingExample]:
        """In training, draw the group's constructed paths and seeds. Here and not in the workers, which are ahead of the
        curriculum."""
        if not self.trainer.training:
            return batch
        if self.sampler.draw is None:  # each once in an epoch
            return [self.add_paths(example) for example in batch]
        step, drawn = self.sampler.place[1], self.sampler.of_step()
        before = [drawn[: self.sampler.in_step(place)] for place in range(len(batch))]
        again = [own.count(drawn[len(own)]) for own in before]
        return [self.add_paths(example, step, count) for example, count in zip(batch, again, strict=True)]

    def draw_again(self, places: Sequence[int], number: int) -> list[TrainingExample]:
        """Other prompts for these places of the step's batch, for the `number`-th time: what another order of the epoch has
        there. They follow from the step: a resumed run draws the same."""
        step, drawn = self.sampler.place[1], self.sampler.of_step(number)
        in_step = [self.sampler.in_step(place) for place in places]
        return [self.add_paths(self.train_set[drawn[place]], step, "again", number, place) for place in in_step]

    def draw_path(self, sample: Sample, rng: random.Random) -> tuple[int, ...]:
        """Token ids of a constructed path that leaves the policy room for its answer: while it is too long, it is drawn
        again from fewer captions. () where there is none, or the sample's task has none."""
        captions, task = list(sample.captions), find_task(sample.task)
        room = ROOM_FOR_ANSWER * (1 if task.single else max(1, len(sample.spans)))
        while (path := task.path(sample, captions, rng)) is not None:
            ids = self.builder(training=True).encode(path)
            if len(ids) <= self.max_completion_tokens - room:
                return tuple(ids)
            captions.remove(rng.choice(captions))
        return ()

    def add_paths(self, example: GroundingExample, *draw: int | str) -> TrainingExample:
        """Each completion starts with a constructed path with `constructed_probability`, each with its own subset of the
        captions; a sample without captions, or of a task without paths, has none. `draw`: tells apart the times that the
        sample comes in an epoch, where that may be more than once: it is rolled out anew each time."""
        sample, place = example.sample, (self.sampler.place[0], *draw)
        rng = random.Random(stable_seed("paths", self.seed, *place, sample.id))
        prefixes = []
        for _ in range(self.group_size):
            construct = rng.random() < self.constructed_probability
            prefixes.append(self.draw_path(sample, rng) if construct else ())
        return TrainingExample(
            **vars(example),
            prefixes=tuple(prefixes),
            seeds=tuple(stable_seed("rollout", self.seed, *place, sample.id, g) for g in range(self.group_size)),
            shuffle_seed=stable_seed("shuffle", self.seed, sample.id),
        )
