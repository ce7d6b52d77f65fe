"""Train a tiny base model from scratch, on a CPU; its `recipe.json` says how long it took:

    python -m taro.synthetic.tiny --family qwen2_5_vl --output assets/tiny-qwen2.5-vl

Bases that differ in the last stage alone can share the others, which are kept in `--start` and found there. What was
stopped goes on after its last whole stage:

    python -m taro.synthetic.tiny --output outputs/bases/p0.002 --start assets/tiny-qwen2.5-vl-start --timed_reasoning 0.002

One that knows other tasks, too, and reasons with times:

    python -m taro.synthetic.tiny --output assets/tiny-qwen2.5-vl-tasks --start outputs/bases/start-tasks --timed_reasoning 1 \
        --tasks grounding multi_span dense grounded_qa actions
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from taro.command_line import Parser
from taro.errors import clean_exit
from taro.evaluation.metrics import GroundingMetrics
from taro.files import PART, publish
from taro.lock import lock_file
from taro.models.prompt import PromptBuilder
from taro.models.qwen_vl import QwenVL
from taro.models.settings import GroundingSettings
from taro.progress import on_terminal
from taro.prompts import parse_answer
from taro.rollout import NativeEngine, RolloutPrompt, SamplingSettings
from taro.synthetic.architecture import FAMILIES, TINY_PROMPT, TINY_VIDEO, save_random
from taro.synthetic.pretraining import (
    CaptionDataset,
    ClipDataset,
    DecoderStage,
    Stage,
    Targets,
    TextDataset,
    TowerStage,
    VideoDataset,
    collate_examples,
    scene_video,
)
from taro.synthetic.recipe import Recipe, check_start, read_recipe, write_recipe
from taro.synthetic.world import draw_scene

CAPTION_PROMPT = "What happens in these {seconds} seconds?"
CAPTIONER_STEPS, CAPTIONER_BATCH = 150, 16
MEASURED = ("exact_labels", "noisy_labels")  # stages after which answers are scored


def train(family: str, output: Path, recipe: Recipe, start: Path | None = None) -> dict:
    """Run the recipe and write the model folder; returns what is written to its `recipe.json`.

    Args:
        start: a folder that keeps the model after all stages but the last: made if it is not there, and else begun with.

    Raises:
        RecipeError: `start` holds a model of another family, or of other settings of the stages that made it.
    """
    if start is None:
        with tempfile.TemporaryDirectory() as folder:
            return train(family, output, recipe, Path(folder) / "start")
    if not start.exists():
        learn_to_ground(family, start, recipe)
    log = check_start(start, family, recipe)
    policy, builder, settings = load(start)
    policy.freeze_tower()
    targets = Targets(recipe.pretending_widen, recipe.pretending_first_event, recipe.timed_reasoning, recipe.tasks)
    scenes = video_dataset(policy, builder, settings, recipe.pretending_steps * recipe.video_batch, recipe.seed + 2, targets)
    stage = DecoderStage(policy, recipe.pretending_steps, muon_lr=0.004, adam_lr=1e-3)
    log["recipe"] = asdict(recipe)
    log["metrics"]["pretending"], log["seconds"]["pretending"] = fit(stage, scenes, recipe.video_batch, recipe.seed)
    shutil.copytree(start, output, dirs_exist_ok=True)
    policy.save_pretrained(output, dtype="float16")
    log["metrics"]["shipped"] = evaluate(*load(output), queries=256)
    log["parameters"] = sum(parameter.numel() for parameter in policy.parameters())
    write_recipe(output, log)
    return log


def learn_to_ground(family: str, output: Path, recipe: Recipe) -> None:
    """Write the model after all stages but the last: its reasoning times every event. What the last whole stage has made is
    kept in `output`.unfinished, where the same command goes on.

    Raises:
        RecipeError: what is kept is of another family, or of other settings.
        FolderInUse: another command works there.
    """
    kept = output.with_name(f"{output.name}.unfinished")
    kept.mkdir(parents=True, exist_ok=True)
    with lock_file(kept / "lock", kept, "wait until it has ended, or name another --start"):
        if not any(kept.glob("stage_?")):
            with whole_folder(kept / "stage_0") as folder:
                save_random(folder, family, recipe.seed)
                GroundingSettings(TINY_PROMPT, TINY_VIDEO, 1024, None, 1024).save(folder)
                write_recipe(folder, {"family": family, "recipe": asdict(recipe), "metrics": {}, "seconds": {}})
        last = max(kept.glob("stage_?"))
        log = check_start(last, family, recipe, otherwise=f"remove {kept} to begin anew")
        policy, builder, settings = load(last)
        for number, (name, stage, samples, batch) in enumerate(list_stages(policy, builder, settings, recipe), start=1):
            if name in log["seconds"]:
                continue
            log["metrics"][name], log["seconds"][name] = fit(stage, samples, batch, recipe.seed)
            if name in MEASURED:
                log["metrics"][name] |= evaluate(policy, builder, settings, queries=256)
            with whole_folder(kept / f"stage_{number}", like=last) as folder:
                policy.save_pretrained(folder)
                write_recipe(folder, log)
            shutil.rmtree(last)
            last = kept / f"stage_{number}"
        with whole_folder(output, like=last) as folder:
            policy.save_pretrained(folder, dtype="float16")
    shutil.rmtree(kept)


def list_stages(
    policy: QwenVL, builder: PromptBuilder, settings: GroundingSettings, recipe: Recipe
) -> Iterator[tuple[str, Stage, Dataset, int]]:
    """Name, module, samples and batch of each stage but the last, made when it is its turn."""
    clips = ClipDataset(recipe.tower_steps * recipe.tower_batch, recipe.seed, builder.geometry)
    L.seed_everything(recipe.seed, verbose=False)  # of the heads' weights
    yield "tower", TowerStage(policy, recipe.tower_steps, muon_lr=0.02), clips, recipe.tower_batch
    policy.freeze_tower()

    labelled = Targets(tasks=recipe.tasks)
    text = TextDataset(recipe.text_steps * recipe.text_batch, recipe.seed, builder, labelled)
    yield "text", DecoderStage(policy, recipe.text_steps), text, recipe.text_batch

    exact = video_dataset(policy, builder, settings, recipe.video_steps * recipe.video_batch, recipe.seed, labelled)
    yield "exact_labels", DecoderStage(policy, recipe.video_steps), exact, recipe.video_batch

    targets = Targets(recipe.widen, recipe.first_event, tasks=recipe.tasks)
    noisy = video_dataset(policy, builder, settings, recipe.noisy_steps * recipe.video_batch, recipe.seed + 1, targets)
    stage = DecoderStage(policy, recipe.noisy_steps, muon_lr=0.004, adam_lr=1e-3)
    yield "noisy_labels", stage, noisy, recipe.video_batch


@contextmanager
def whole_folder(path: Path, like: Path | None = None) -> Iterator[Path]:
    """A folder to write to, with what is in `like`, that has its name when all is written."""
    part = path.with_name(f"{path.name}{PART}")
    if part.exists():  # of a command that was killed
        shutil.rmtree(part)
    part.mkdir(parents=True)
    if like is not None:
        shutil.copytree(like, part, dirs_exist_ok=True)
    yield part
    publish(part, path)


def train_captioner(output: Path, start: Path) -> None:
    """Write a model that answers `CAPTION_PROMPT`, from one that can ground: what captions of it are like, is what the
    settings in `taro.synthetic.captions` go by."""
    log, (policy, _, settings) = read_recipe(start), load(start)
    policy.freeze_tower()
    builder = PromptBuilder(str(start), CAPTION_PROMPT.replace("{seconds}", "{query}"), settings.max_prompt_tokens)
    steps, batch = CAPTIONER_STEPS, CAPTIONER_BATCH
    scenes = CaptionDataset(steps * batch, log["recipe"]["seed"] + 3, builder, policy, settings.video, Targets())
    stage = DecoderStage(policy, steps, muon_lr=0.004, adam_lr=1e-3)
    log["metrics"]["captioning"], log["seconds"]["captioning"] = fit(stage, scenes, batch, 0)
    shutil.copytree(start, output, dirs_exist_ok=True)
    policy.save_pretrained(output, dtype="float16")
    write_recipe(output, log)


def load(folder: Path) -> tuple[QwenVL, PromptBuilder, GroundingSettings]:
    settings = GroundingSettings.load(folder)
    builder = PromptBuilder(str(folder), settings.prompt, settings.max_prompt_tokens)
    return QwenVL.from_pretrained(str(folder)), builder, settings


def video_dataset(
    policy: QwenVL, builder: PromptBuilder, settings: GroundingSettings, scenes: int, seed: int, targets: Targets
) -> VideoDataset:
    return VideoDataset(scenes, seed, builder, policy, settings.video, targets)


def fit(stage: Stage, dataset: Dataset, batch_size: int, seed: int) -> tuple[dict[str, float], int]:
    """Train one stage; returns its last logged values, and seconds."""
    L.seed_everything(seed, verbose=False)
    decoder = isinstance(stage, DecoderStage)
    loader = DataLoader(
        dataset, batch_size, num_workers=1, prefetch_factor=8, collate_fn=collate_examples if decoder else None
    )
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=on_terminal(),
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    started = time.time()
    trainer.fit(stage, loader)
    values = {name: round(float(value), 4) for name, value in trainer.callback_metrics.items()}
    seconds = round(time.time() - started)
    print(f"{type(stage).__name__}: {stage.steps} steps, {seconds} s, {values}", flush=True)
    return values, seconds


@torch.no_grad()
def evaluate(policy: QwenVL, builder: PromptBuilder, settings: GroundingSettings, queries: int) -> dict[str, float]:
    """Greedy answers to one query for each of `queries` scenes of their own."""
    policy.eval()
    engine, metrics = NativeEngine(policy, builder.end_ids), GroundingMetrics()
    for start in range(0, queries, 32):
        scenes = [draw_scene(8_000_000_000_000_000_000 + start + number) for number in range(32)]
        events = [scene.events[scene.seed % len(scene.events)] for scene in scenes]
        prompts = [
            RolloutPrompt(builder.build(event.text, scene_video(scene, settings.video, builder.geometry)), ((),), (0,))
            for scene, event in zip(scenes, events, strict=True)
        ]
        groups = engine.generate(prompts, SamplingSettings(temperature=0.0, max_tokens=192))
        texts = [builder.decode(group.completions[0]) for group in groups]
        metrics.update([parse_answer(text) for text in texts], [[(e.start, e.end)] for e in events], texts)
    policy.train()
    values = {name: round(float(value), 4) for name, value in metrics.compute().items()}
    print(values, flush=True)
    return values


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--family", choices=FAMILIES, default=FAMILIES[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--captioner", action="store_true", help="make a captioner of the model in --start, and no base")
    parser.add_argument("--start", type=Path, help="keep the model after all stages but the last here, or begin with it")
    for name, value in asdict(Recipe()).items():
        several = isinstance(value, tuple)
        parser.add_argument(f"--{name}", type=str if several else type(value), nargs="+" if several else None, default=value)
    args = vars(parser.parse_args(arguments))
    family, output, start = args.pop("family"), args.pop("output"), args.pop("start")
    if args.pop("captioner"):
        if start is None or not start.is_dir():
            parser.error("--captioner: begins with the model in --start, which is made with a base")
        train_captioner(output, start)
    else:
        train(family, output, Recipe(**args), start)


if __name__ == "__main__":
    with clean_exit():
        main()
