import errno

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
