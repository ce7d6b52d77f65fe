"""What is in a run's folder when its run goes on, is over, or is made anew. That all files are there is in test_train.py."""

import errno
import json
import shutil

import pytest

from taro.lock import FolderInUse
from taro.rl.module import GRPOModule
from taro.run import train

pytestmark = pytest.mark.slow  # as a whole file: real runs


@pytest.fixture
def no_weights(monkeypatch):
    monkeypatch.setattr("taro.models.qwen_vl.QwenVL.from_pretrained", None)


def test_a_finished_run_says_so(learning, scripted, synthetic, tmp_path, capsys, monkeypatch):
    """And makes only what is missing of what follows training."""
    arguments = [*learning, f"--data.test_file={synthetic}/test.jsonl", "--trainer.max_epochs=1"]
    summary = train.main(arguments)
    again = [*arguments, "--ckpt_path=last"]
    folder = tmp_path / "run"
    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr("taro.models.qwen_vl.QwenVL.from_pretrained", None)
        assert train.main(again) == summary
    line = f"the run in {folder} is finished: 3 of 3 steps. To prolong it, raise trainer.max_epochs (now 1).\n"
    assert capsys.readouterr().out.startswith(line)
    (folder / "summary.json").unlink()
    shutil.rmtree(folder / "hf")
    made = train.main(again)
    assert line in capsys.readouterr().out
    assert made | {"seconds": 0} == summary | {"seconds": 0}
    assert (folder / "hf" / "model.safetensors").exists()


def test_a_summary_of_an_earlier_end_is_made_again(learning, scripted, tmp_path, cut_short):
    train.main([*learning, "--trainer.max_steps=1"])
    longer = [*learning, "--trainer.max_steps=2", "--ckpt_path=last"]
    cut_short(longer, 0, (train, "export_policy"))
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 1
    assert train.main(longer)["steps"] == 2
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 2


def test_settings_that_change_in_a_run_hold(learning, scripted, tmp_path, capsys, monkeypatch):
    """Also those of the optimizer; the config until then is kept, and what differs is printed."""
    train.main([*learning, "--trainer.max_steps=2"])
    before = (tmp_path / "run" / "config.yaml").read_text()
    train.main([*learning, "--trainer.max_steps=2", "--ckpt_path=last", "--trainer.max_epochs=1"])  # over already
    capsys.readouterr()
    new = ["--model.optimizer.learning_rate=1e-5", "--model.optimizer.weight_decay=0.5", "--trainer.max_steps=4"]
    used, step = [], GRPOModule.update

    def looking(module, log):
        finite = step(module, log)
        used.extend((group["lr"], group["weight_decay"]) for group in module.optimizers().param_groups)
        return finite

    monkeypatch.setattr(GRPOModule, "update", looking)
    train.main([*learning, *new, "--ckpt_path=last"])
    assert used == [(1e-5, 0.5)] * 2
    assert (tmp_path / "run" / "config.step_2.yaml").read_text() == before
    printed = capsys.readouterr().out
    for line in ("learning_rate: 0.001 -> 1e-05", "weight_decay: 0.01 -> 0.5"):
        assert f"- model.optimizer.{line}\n" in printed
    assert "ckpt_path" not in printed


def test_a_live_run_s_folder_is_left_alone(arguments, no_weights, tmp_path, monkeypatch):
    def held(*args):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / ".run.lock").write_text("process 12 on there\n")
    monkeypatch.setattr("fcntl.lockf", held)
    with pytest.raises(FolderInUse, match=r"run is in use by process 12 on there: wait for its end, or give this run another"):
        train.main(arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".run.lock", "run"]


def test_an_earlier_run_of_the_same_name_is_kept(learning, scripted, tmp_path, capsys):
    arguments = [*learning, "--trainer.max_steps=1", "--trainer.limit_val_batches=0"]
    train.main(arguments)
    earlier = (tmp_path / "run" / "summary.json").read_bytes()
    train.main(arguments)
    kept = [path for path in tmp_path.iterdir() if path.name.startswith("run.")]
    assert len(kept) == 1 and (kept[0] / "summary.json").read_bytes() == earlier
    assert (tmp_path / "run" / "summary.json").read_bytes() != earlier
    assert f"is kept as {kept[0]}" in capsys.readouterr().out
