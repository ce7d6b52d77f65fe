import errno
import os
import signal
from contextlib import suppress

import pytest

from taro.errors import TaroError, clean_exit


class Known(ValueError):
    pass


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Known("what and why"), "error: what and why"),
        (TaroError("what and why"), "error: what and why"),
        (OSError(errno.ENOSPC, "No space left on device", "out/file"), "error: out/file: No space left on device"),
        (OSError("of its own words"), "error: of its own words"),
    ],
)
def test_what_a_user_can_cause_is_one_line(error, code):
    with pytest.raises(SystemExit) as leaving, clean_exit(Known):
        raise error
    assert leaving.value.code == code


def test_what_nobody_expects_is_shown_whole():
    with pytest.raises(ValueError, match="a mistake"), clean_exit(Known):
        raise ValueError("a mistake")


def interrupt():
    raise KeyboardInterrupt


def interrupt_within_lightning():
    """It catches the interrupt, and leaves by itself."""
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise SystemExit(1)  # noqa: B904


@pytest.mark.parametrize("stop", [interrupt, interrupt_within_lightning])
def test_ctrl_c(stop, capsys):
    with pytest.raises(SystemExit) as leaving, clean_exit(Known, interrupted="stopped; the same command goes on"):
        stop()
    assert leaving.value.code == 130
    assert capsys.readouterr().err == "\nstopped; the same command goes on\n"


def test_a_code_of_its_own_is_kept():
    with pytest.raises(SystemExit) as leaving, clean_exit(Known):
        raise SystemExit(3)
    assert leaving.value.code == 3


def fail_after_it():
    """As an import in which a library swallows the interrupt."""
    with suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    raise ImportError("half a module\nand more")


def test_an_interrupt_that_is_swallowed_is_not_forgotten(capsys):
    with pytest.raises(SystemExit) as leaving, clean_exit(interrupted="stopped"):
        fail_after_it()
    assert leaving.value.code == 130
    assert capsys.readouterr().err == "\nstopped (ImportError: half a module)\n"
    with pytest.raises(ImportError), clean_exit():  # it is of that command alone
        raise ImportError


def test_a_forked_worker_goes_on():
    before = signal.getsignal(signal.SIGINT)
    with clean_exit():
        worker = os.fork()
        if worker == 0:
            signal.raise_signal(signal.SIGINT)
            os._exit(7)
        _, status = os.waitpid(worker, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    assert signal.getsignal(signal.SIGINT) is before
