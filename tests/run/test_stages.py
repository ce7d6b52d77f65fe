"""Three stages as one command, each a real run in this process."""

import json
import os
import shutil
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml

from taro.command_line import CONFIGS
from taro.data.samples import load_samples
from taro.prepare.traces import TraceError
from taro.rows import RowError
from taro.run import stages, train
from taro.run.checkpoint_files import list_checkpoints

pytestmark = pytest.mark.slow  # as a whole file: real runs

FILE = CONFIGS / "stages" / "tar_tvg.yaml"


@pytest.fixture
def made(monkeypatch):
    """Names of the runs that were made, each in this process."""
    names = []

    def call(arguments):
        names.append(next(one for one in arguments if one.startswith("--name=")).removeprefix("--name="))
        train.main(arguments)
        return 0

    monkeypatch.setattr(stages, "call", call)
    return names


@pytest.fixture
def run_stages(arguments, scripted, tiny_builder, tmp_path):
    """Runs the file of TAR-TVG, with traces as good as the scripted completions are, for two steps each."""
    texts = [f"<think>From {k}.0s to 9.0s</think><answer>{k}.0s to 9.0s</answer>" for k in range(3)]
    scripted(lambda row, seed, number: [*tiny_builder.encode(texts[row % 3]), tiny_builder.eos_id])
    own = [one for one in arguments if "warmup_epochs" not in one and not one.startswith("--name")]  # what the file says stands
    content = yaml.safe_load(FILE.read_text())

    def run(*more, **changed):
        path = tmp_path / "own.yaml"
        path.write_text(yaml.safe_dump(content | {"traces": {"min_iou": 0, "per_sample": 2}} | changed))
        stages.main([str(path), *own, "--trainer.max_steps=2", *more])

    return run


def config(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


def test_each_stage_begins_with_what_the_one_before_has_left(run_stages, made, tiny_folder, tmp_path, capsys):
    run_stages()
    root = tmp_path / "tar_tvg_stages"
    assert made == ["explore", "sft", "grpo"]
    assert [json.loads((root / name / "summary.json").read_text())["steps"] for name in made] == [2, 2, 2]
    explore, sft, grpo = (config(root / name) for name in made)
    samples = load_samples(root / "traces.jsonl")
    assert len(samples) == 4 and all(len(sample.extra["traces"]) == 2 for sample in samples)
    assert sft["data"]["train_file"] == str(root / "traces.jsonl") and explore["data"] == grpo["data"]
    assert (explore["stage"], sft["stage"], grpo["stage"]) == ("grpo", "sft", "grpo")
    assert explore["model"]["name_or_path"] == sft["model"]["name_or_path"] != grpo["model"]["name_or_path"]
    assert grpo["model"]["name_or_path"] == str(root / "sft" / "hf")
    assert list(explore["model"]["rewards"]) == ["tar_tvg"] and sft["model"]["optimizer"]["schedule"] == "cosine"
    assert list(list_checkpoints(root / "sft" / "checkpoints")) == [2] and not (root / "sft" / "rollouts").exists()
    assert (root / "sft/hf/model.safetensors").read_bytes() != Path(tiny_folder, "model.safetensors").read_bytes()
    assert (root / "grpo/hf/model.safetensors").exists()
    assert "the model in" in capsys.readouterr().out

    made.clear()
    run_stages()
    assert made == [] and capsys.readouterr().out.count(": finished, in ") == 3
    shutil.rmtree(root / "grpo")
    run_stages()
    assert made == ["grpo"]


def test_a_stage_that_fails_ends_the_command_which_goes_on_later(run_stages, made, monkeypatch, capsys):
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as leaving:
        patch.setattr(stages, "call", lambda arguments: 143)
        run_stages()
    assert leaving.value.code == 143 and "explore: ended with exit code 143" in capsys.readouterr().err
    with pytest.raises(TraceError, match=r"explore: none of its 12 completions is left; lower what leaves them out"):
        run_stages(traces={"min_iou": 1, "min_reward": 9})
    assert made == ["explore"]


def test_mistakes_are_said_before_anything_is_made(run_stages, made, tmp_path, capsys):
    for changed, reason in (
        ({"sft": {"model": {"optimiser": {}}}}, "model.optimiser is no setting; did you mean model.optimizer"),
        ({"traces": {"min_iu": 1}}, "--min_iu is no flag; did you mean --min_iou?"),
    ):
        with pytest.raises(SystemExit):
            run_stages(**changed)
        assert reason in capsys.readouterr().err
    with pytest.raises(RowError, match=r"grpo: got 1; allowed: settings by name; stage: got \{\}; allowed: no such field"):
        run_stages(grpo=1, stage={})
    (tmp_path / "no.yaml").write_text("a: [")
    with pytest.raises(stages.StagesError, match=r"no\.yaml: no YAML"):
        stages.main([str(tmp_path / "no.yaml")])
    assert made == []


def test_a_stage_is_a_process_of_its_own(monkeypatch, tmp_path):
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\necho "$@" > "$0.given"\nexit 3\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    assert stages.call(["--name=sft"]) == 3
    assert (tmp_path / "python.given").read_text() == "-m taro.run.train --name=sft\n"


def test_signals_go_on_to_the_stage_which_ends_by_itself(monkeypatch):
    class Process(nullcontext):
        returncode, waited, sent = None, 0, []

        def wait(self):
            self.waited += 1
            if self.waited == 1:
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGTERM)
            self.returncode = -signal.SIGTERM

        def send_signal(self, number):
            self.sent.append(number)

        def __enter__(self):
            return self

    monkeypatch.setattr(stages.subprocess, "Popen", lambda command: Process())
    before = signal.getsignal(signal.SIGTERM)
    assert stages.call([]) == 128 + signal.SIGTERM and Process.sent == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before
