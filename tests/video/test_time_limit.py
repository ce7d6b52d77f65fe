"""Reading that blocks."""

import fcntl
import gc
import os
import signal
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from made_videos import BACKENDS, load, steady, write_video

from taro.cache import TensorCache
from taro.video.decode import decode_pyav
from taro.video.file import VideoFile
from taro.video.frame_cache import FrameCache
from taro.video.geometry import PatchGeometry
from taro.video.index import read_index
from taro.video.load import VideoError, VideoSettings

pytestmark = pytest.mark.slow  # as a whole file: what hangs is waited for


def write_second(path):
    return write_video(path, steady(25))


def readers():
    return sum(thread.name == "video reader" for thread in threading.enumerate())


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


@pytest.fixture
def file(tmp_path):
    return VideoFile(tmp_path / "v.mp4", 60.0)


@pytest.fixture
def blocked(tmp_path):
    """A video that the system lets nobody open, and what to call to let it go."""
    path = write_second(tmp_path / "v.mp4")
    plain = signal.signal(signal.SIGIO, signal.SIG_IGN)  # which asks to let go
    held = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except (OSError, AttributeError):
        os.close(held)
        pytest.skip("this system has no leases of files")
    yield path, lambda: os.close(held)
    signal.signal(signal.SIGIO, plain)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_call_that_blocks_is_given_up(blocked, backend):
    path, let_go = blocked
    load(write_second(path.with_name("other.mp4")), backend=backend)
    before = readers()
    with pytest.raises(VideoError, match=r"is not read within 0\.2 s; .* `timeout` of the video settings"):
        load(path, backend=backend, timeout=0.2)
    assert len(load(path.with_name("other.mp4"), backend=backend).frames) == 4  # meanwhile
    assert readers() == before + 1
    let_go()
    assert wait_until(lambda: readers() == before)
    assert len(load(path, backend=backend).frames) == 4


def test_an_endless_search_ends(tmp_path):
    """libav looks for the next picture in 64 GB of nothing, within one call."""
    path = write_second(tmp_path / "v.mkv")
    file = VideoFile(path, 60.0)
    thread = file.within_limit(threading.get_ident)
    try:
        os.truncate(path, 2**36)
    except OSError:
        pytest.skip("the file system has no files with holes")
    with pytest.raises(VideoError, match=r"is not read within 0\.5 s"):
        load(path, timeout=0.5)
    assert file.within_limit(threading.get_ident) == thread  # which was not given up


class Clock:
    """In place of the module `time`: a second passes with each look."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        self.now += 1.0
        return self.now


@pytest.mark.parametrize("step", ["list the pictures", "list those of a clip", "decode some", "decode all"])
def test_what_is_only_long_notices_by_itself(tmp_path, monkeypatch, step):
    path = write_second(tmp_path / ("v.avi" if step == "decode all" else "v.mp4"))
    index = read_index(VideoFile(path, 60.0), None)
    monkeypatch.setattr("taro.video.file.time", Clock())
    file = VideoFile(path, 15.0)
    with pytest.raises(VideoError, match="is not read within 15 s"):
        if step.startswith("list"):
            read_index(file, None if step == "list the pictures" else (0.1, 0.9))
        else:
            list(decode_pyav(file, index, [0, 24], None))
    assert file.seconds_left == 0 and 15 <= file.end < 20


def test_a_decord_that_hangs_is_killed(tmp_path, monkeypatch):
    pytest.importorskip("decord")
    path, script, started = write_second(tmp_path / "v.mp4"), tmp_path / "hangs.py", tmp_path / "pid"
    script.write_text(f"import os, time\nopen({str(started)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n")
    monkeypatch.setattr("taro.video.decode.DECORD_PROCESS", script)
    with pytest.raises(VideoError, match="is not read within 3 s"):
        load(path, backend="decord", timeout=3.0)
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


def test_a_cache_does_not_wait_for_the_file_either(tmp_path, monkeypatch):
    """It asks for size and time first."""
    answer, settings = threading.Event(), VideoSettings(timeout=0.1)
    monkeypatch.setattr("taro.video.frame_cache.file_identity", lambda path: answer.wait(20))
    cache = FrameCache(TensorCache(tmp_path, 1e6))
    try:
        with pytest.raises(VideoError, match=r"is not read within 0\.1 s"):
            cache.video("v.mp4", None, settings, PatchGeometry(), lambda: pytest.fail("the file was read"))
    finally:
        answer.set()


def test_what_is_read_is_returned_or_raised(file):
    assert file.within_limit(lambda: [1, 2]) == [1, 2]
    with pytest.raises(ZeroDivisionError):
        file.within_limit(lambda: 1 / 0)
    assert file.within_limit(lambda: None) is None


def test_threads_read_at_the_same_time(file):
    """None waits for another one's video; when they end, so do their readers."""
    before, together = readers(), threading.Barrier(3)
    with ThreadPoolExecutor(3) as pool:
        places = [pool.submit(file.within_limit, lambda: together.wait(timeout=30)) for _ in range(3)]
        assert sorted(place.result() for place in places) == [0, 1, 2]
    assert wait_until(lambda: readers() == before)


def test_a_forked_process_reads(file):
    """As workers are that are forked from a process that has read before."""
    assert file.within_limit(lambda: 1) == 1
    child = os.fork()
    if child == 0:
        os._exit(file.within_limit(lambda: 42))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_kept_in_memory(file, fails):
    """Not even until the garbage collector comes, which is too late for videos."""

    class Pictures:
        pass

    kept = []

    def read():
        pictures = Pictures()
        kept.append(weakref.ref(pictures))
        if fails:
            raise VideoError("v.mp4", "is empty")
        return pictures

    def use():
        if not fails:
            return file.within_limit(read)
        with pytest.raises(VideoError):
            file.within_limit(read)

    gc.collect()
    gc.disable()
    try:
        use()
        assert wait_until(lambda: kept[0]() is None, 1.0)
    finally:
        gc.enable()
