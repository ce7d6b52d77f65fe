"""Seconds of one GRPO step of TRL's GRPOTrainer, with images in place of a video, on the CPU:

    make trl-env
    .venv-trl/bin/python benchmarks/trl_peer.py --model FOLDER --images 10 --image-size 280 280 --prompt-tokens 1200

One prompt a step, `--group` completions of exactly `--completion` tokens, a reference model, the vision tower frozen. The sizes
that are reported are read from the trainer's own tensors; completions of another length, or unequal steps, are an error.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # a folder needs no hub, and TRL's telemetry would be timed

import accelerate
import numpy as np
import torch
import transformers
import trl
from datasets import Dataset
from PIL import Image
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    PrinterCallback,
    ProcessorMixin,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    TrainerCallback,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from trl import GRPOConfig, GRPOTrainer

WORD = " the"


class Clock:
    """Seconds by name in the current step, and the finished steps."""

    def __init__(self) -> None:
        self.current: Counter[str] = Counter()
        self.steps: list[Counter[str]] = []

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.current[name] += time.perf_counter() - start

    def end_step(self) -> None:
        self.steps.append(self.current)
        self.current = Counter()


class ImagesOnly(Qwen2_5_VLProcessor):
    """Qwen2.5-VL's processor without its video part, which needs torchvision."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        self.clock = Clock()
        # Not the class's own __init__: that asks for a video processor.
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.clock.timed("preprocess"):
            return super().__call__(*args, **kwargs)


class TimedTrainer(GRPOTrainer):
    """GRPOTrainer with a clock around its phases; `batch` is what the last step trained on."""

    clock: Clock
    batch: dict[str, Any]

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        with self.clock.timed("training_step"):
            return super().training_step(*args, **kwargs)

    def _prepare_inputs(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        with self.clock.timed("rollout"):
            self.batch = super()._prepare_inputs(*args, **kwargs)
        return self.batch

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        with self.clock.timed("generate"):
            return super()._generate_single_turn(*args, **kwargs)

    def _get_per_token_logps_and_entropies(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        name = "reference" if model is self.ref_model else "log_probs" if torch.is_grad_enabled() else "old_log_probs"
        with self.clock.timed(name):
            return super()._get_per_token_logps_and_entropies(model, *args, **kwargs)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Tensor:
        with self.clock.timed("compute_loss"):
            return super().compute_loss(*args, **kwargs)


class Steps(TrainerCallback):
    """Times whole steps: generation, reference, update. Reading the dataset comes before and is left out."""

    def __init__(self, clock: Clock, check: Callable[[], None]) -> None:
        self.clock, self.check = clock, check

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.clock.current.clear()
        self.start = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.clock.current["step"] = time.perf_counter() - self.start
        self.check()
        self.clock.end_step()


def random_reward(completions: list[Any], **_: Any) -> list[float]:
    return [random.random() for _ in completions]


def random_images(count: int, height: int, width: int, rng: np.random.Generator) -> list[Image.Image]:
    return [Image.fromarray(rng.integers(256, size=(height, width, 3), dtype=np.uint8)) for _ in range(count)]


def filler(processor: ImagesOnly, images: list[Image.Image], tokens: int) -> str:
    """The text that makes the whole prompt `tokens` tokens long, or shorter by less than one word."""

    def count(text: str) -> int:
        content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}]
        messages = [[{"role": "user", "content": content}]]
        encoded = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
        return len(encoded["input_ids"][0])

    empty, each = count(""), count(WORD * 2) - count(WORD)
    if tokens < empty:
        raise ValueError(f"--prompt-tokens {tokens}: the images and the chat template alone take {empty}")
    return WORD * ((tokens - empty) // each)


def make_trainer(args: argparse.Namespace, output: str) -> TimedTrainer:
    """The trainer with its data, not started."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(args.model, dtype=torch.float32)
    model.model.visual.requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    processor = ImagesOnly(Qwen2VLImageProcessorPil.from_pretrained(args.model), tokenizer, tokenizer.chat_template)

    # Nothing ends a completion early, and none writes an image.
    never = {*tokenizer.all_special_ids, model.config.image_token_id, model.config.video_token_id}

    rng = np.random.default_rng(args.seed)
    images = [random_images(args.images, *args.image_size, rng) for _ in range(args.steps + 1)]
    prompt = [{"role": "user", "content": filler(processor, images[0], args.prompt_tokens)}]
    dataset = Dataset.from_dict({"prompt": [prompt] * len(images), "images": images})

    config = GRPOConfig(
        output_dir=output,
        seed=args.seed,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        max_steps=len(images),
        per_device_train_batch_size=args.group,
        gradient_accumulation_steps=1,
        num_generations=args.group,
        num_iterations=1,
        max_completion_length=args.completion,
        generation_kwargs={"suppress_tokens": sorted(never), "use_cache": True},
        temperature=1.0,
        beta=0.01,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        weight_decay=0.01,
        max_grad_norm=1.0,
        logging_strategy="no",
        log_multimodal=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = TimedTrainer(model, random_reward, config, train_dataset=dataset, processing_class=processor)
    trainer.remove_callback(PrinterCallback)
    trainer.clock = processor.clock
    return trainer


def count_tower_passes(trainer: TimedTrainer) -> Counter[str]:
    """Counts, from now on, the passes of both vision towers and the images in them."""
    seen: Counter[str] = Counter()

    def count(_: nn.Module, inputs: Any, kwargs: dict[str, Any], output: Any) -> None:
        seen["passes"] += 1
        seen["images"] += len(kwargs["grid_thw"])

    for model in (trainer.model, trainer.ref_model):
        model.model.visual.register_forward_hook(count, with_kwargs=True)
    return seen


def sizes(trainer: TimedTrainer, tower: Counter[str]) -> dict[str, int]:
    """The sizes of the step that has just ended, from its tensors. Every completion is as long as every other, and so are the
    prompts.

    Raises:
        ValueError: a prompt or a completion is padded, or the prompt's image tokens aren't the images'.
    """
    batch = trainer.batch
    if not (batch["prompt_mask"].all() and batch["completion_mask"].all()):
        raise ValueError("some prompts or completions are shorter than others")
    group, prompt = batch["prompt_ids"].shape
    merged = trainer.model.config.vision_config.spatial_merge_size ** 2
    visual = int((batch["prompt_ids"] == trainer.model.config.image_token_id).sum()) // group
    if visual * group * merged != len(batch["pixel_values"]):
        raise ValueError(f"{visual} image tokens a prompt, but {len(batch['pixel_values'])} patches for {group} of {merged}")
    return {
        "group": group,
        "prompt_tokens": prompt,
        "completion_tokens": batch["completion_ids"].shape[1],
        "visual_tokens": visual,
        "images": len(batch["image_grid_thw"]) // group,
        "tower_passes": tower["passes"],
        "tower_images": tower["images"],
    }


def phases(step: Counter[str]) -> dict[str, float]:
    """The step in parts that add up to it, seconds."""
    parts = {name: step[name] for name in ("preprocess", "generate", "old_log_probs", "reference")}
    return {
        **parts,
        "policy_forward": step["compute_loss"],
        "policy_backward": step["training_step"] - step["rollout"] - step["compute_loss"],
        "optimizer": step["step"] - step["training_step"],
        "other": step["rollout"] - sum(parts.values()),
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Train for `args.steps` steps after one to warm up; returns what is printed."""
    with tempfile.TemporaryDirectory() as output:
        trainer = make_trainer(args, output)
        tower, seen = count_tower_passes(trainer), []

        def check() -> None:
            seen.append(sizes(trainer, tower))
            tower.clear()

        trainer.add_callback(Steps(trainer.clock, check))
        trainer.train()
    if any(size != seen[0] for size in seen) or seen[0]["completion_tokens"] != args.completion:
        raise ValueError(f"asked for {args.completion} tokens a completion and equal steps, got {seen}")
    steps = trainer.clock.steps[1:]
    parts = [phases(step) for step in steps]
    return {
        "versions": {module.__name__: module.__version__ for module in (torch, transformers, trl, accelerate)},
        "threads": torch.get_num_threads(),
        "attention": trainer.model.config._attn_implementation,
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        **seen[0],
        "seconds": [round(step["step"], 4) for step in steps],
        "median": round(statistics.median(step["step"] for step in steps), 4),
        "phases": {name: round(statistics.median(part[name] for part in parts), 4) for name in parts[0]},
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="folder of a Qwen2.5-VL")
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--image-size", type=int, nargs=2, default=[280, 280], metavar=("H", "W"), help="pixels")
    parser.add_argument("--prompt-tokens", type=int, default=1200, help="the whole prompt, with its visual tokens")
    parser.add_argument("--group", type=int, default=8, help="completions of a prompt")
    parser.add_argument("--completion", type=int, default=96, help="tokens of each completion")
    parser.add_argument("--steps", type=int, default=3, help="timed steps; one more comes first")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None, help="the printed line goes to this file too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    line = json.dumps(measure(args))
    print(line)
    if args.json is not None:
        args.json.write_text(line + "\n")


if __name__ == "__main__":
    main()
