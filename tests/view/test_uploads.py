import os
import threading

import pytest

from taro.view.uploads import Uploads


@pytest.fixture
def uploads(tmp_path):
    (tmp_path / "kept").mkdir()
    return Uploads(tmp_path, tmp_path / "kept")


def make(path, age=0):
    path.parent.mkdir(exist_ok=True)
    path.touch()
    os.utime(path, (path.stat().st_atime - age,) * 2)
    return path


def test_a_file_goes_with_the_last_session_that_has_it(uploads, tmp_path):
    first, second = make(tmp_path / "first.mp4"), make(tmp_path / "second.mp4")
    uploads.hold("a", str(first))
    uploads.hold("b", str(first))
    uploads.hold("a", str(second))
    assert first.exists()
    uploads.release("b")
    assert not first.exists() and second.exists()
    uploads.hold("a", str(second))
    assert second.exists()
    uploads.release("a"), uploads.release("a"), uploads.release("never came")
    assert not second.exists()


def test_what_nobody_holds_goes_when_it_is_old(uploads, tmp_path):
    held, kept = make(tmp_path / "a" / "held.mp4", age=100), make(tmp_path / "kept" / "offered.mp4", age=100)
    old, new = make(tmp_path / "b" / "old.mp4", age=100), make(tmp_path / "c" / "new.mp4")
    uploads.hold("a", str(held))
    uploads.sweep(age=50)
    assert held.exists() and kept.exists() and new.exists() and not old.exists()


def test_a_session_that_has_left_holds_nothing(uploads, tmp_path):
    late = make(tmp_path / "late.mp4", age=100)
    uploads.leave("a")
    uploads.hold("a", str(late))
    assert late.exists()
    uploads.sweep(age=50)
    assert not late.exists()


def test_what_is_kept_is_nobodys_to_release(uploads, tmp_path):
    offered = make(tmp_path / "kept" / "offered.mp4")
    uploads.hold("a", str(tmp_path / "b" / ".." / "kept" / "offered.mp4"))
    uploads.release("a")
    assert offered.exists()


def test_files_are_swept_now_and_then(uploads, monkeypatch):
    twice, ages = threading.Barrier(2, timeout=60), []
    monkeypatch.setattr(uploads, "sweep", lambda age: (ages.append(age), twice.wait() if len(ages) == 2 else None))
    with uploads.swept(every=0.001, age=5.0):
        twice.wait()
    assert ages[:2] == [5.0, 5.0] and not any(thread.name == "uploads" for thread in threading.enumerate())
