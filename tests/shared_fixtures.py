"""A small random model of each family and a few synthetic videos. The models are shared by all tests: who trains or
changes one takes `own_policy`."""

from __future__ import annotations

import importlib
import os
import runpy
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import lightning as L
import made_once  # noqa: F401
import pytest
import torch
from filelock import FileLock
from recorded import write_run
from torch import distributed

from taro.data.samples import load_samples, save_samples
from taro.models.families import FAMILIES
from taro.models.prompt import PromptBuilder
from taro.models.qwen_vl import QwenVL
from taro.models.settings import GroundingSettings
from taro.rollout import RolloutGroup
from taro.run.cli import parse
from taro.synthetic.architecture import TINY_PROMPT, save_random
from taro.synthetic.pretraining import scene_video
from taro.synthetic.world import WorldSettings, draw_scene, make_split, write_video
from taro.video.geometry import frames_to_patches
from taro.video.load import VideoSettings

ROOT = Path(__file__).parents[1]
SHORT_VIDEO = VideoSettings(fps=1.0, max_frames=16, max_tokens=64, min_tokens_per_frame=4)


@pytest.fixture(scope="session", params=sorted(FAMILIES))
def family(request):
    return request.param


def save_lively(folder, family):
    """Random weights, larger than transformers' 0.02: with those the outputs hardly depend on the inputs."""
    save_random(folder, family, seed=1, layers=2)
    policy = QwenVL.from_pretrained(str(folder))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5.0)
            else:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    policy.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Folders that are filled once for all processes of pytest: `once("name", fill)`, where `fill` gets the empty folder."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def filled(name, fill):
        folder, done = base / f"once-{name}", base / f"once-{name}.done"
        with FileLock(base / f"once-{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return filled


@pytest.fixture(scope="session")
def model_folder(family, once):
    return str(once(family, lambda folder: save_lively(folder, family)))


@pytest.fixture(scope="session")
def tiny_folder(once):
    """The same for what is alike in both families."""
    return str(once("qwen2_5_vl", lambda folder: save_lively(folder, "qwen2_5_vl")))


@pytest.fixture(scope="session")
def synthetic(once):
    """Folder with train.jsonl (6 queries), validation.jsonl and test.jsonl (2 or 3 each) and their videos."""

    def fill(folder):
        for split, videos in (("train", 3), ("validation", 1), ("test", 1)):
            samples = make_split(folder, split, videos, seed=0, settings=WorldSettings(), workers=1)
            save_samples(samples[:6], folder / f"{split}.jsonl", relative_to=folder)

    return once("synthetic", fill)


@pytest.fixture(scope="session")
def grounding():
    """Settings in which evaluation is as training."""
    return GroundingSettings(TINY_PROMPT, VideoSettings(fps=1.0, max_tokens=64), 1024, None, 1024)


@pytest.fixture
def model(tiny_folder, grounding, tmp_path):
    """A model folder with the settings that it was trained with."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in Path(tiny_folder).iterdir():
        (folder / path.name).symlink_to(path)
    grounding.save(folder)
    return str(folder)


@pytest.fixture
def traced(synthetic, tmp_path):
    """The training samples with one or two traces each, of different lengths."""
    answer = "</think><answer>{0}s to {1}s</answer>"
    texts = [f"<think>From {{0}}s to {{1}}s, it moves{answer}", f"<think>{answer}"]
    samples = [
        replace(sample, extra={"traces": [text.format(*sample.spans[0]) for text in texts[: 1 + place % 2]]})
        for place, sample in enumerate(load_samples(synthetic / "train.jsonl"))
    ]
    save_samples(samples, tmp_path / "traced.jsonl")
    return tmp_path / "traced.jsonl"


@pytest.fixture
def damaged(synthetic, tmp_path):
    """The training samples, of which the first video is missing, the second empty, the third truncated."""
    samples = load_samples(synthetic / "train.jsonl")
    content = Path(samples[0].video).read_bytes()
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "truncated.mp4").write_bytes(content[: len(content) // 2])
    names = ("missing.mp4", "empty.mp4", "truncated.mp4")
    rows = [replace(sample, video=str(tmp_path / name)) for sample, name in zip(samples, names, strict=False)]
    save_samples([*rows, *samples[3:]], tmp_path / "damaged.jsonl")
    return tmp_path / "damaged.jsonl"


@pytest.fixture
def run_folder(tmp_path):
    """Of a run, with its rollouts alone: see `recorded`."""
    return write_run(tmp_path / "run")


@pytest.fixture
def run_module(monkeypatch):
    """Runs a command as `python -m` does, but in this process; gives its exit code, or its last words."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as leaving, warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # that it is imported already
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        return leaving.value.code

    return run


@pytest.fixture(scope="session")
def rank_environment():
    """For a command that may start several ranks: one thread each, and without the rank and the port that an engine or a run in
    this process leaves behind. By the rank Lightning would take the run for one whose other ranks are started by somebody else,
    and wait for them; at the port this process still listens."""
    ranks = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in os.environ.items() if name not in ranks}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="session")
def import_benchmark():
    """Imports a module of benchmarks/ by name; those that it imports are found beside it, as when it is run."""

    def load(name):
        with pytest.MonkeyPatch.context() as patched:
            patched.syspath_prepend(str(ROOT / "benchmarks"))
            return importlib.import_module(name)

    return load


@pytest.fixture
def no_process_group():
    """What a run in this process has left behind is gone."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


@pytest.fixture
def process_group(no_process_group, tmp_path):
    """torch.distributed with this process alone."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture
def arguments(tiny_folder, synthetic, tmp_path):
    """Arguments of train.py for a run of 2 epochs of 3 steps of 2 prompts with 3 completions each, in `tmp_path`."""
    return [
        f"--model.name_or_path={tiny_folder}",
        f"--output_dir={tmp_path}",
        "--name=run",
        "--model.group_size=3",
        "--model.sampling.max_tokens=96",
        "--model.evaluation_max_tokens=8",
        f"--data.train_file={synthetic}/train.jsonl",
        f"--data.validation_file={synthetic}/validation.jsonl",
        "--data.test_file=null",
        "--data.prompts_per_step=2",
        "--data.workers=0",
        "--data.grounding.video.fps=1.0",
        "--data.grounding.video.max_tokens=64",
        "--trainer.max_epochs=2",
        "--trainer.max_steps=-1",
        "--trainer.val_check_interval=2",
        "--curriculum.warmup_epochs=1",
        "--progress_bar.refresh_rate=0",
    ]


@pytest.fixture
def short(arguments):
    """The same run with two completions of a few tokens each, and without shuffled passes: for processes, in which no
    engine can be scripted."""
    own = ["--model.group_size=2", "--model.sampling.max_tokens=8", "--curriculum.warmup_epochs=0"]
    return [*arguments, *own, "--model.temporal_reward=null"]


class ScriptedEngine:
    """A rollout engine without a model: each completion is its prefix and then the tokens that `script` gives for its
    place in its group, its seed and its prompt's number."""

    is_policy = True
    stale = False

    def __init__(self, script):
        self.script, self.synced = script, 0

    def sleep(self):
        pass

    def close(self):
        pass

    def restart(self):
        raise AssertionError("a scripted engine does not fail")

    def generate(self, prompts, sampling):
        groups = []
        for number, prompt in enumerate(prompts):
            rows = [
                torch.tensor([*prefix, *self.script(row, seed, number)])
                for row, (prefix, seed) in enumerate(zip(prompt.prefixes, prompt.seeds, strict=True))
            ]
            nothing = tuple(torch.full((len(row),), float("nan")) for row in rows)
            groups.append(RolloutGroup(tuple(rows), nothing, (True,) * len(rows)))
        return groups

    def stream(self, prompts, sampling, at_once):
        yield from enumerate(self.generate(list(prompts), sampling))

    def sync(self, named_parameters):
        self.synced += 1


ENDINGS = (
    "</think><answer>2.0s to 7.0s</answer>",
    "the</think><answer>1.0s to 15.0s</answer>",
    "From 1.0s to 9.0s</think><answer>9.5s to 12.0s</answer>",
    "I need to find",
    "</think><answer>6.0s to 12.0s</answer>",
)


@pytest.fixture(scope="session")
def tiny_builder(tiny_folder):
    return PromptBuilder(tiny_folder, TINY_PROMPT, max_tokens=1024)


@pytest.fixture
def scripted(monkeypatch, tiny_builder):
    """Puts a ScriptedEngine into GRPOModule; by default a completion ends in one of ENDINGS, chosen by its seed."""
    endings = [[*tiny_builder.encode(text), tiny_builder.eos_id] for text in ENDINGS]

    def install(script=lambda row, seed, number: endings[seed % len(endings)], kind=ScriptedEngine):
        monkeypatch.setattr("taro.rollout.start.NativeEngine", lambda *_: kind(script))

    install()
    install.engine = ScriptedEngine  # to make others from
    return install


@pytest.fixture
def fit():
    """Training as train.py does it, without its files; and without validations, unless the arguments ask for them."""

    def run(arguments, *callbacks):
        cli = parse(["--trainer.limit_val_batches=0", *arguments])
        cli.trainer.callbacks += callbacks
        cli.fit()
        return cli

    return run


class StepMetrics(L.Callback):
    """What each training step logs, and the records it returns."""

    def __init__(self):
        self.metrics, self.records, self.batches = [], [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        self.records.append(outputs["rollouts"])
        self.batches.append(batch)

    def column(self, name):
        return [row[name] for row in self.metrics]


@pytest.fixture
def steps():
    return StepMetrics()


@pytest.fixture(scope="session")
def builder(model_folder):
    return PromptBuilder(model_folder, TINY_PROMPT, max_tokens=1024)


@pytest.fixture(scope="session")
def policy(model_folder):
    return QwenVL.from_pretrained(model_folder).eval().requires_grad_(False)


@pytest.fixture
def own_policy(model_folder):
    policy = QwenVL.from_pretrained(model_folder)
    policy.freeze_tower()
    return policy


@pytest.fixture(scope="session")
def scenes():
    return [draw_scene(seed) for seed in range(4)]


@pytest.fixture(scope="session")
def video_file(scenes, tmp_path_factory):
    """A real H.264 file of the first scene."""
    path = tmp_path_factory.mktemp("videos") / "scene.mp4"
    write_video(scenes[0], path)
    return path


@pytest.fixture
def video_path(video_file, tmp_path):
    """A copy that a test may change."""
    return str(shutil.copy2(video_file, tmp_path / "scene.mp4"))


@pytest.fixture(scope="session")
def prompts(builder, scenes):
    """Prompts of different lengths."""
    videos = [scene_video(scene, SHORT_VIDEO, builder.geometry) for scene in scenes]
    queries = [" ".join([scene.events[0].text] * (1 + number)) for number, scene in enumerate(scenes)]
    return [builder.build(query, video) for query, video in zip(queries, videos, strict=True)]


@pytest.fixture(scope="session")
def plain_logits():
    """The slow and obvious way: transformers' whole model on one prompt and one completion, video included."""

    def logits_of(policy, prompt, completion):
        """Float32 logits that predict each completion token and what follows, (C + 1, V); suppressed ones -inf."""
        completion = torch.as_tensor(completion, dtype=torch.long)
        start = int(prompt.position_ids.max()) + 1
        following = torch.arange(start, start + len(completion)).expand(3, -1)
        frames = prompt.video.frames
        output = policy.model(
            input_ids=torch.cat([prompt.input_ids, completion])[None],
            position_ids=torch.cat([prompt.position_ids, following], dim=1)[:, None],
            pixel_values_videos=frames_to_patches(frames, policy.geometry),
            video_grid_thw=torch.tensor([policy.geometry.grid(frames.shape)]),
        )
        logits = output.logits[0, len(prompt.input_ids) - 1 :].float()
        suppressed = torch.zeros(logits.shape[-1], dtype=torch.bool)
        suppressed[policy.suppressed_ids] = True
        return logits.masked_fill(suppressed, float("-inf"))

    return logits_of


@pytest.fixture(scope="session")
def plain_log_probs(plain_logits):
    """(C,) log-probs of a completion's tokens by `plain_logits`."""

    def log_probs_of(policy, prompt, completion, temperature=1.0):
        logits = plain_logits(policy, prompt, completion)[: len(completion)]
        index = torch.as_tensor(completion, dtype=torch.long)[:, None]
        return torch.log_softmax(logits / temperature, dim=-1).gather(-1, index)[:, 0]

    return log_probs_of
