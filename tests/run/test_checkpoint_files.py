"""The checkpoints of a run, on disk. What a run does with them is in test_checkpoints.py."""

import errno
import json
import os
import shutil

import pytest
import torch

from taro.files import link, publish, remove, remove_parts, write_text
from taro.models.checkpoint import CheckpointError, begin, find_fault, write
from taro.run.checkpoint_files import checkpoint_path, find_checkpoint, list_checkpoints


def make(path):
    begin(path, {"step": 1})
    write(path, {"model.a": torch.zeros(40)}, None)
    return path


def make_whole(folder, step):
    path = checkpoint_path(folder, step)
    publish(make(path.with_name(f"{path.name}.part")), path)
    return path


def test_the_newest_whole_one_is_found(tmp_path):
    assert find_checkpoint(None, tmp_path) is None and find_checkpoint("auto", tmp_path) is None
    with pytest.raises(CheckpointError, match=r"ckpt_path = last: there is no checkpoint in .*; leave ckpt_path out, or set a"):
        find_checkpoint("last", tmp_path)
    paths = [make_whole(tmp_path, step) for step in (3, 20, 1000000)]
    for name in ("step_000030.ckpt.part", "step_000040.ckpt.damaged", "step_1.ckpt", "last.ckpt", "step_0000500.ckpt.txt"):
        (tmp_path / name).write_text("no checkpoint")
    assert list_checkpoints(tmp_path) == dict(zip((3, 20, 1000000), paths, strict=True))
    for wanted in ("last", "auto"):
        assert find_checkpoint(wanted, tmp_path) == paths[2]
    os.truncate(paths[2] / "__0_0.distcp", 100)
    with pytest.warns(UserWarning, match=r"step_1000000.ckpt is damaged \(__0_0.distcp has 100 bytes .*: the checkpoint b"):
        assert find_checkpoint("last", tmp_path) == paths[1]
    (paths[1] / ".metadata").unlink()
    with pytest.warns(UserWarning, match=r"step_000020.ckpt is damaged \(no .metadata\)"):
        assert find_checkpoint("auto", tmp_path) == paths[0]
    (paths[0] / "run.json").write_bytes(b"")
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match=r"ckpt_path = auto: all checkpoints in .* are damag"):
        find_checkpoint("auto", tmp_path)


def test_a_path_is_taken_or_refused(tmp_path):
    path = make_whole(tmp_path, 7)
    link(path, "last.ckpt")
    assert find_checkpoint(str(tmp_path / "last.ckpt"), tmp_path / "other") == path
    (path / ".metadata").write_bytes(b"some")
    with pytest.raises(CheckpointError, match=r"step_000007.ckpt is damaged \(UnpicklingError.*name another, or last for"):
        find_checkpoint(str(path), tmp_path)


def test_one_of_the_first_version_is_not_gone_on_from(tmp_path):
    """Nor is a new run begun in its folder, nor an older checkpoint taken."""
    make_whole(tmp_path, 7)
    path = checkpoint_path(tmp_path, 8)
    path.write_bytes(b"PK")
    for wanted in ("last", "auto", str(path)):
        with pytest.raises(CheckpointError, match=rf"ckpt_path = {wanted}: .*step_000008.ckpt looks like a checkpoint of Ta"):
            find_checkpoint(wanted, tmp_path)


def test_publish_replaces_what_is_there(tmp_path):
    for _ in range(2):
        make_whole(tmp_path, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000005.ckpt"]


def test_a_folder_is_no_checkpoint_as_soon_as_it_is_being_deleted(tmp_path, monkeypatch):
    path = make_whole(tmp_path, 4)
    monkeypatch.setattr("taro.files.shutil.rmtree", lambda _: None)  # killed right here
    remove(path)
    assert list_checkpoints(tmp_path) == {} and [path.name for path in tmp_path.iterdir()] == ["step_000004.ckpt.part.gone"]
    monkeypatch.undo()
    remove_parts(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_parts_are_removed_as_parts(tmp_path):
    kept = [make_whole(tmp_path, step) for step in (1, 2)]
    link(kept[0], "last.ckpt")
    for name in ("step_000003.ckpt.part", "step_000003.ckpt.part1"):
        make(tmp_path / name)
    (tmp_path / "last.ckpt.part77").symlink_to(kept[1].name)
    remove_parts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "step_000001.ckpt", "step_000002.ckpt"]
    assert all(find_fault(path) is None for path in kept)


def test_a_link_is_replaced(tmp_path):
    paths = [make_whole(tmp_path, step) for step in (1, 2)]
    for path in paths:
        link(path, "best.ckpt")
    assert (tmp_path / "best.ckpt").resolve() == paths[1] and len(list(tmp_path.iterdir())) == 3
    shutil.move(tmp_path, tmp_path.with_name("moved"))
    assert (tmp_path.with_name("moved") / "best.ckpt").exists()  # it points beside itself


def test_a_text_is_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "scores.json"
    write_text(path, json.dumps([1]))

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("taro.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, json.dumps([1, 2]))
    assert json.loads(path.read_text()) == [1]
