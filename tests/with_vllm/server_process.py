"""A vLLM server, started as a user starts it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

KEY = "a key of the test's"


class ServerProcess:
    """`vllm serve` on a free port. Its CPU build's command of that name looks for a package that has another name there and
    doesn't start; the module is what it would run."""

    def __init__(self, folder, dtype="float32", arguments=()):
        self.dtype, self.arguments = dtype, arguments
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.url = folder, f"http://127.0.0.1:{self.port}"

    def start(self):
        command = [
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", self.folder),
            *("--host", "127.0.0.1", "--port", str(self.port), "--dtype", self.dtype, "--max-model-len", "1024"),
            *("--enable-scale-out", "--logprobs-mode", "processed_logprobs"),
            *("--limit-mm-per-prompt", '{"image": 1, "video": 1}'),
            # For a CPU alone, as in VLLMEngine.
            *("--enforce-eager", "--no-enable-chunked-prefill", "--skip-mm-profiling"),
            *self.arguments,
        ]
        here = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_API_KEY": KEY, "VLLM_CPU_KVCACHE_SPACE": "1"}
        here |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
        self.log = open(f"{self.folder}.log", "ab")  # noqa: SIM115
        self.process = subprocess.Popen(
            command, env=os.environ | here, stdout=self.log, stderr=self.log, start_new_session=True
        )

    def wait(self):
        for _ in range(500):  # as long as a busy machine takes
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
                return
            except OSError:
                assert self.process.poll() is None, Path(self.log.name).read_text()[-5000:]
                time.sleep(0.5)
        raise AssertionError("the server does not start")

    def kill(self):
        """By SIGTERM, on which vLLM stops at once and removes its shared memory."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        with contextlib.suppress(ProcessLookupError):  # none is left of what it has started
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()
