"""Commands without the ten seconds in which Python imports torch, transformers and Lightning: forks of a process that has.

    python prepared_python.py serve SOCKET OWNER    forks itself for each command, as long as the process OWNER lives
    python prepared_python.py run SOCKET ARGS       `python ARGS`

A fork runs a script (or `-m` a module, `-c` some code) as `__main__`, with streams, a folder and an environment of its own, in
a session of its own. Processes that it starts by `sys.executable`, such as Lightning its other ranks, are forks, too.
"""

import atexit
import contextlib
import fcntl
import gc
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

IMPORTS = ("taro.run.train", "taro.run.eval", "taro.rl.module", "taro.models.qwen_vl", "transformers.models.auto.modeling_auto",
           "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl", "transformers.models.qwen3_vl.modeling_qwen3_vl",
           "omegaconf", "torch.utils.tensorboard", "made_once")  # fmt: skip
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PROGRAM = "TARO_TESTS_PYTHON"  # names the program in the environment
POLL = 0.02  # seconds


class Command:
    """A fork, with the names of subprocess.Popen; `pid` is that of its process, which leads a process group of its own. It is
    killed where the process that has started it ends."""

    def __init__(self, arguments, *, address=None, env=None, cwd=None, stdin=0, stdout=1, stderr=2):
        self.returncode = None
        address = address or Path(python()).with_name("socket")
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(str(address))
        folder = str(cwd or os.getcwd())
        message = json.dumps([list(map(str, arguments)), dict(env or os.environ), folder]).encode()
        socket.send_fds(self.connection, [len(message).to_bytes(4, "big")], [stdin, stdout, stderr])
        self.connection.sendall(message)
        self.pid = int.from_bytes(receive(self.connection, 4), "big")

    def poll(self):
        if self.returncode is None and select.select([self.connection], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout=None):
        if self.returncode is None:
            self.connection.settimeout(timeout)
            self.returncode = int.from_bytes(receive(self.connection, 4), "big", signed=True)
        return self.returncode

    def send_signal(self, number):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


def python():
    """The program to call in place of `sys.executable`; the first call, in whichever process of pytest, starts the server."""
    if PROGRAM not in os.environ:
        owner = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
        folder = Path(tempfile.gettempdir(), f"taro-python-{owner}")
        folder.mkdir(mode=0o700, exist_ok=True)
        assert folder.stat().st_uid == os.getuid(), f"{folder} is another user's"
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not answers(folder / "socket"):
                start_server(folder, owner)
        os.environ[PROGRAM] = str(folder / "python")
    return os.environ[PROGRAM]


def answers(address):
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(str(address)) == 0


def start_server(folder, owner):
    address, script = folder / "socket", Path(__file__).resolve()
    address.unlink(missing_ok=True)
    (folder / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -IS {script} run {address} "$@"\n')
    (folder / "python").chmod(0o755)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[1])}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, str(script), "serve", str(address), str(owner)],
            env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    while not address.exists():
        assert server.poll() is None, (folder / "log").read_text()
        time.sleep(POLL)


def serve(address, owner):
    for name in IMPORTS:
        __import__(name)
    sys.modules["made_once"].make_parser()
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"{address}.new")
    server.listen(100)
    gc.freeze()
    os.rename(f"{address}.new", address)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while is_alive(owner):
        if select.select([server], [], [], 1.0)[0]:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                handle(connection)
            connection.close()
    shutil.rmtree(Path(address).parent)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def handle(connection):
    """Fork once more: the command is run in one process, the other one waits for it."""
    size, streams, *_ = socket.recv_fds(connection, 4, 3)
    if not size:  # somebody has asked whether there is a server
        os._exit(0)
    arguments, environment, folder = json.loads(receive(connection, int.from_bytes(size, "big")))
    pid = os.fork()
    if pid == 0:
        os.setsid()
        connection.sendall(os.getpid().to_bytes(4, "big"))
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os._exit(exit_code(lambda: run(arguments, environment, folder)))
    for stream in streams:
        os.close(stream)
    ended = 0
    while not ended:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if not ended and select.select([connection], [], [], POLL)[0]:  # nothing is sent: it is closed
            os.killpg(pid, signal.SIGKILL)
            ended, status, usage = os.wait4(pid, 0)
    print(f"{usage.ru_utime + usage.ru_stime:.1f} s:", *arguments, flush=True)  # in the log
    with contextlib.suppress(OSError):
        connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
    os._exit(0)


def exit_code(command):
    """As Python does it; the memory, which is the server's, is not freed before the end: that would copy it."""
    code = 0
    try:
        command()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        if leaving.code is not None and not isinstance(leaving.code, int):
            print(leaving.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code & 255


def run(arguments, environment, folder):
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.executable = str(Path(sys.argv[2]).with_name("python"))
    sys.modules["numpy"].random.seed()
    sys.path[0:1] = [path for path in environment.get("PYTHONPATH", "").split(":") if path and path not in sys.path]
    first, *rest = arguments
    if first == "-m":
        sys.path.insert(0, folder)
        sys.argv = rest
        sys.modules.pop(rest[0], None)
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), sys.modules["__main__"].__dict__)
    else:
        sys.path.insert(0, str(Path(first).resolve().parent))
        sys.argv = arguments
        runpy.run_path(first, run_name="__main__")


def receive(connection, size):
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionError("the process that forks is gone")
        data += part
    return data


def stand_for(address, arguments):
    """Take the place of the command: pass signals on to it and end as it does."""
    command = Command(arguments, address=address)
    for number in FORWARDED:
        signal.signal(number, lambda number, _: command.send_signal(number))
    code = command.wait()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        stand_for(sys.argv[2], sys.argv[3:])
