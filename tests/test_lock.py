import errno
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from taro.lock import FolderInUse, lock_file

ROOT = Path(__file__).parents[1]
HOLD = """
import sys
from pathlib import Path
from taro.lock import lock_file

lock = lock_file(Path(sys.argv[1]), Path("run"), "wait")
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def hold():
    """Another process that holds the lock of a file, until it is killed."""
    processes = []

    def start(path):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", HOLD, str(path)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        processes.append(process)
        assert process.stdout.readline() == "locked\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_a_second_process_is_refused_until_the_first_is_dead(hold, tmp_path):
    path = tmp_path / ".run.lock"
    process = hold(path)
    with pytest.raises(FolderInUse) as error:
        lock_file(path, tmp_path / "run", "give another name")
    who = f"process {process.pid} on {platform.node()}"
    assert str(error.value) == f"{tmp_path}/run is in use by {who}: give another name"
    process.kill()
    process.wait()
    with lock_file(path, tmp_path / "run", "give another name"):
        assert path.read_text() == f"process {os.getpid()} on {platform.node()}\n"


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def no_locks(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", no_locks)
    with pytest.warns(UserWarning, match=r"run has no locks: nothing keeps a second process out"):
        lock_file(tmp_path / ".run.lock", tmp_path / "run", "wait").close()


def test_a_folder_that_can_not_be_written_to_is_no_lock(tmp_path):
    with pytest.raises(OSError, match="No such file or directory"):
        lock_file(tmp_path / "nowhere" / ".run.lock", tmp_path / "run", "wait")
