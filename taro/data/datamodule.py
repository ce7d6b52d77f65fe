"""Samples -> prompts, in worker processes, and for training the constructed paths that the curriculum asks for.

G completions per prompt.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from taro.data.samples import Sample, load_samples
from taro.data.video import VideoError, load_video
from taro.models.prompt import Prompt, PromptBuilder, PromptError
from taro.models.settings import GroundingSettings
from taro.prompts import constructed_path
from taro.seeds import stable_seed


@dataclass(frozen=True)
class GroundingExample:
    """One sample with its prompt, or with the reason why it has none."""

    sample: Sample
    prompt: Prompt | None
    failure: str | None = None

    def to(self, device: torch.device | str) -> GroundingExample:
        return self if self.prompt is None else replace(self, prompt=self.prompt.to(device))


@dataclass(frozen=True)
class TrainingExample(GroundingExample):
    """Filled by the datamodule as the curriculum says, read by the training step."""

    prefixes: tuple[tuple[int, ...], ...] = ()  # (G) token ids of the constructed path of each completion, or ()
    seeds: tuple[int, ...] = ()  # (G) of the rollouts
    shuffle_seed: int = 0  # of the perturbation

    @property
    def constructed(self) -> torch.Tensor:
        """(G,) bool."""
        return torch.tensor([bool(prefix) for prefix in self.prefixes])


class GroundingDataset(Dataset):
    """Decodes a sample's video and builds its prompt; what is wrong with one sample is kept as its `failure`."""

    def __init__(self, samples: list[Sample], builder: PromptBuilder, settings: GroundingSettings) -> None:
        self.samples, self.builder, self.settings = samples, builder, settings

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> GroundingExample:
        sample = self.samples[index]
        try:
            video = load_video(
                sample.video, clip=sample.clip, settings=self.settings.video, geometry=self.builder.geometry
            )
            return GroundingExample(sample, self.builder.build(sample.query, video))
        except (VideoError, PromptError) as error:
            return GroundingExample(sample, None, f"{type(error).__name__}: {error}")


class EpochSampler(Sampler[int]):
    """A permutation of all samples that follows from seed and epoch; each rank takes its own, equally many.

    Lightning tells it the epoch.
    """

    def __init__(self, length: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.length, self.seed, self.rank, self.world_size, self.epoch = length, seed, rank, world_size, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length // self.world_size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(stable_seed("order", self.seed, self.epoch))
        order = torch.randperm(self.length, generator=generator).tolist()
        return iter(order[self.rank : len(self) * self.world_size : self.world_size])


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
        prompts_per_step: prompts of one optimizer step, over all ranks.
        evaluation_batch: samples of one validation or test batch, on each rank.
        workers: decoding processes of each rank.
        bad_rows: what to do with training rows whose values can't be right: `error` lists them and stops, `drop` goes on
            without them.
        seed: of the order of samples, the rollouts, the constructed paths and the perturbations.
        limit_train: use only the first so many training samples.
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
        prompts_per_step: int = 16,
        evaluation_batch: int = 16,
        workers: int = 2,
        bad_rows: Literal["error", "drop"] = "error",
        seed: int = 0,
        limit_train: int | None = None,
    ) -> None:
        super().__init__()
        self.name_or_path, self.video_root, self.grounding = name_or_path, video_root, grounding
        self.files = {"train": train_file, "validation": validation_file, "test": test_file}
        self.group_size, self.prompts_per_step, self.evaluation_batch = group_size, prompts_per_step, evaluation_batch
        self.workers, self.bad_rows, self.seed, self.limit_train = workers, bad_rows, seed, limit_train
        self.constructed_probability = 0.0  # set by CurriculumCallback
        self.samples: dict[str, list[Sample]] = {}
        self._builders: dict[str, PromptBuilder] = {}

    def setup(self, stage: str) -> None:
        """Read all samples files.

        Raises:
            SampleError: bad rows, all of them in one message.
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

    def builder(self, *, training: bool) -> PromptBuilder:
        """The prompt builder for training or for evaluation."""
        key = "train" if training else "evaluation"
        if key not in self._builders:
            settings = self.grounding if training else self.grounding.for_evaluation()
            self._builders[key] = PromptBuilder(self.name_or_path, settings.prompt, settings.max_prompt_tokens)
        return self._builders[key]

    def train_dataloader(self) -> DataLoader:
        world, rank = self.trainer.world_size, self.trainer.global_rank
        per_rank, samples = self.prompts_per_step // world, self.samples["train"]
        if len(samples) // world < per_rank:
            raise ValueError(
                f"data.train_file has {len(samples)} samples, fewer than data.prompts_per_step = {self.prompts_per_step}: "
                "not one step can be made"
            )
        dataset = GroundingDataset(samples, self.builder(training=True), self.grounding)
        sampler = EpochSampler(len(samples), self.seed, rank, world)
        return self._loader(dataset, per_rank, sampler=sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return self._evaluation_loader("validation")

    def test_dataloader(self) -> DataLoader:
        return self._evaluation_loader("test")

    def _evaluation_loader(self, split: str) -> DataLoader:
        samples = self.samples[split][self.trainer.global_rank :: self.trainer.world_size]
        dataset = GroundingDataset(samples, self.builder(training=False), self.grounding.for_evaluation())
        return self._loader(dataset, self.evaluation_batch)

    def _loader(self, dataset: GroundingDataset, batch_size: int, **settings: object) -> DataLoader:
        return DataLoader(
            dataset,
            batch_size,
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
        return [self.add_paths(example) for example in batch] if self.trainer.training else batch

    def add_paths(self, example: GroundingExample) -> TrainingExample:
        """Each completion starts with a constructed path with `constructed_probability`, each with its own subset of the
        captions; a sample without captions has none."""
        sample, epoch = example.sample, self.trainer.current_epoch
        rng = random.Random(stable_seed("paths", self.seed, epoch, sample.id))
        prefixes = []
        for _ in range(self.group_size):
            construct = rng.random() < self.constructed_probability and sample.captions
            path = constructed_path(sample.query, sample.captions, rng) if construct else ""
            prefixes.append(tuple(self.builder(training=True).encode(path)))
        return TrainingExample(
            **vars(example),
            prefixes=tuple(prefixes),
            seeds=tuple(stable_seed("rollout", self.seed, epoch, sample.id, g) for g in range(self.group_size)),
            shuffle_seed=stable_seed("shuffle", self.seed, sample.id),
        )
