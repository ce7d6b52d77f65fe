"""What does not fit is told before anything is loaded, all of it at once."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from checkpoint_content import assert_equal, read_all

from taro.data.samples import load_samples, save_samples
from taro.models.checkpoint import CheckpointError, begin, write
from taro.run import train
from taro.run.checks import ConfigError
from taro.run.cli import parse
from taro.run.resume import ResumePoint, identity_of, list_misfits
from taro.synthetic.architecture import save_random

pytestmark = pytest.mark.slow  # as a whole file: real runs


@pytest.fixture
def run(learning, scripted, tmp_path):
    """Arguments of a run that has done 4 of 6 steps, to go on with."""
    train.main([*learning, "--trainer.max_steps=4"])
    return [*learning, "--ckpt_path=last"]


@pytest.fixture
def no_weights(monkeypatch):
    def forbid():
        monkeypatch.setattr("taro.models.qwen_vl.QwenVL.from_pretrained", None)

    return forbid


def misfits(arguments, no_weights, before):
    """The lines of the error; nothing in the folder has changed."""
    no_weights()
    files = {path: path.stat().st_mtime_ns for path in before.rglob("*")}
    with pytest.raises(ConfigError) as error:
        train.main(arguments)
    assert {path: path.stat().st_mtime_ns for path in before.rglob("*")} == files
    head, *lines = str(error.value).splitlines()
    assert head == f"the run can't go on from {before}/checkpoints/step_000004.ckpt:"
    return lines


def test_all_at_once(run, no_weights, synthetic, tmp_path):
    other = save_random(tmp_path / "other", "qwen3_vl")
    rows = load_samples(synthetic / "train.jsonl")
    save_samples([replace(row, query=f"{row.query} again") for row in rows], tmp_path / "other.jsonl")
    extra = [
        f"--model.name_or_path={other}", "--model.group_size=4", "--seed_everything=1", "--data.prompts_per_step=1",
        f"--data.train_file={tmp_path}/other.jsonl", "--model.dtype=bfloat16", "--trainer.max_epochs=0",
    ]  # fmt: skip
    lines = misfits([*run, *extra], no_weights, tmp_path / "run")
    assert lines[0].startswith("- model.name_or_path: not that of the checkpoint: model_type qwen3_vl (qwen2_5_vl there)")
    assert lines[1:] == [
        "- model.dtype = bfloat16: the checkpoint's run has float32",
        "- model.group_size = 4: the checkpoint's run has 2",
        "- seed_everything = 1: the checkpoint's run has 0",
        "- data.prompts_per_step = 1: the checkpoint's run has 2",
        "- data.train_file: not the training samples of the checkpoint (6 here, 6 there); look at data.limit_train and "
        "data.bad_rows, too",
        "- trainer.max_epochs = 0 ends before the checkpoint's step 4: raise it",
    ]


def test_other_adapters_are_told_by_their_settings(tmp_path):
    there = {"model.lora": {"rank": 64, "alpha": 128, "targets": ["q_proj"]}}
    here = {"model.lora": {"rank": 8, "alpha": 128, "targets": ["q_proj", "v_proj"]}}
    point = ResumePoint(None, step=1, optimizer_steps=1, validation_due=False, identity=there)
    assert list_misfits(point, here, tmp_path, names_path=False) == [
        "model.lora: not that of the checkpoint: rank 8 (64 there), targets ['q_proj', 'v_proj'] (['q_proj'] there)"
    ]


def identity(arguments):
    cli = parse(arguments)
    cli.datamodule.setup("fit")
    return identity_of(cli.model, cli.datamodule)


CHANGED = [
    ("--stage=sft", "stage = sft: the checkpoint's run has grpo"),
    ("--data.grounding.prompt=When: {query}?", "data.grounding.prompt = When: {query}?: the checkpoint's run has "),
    ("--data.grounding.video.fps=2.0", "data.grounding.video: not that of the checkpoint: fps 2.0 (1.0 there)"),
    ("--data.grounding.video.resize=swscale", "data.grounding.video: not that of the checkpoint: resize swscale (torch "),
    ("--data.grounding.evaluation_video={max_tokens: 64}", 'data.grounding.evaluation_video = {"fps": 2.0, '),
    ("--model.evaluation_max_tokens=9", "model.evaluation_max_tokens = 9: the checkpoint's run has 8"),
    ("--model.lora={rank: 8}", 'model.lora = {"rank": 8'),
    ("--data.limit_train=4", "data.train_file: not the training samples of the checkpoint (4 here, 6 there); look at"),
    ("--data.limit_train=6", None),
    ("--data.validation_file=TEST", "data.validation_file: not the validation samples of the checkpoint ("),
    ("--data.grounding.video.timeout=9", None),
    ("--data.grounding.video.backend=decord", None),
    ("--model.sampling.max_tokens=97", None),
    ("--model.loss.kl_coefficient=0", None),
]


def test_what_can_not_change(arguments, synthetic, tmp_path, monkeypatch):
    monkeypatch.setattr("taro.run.checks.peft_is_installed", lambda: True)
    point = ResumePoint(None, step=1, optimizer_steps=1, validation_due=False, identity=identity(arguments))
    for extra, line in CHANGED:
        here = identity([*arguments, extra.replace("TEST", f"{synthetic}/test.jsonl")])
        misfits = list_misfits(point, here, tmp_path, names_path=False)
        assert len(misfits) == (line is not None) and all(misfit.startswith(line) for misfit in misfits), extra


def test_other_sizes_or_weights_of_the_model(arguments, tmp_path):
    """It may be moved, and a part that is not on this machine yet is not compared."""
    source = next(argument for argument in arguments if argument.startswith("--model.name_or_path=")).split("=")[1]
    folder = shutil.copytree(source, tmp_path / "moved")
    named = f"--model.name_or_path={folder}"
    point = ResumePoint(None, step=1, optimizer_steps=1, validation_due=False, identity=identity(arguments))
    assert list_misfits(point, identity([*arguments, named]), tmp_path, names_path=False) == []
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[len(weights) // 2 :] = bytes(len(weights) - len(weights) // 2)
    (folder / "model.safetensors").write_bytes(weights)
    (line,) = list_misfits(point, identity([*arguments, named]), tmp_path, names_path=False)
    assert line.startswith("model.name_or_path: not that of the checkpoint: digest of the weights ")
    (folder / "model.safetensors").unlink()
    assert list_misfits(point, identity([*arguments, named]), tmp_path, names_path=False) == []
    config = json.loads((folder / "config.json").read_text())
    text, vision = config["text_config"], config["vision_config"]
    text["vocab_size"] += 8
    vision["depth"] += 1
    (folder / "config.json").write_text(json.dumps(config))
    assert list_misfits(point, identity([*arguments, named]), tmp_path, names_path=False) == [
        f"model.name_or_path: not that of the checkpoint: decoder vocab_size {text['vocab_size']} "
        f"({text['vocab_size'] - 8} there), tower depth {vision['depth']} ({vision['depth'] - 1} there)"
    ]


def test_a_checkpoint_of_an_earlier_version_says_less(arguments, tmp_path):
    point = ResumePoint(None, step=1, optimizer_steps=1, validation_due=False, identity={"model.group_size": 3})
    assert list_misfits(point, identity(arguments), tmp_path, names_path=False) == []


CHANGES = [{"id": "a"}, {"query": "a"}, {"spans": ((1.0, 2.0),)}, {"captions": ()}, {"clip": (0.0, 4.0)}, {"video": "/a/b.mp4"}]


def test_what_makes_other_samples(arguments):
    """Their order, too; not where the videos are."""
    cli = parse(arguments)
    cli.datamodule.setup("fit")
    first, *others = cli.datamodule.samples["train"]

    def identity_with(*samples):
        cli.datamodule.samples["train"] = samples
        return identity_of(cli.model, cli.datamodule)

    before = identity_with(first, *others)
    for change in CHANGES:
        assert identity_with(replace(first, **change), *others) != before
    assert identity_with(*others, first) != before and identity_with(first, *others[1:]) != before
    assert identity_with(replace(first, video=f"/moved/{first.video.rsplit('/')[-1]}"), *others) == before


def test_one_that_train_py_did_not_write(run, no_weights, tmp_path):
    path = tmp_path / "foreign.ckpt"
    begin(path, {"step": 3})
    write(path, {"model.a": torch.zeros(3)}, None)
    no_weights()
    with pytest.raises(CheckpointError, match=r"foreign.ckpt: not written by this version's train.py \(it does not say opti"):
        train.main([*run, f"--ckpt_path={path}", "--name=other"])
    assert not (tmp_path / "other").exists()


def test_an_older_one_is_gone_on_from_under_another_name(run, no_weights, tmp_path):
    """In its own folder the later ones would be taken for its future."""
    folder = tmp_path / "run" / "checkpoints"
    older = f"--ckpt_path={folder}/step_000002.ckpt"
    with pytest.raises(ConfigError, match=r"step_000002.ckpt: .*run/checkpoints has later ones, up to step 4; give this run a"):
        train.main([*run, older])
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert train.main([*run, older, "--name=other"])["steps"] == 6
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    stored = [read_all(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("run", "other")]
    assert [one["step"] for one in stored] == [4, 6]
    newest = f"--ckpt_path={folder}/last.ckpt"
    assert train.main([*run, newest, "--checkpoint.keep_last=9"])["steps"] == 6  # the same, in one folder
    assert_equal(read_all(folder / "last.ckpt")["weights"], stored[1]["weights"])
    no_weights()
    with pytest.raises(ConfigError, match=r"other/checkpoints has checkpoints of its own; go on from them \(ckpt_path = las"):
        train.main([*run, older, "--name=other"])
