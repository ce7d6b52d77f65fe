"""Captions by an OpenAI-compatible endpoint: chat completions with the frames in the request.

Nothing that is raised, returned or kept holds the key: where an endpoint says it back, it is taken out.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any

from taro.prepare.caption.captioner import Answer
from taro.prepare.caption.pictures import jpeg_url, mp4_url, rgb_frames
from taro.prepare.caption.settings import PLACEHOLDER, CaptionSettings
from taro.prepare.caption.videos import CaptionError
from taro.prepare.caption.windows import WindowTask
from taro.prompts import format_seconds
from taro.video.load import Video

# Statuses that every further request would get, too (403 may be about the content of one), and those that may pass.
HOPELESS = frozenset((401, 402, 404, 405))
PASSING = frozenset((408, 409, 425, 429))  # and those from 500
LONGEST_WAIT = 60.0  # seconds between two attempts
LARGEST_ANSWER = 4 * 2**20  # bytes
MESSAGE_SHOWN = 300  # characters of what an endpoint says
CHUNK = 2**16  # bytes


class _AttemptError(Exception):
    """One attempt that gave no answer; the message says why.

    Args:
        again: whether another attempt may do better.
        wait: seconds that the endpoint asks to be left alone.
    """

    def __init__(self, message: str, again: bool = True, wait: float = 0.0) -> None:
        super().__init__(message)
        self.again, self.wait = again, wait


class EndpointCaptioner:
    """Greedy answers of an endpoint; several requests are open at a time.

    Args:
        settings: where it is, and how it is asked.
        readable: whether an answer can be used; one that can't is asked for again.
    """

    def __init__(self, settings: CaptionSettings, readable: Callable[[Answer], bool]) -> None:
        self.settings, self.readable = settings, readable
        self.url = f"{settings.api_base.rstrip('/')}/chat/completions"
        self.stopped = threading.Event()

    def answer(self, windows: Iterable[tuple[WindowTask, Video]]) -> Iterator[tuple[WindowTask, Answer]]:
        """An answer for each window, as they come.

        Raises:
            CaptionError: the endpoint refuses the key, the model or the path, and so would every other request.
        """
        source, asked = iter(windows), {}
        pool = ThreadPoolExecutor(self.settings.batch_size)
        try:
            while True:
                for task, video in islice(source, self.settings.batch_size - len(asked)):
                    asked[pool.submit(self._ask, task, video)] = task
                if not asked:
                    return
                yield from _finished(asked)
        finally:
            self.stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, task: WindowTask, video: Video) -> Answer:
        """Up to 1 + retries attempts; the last answer counts whether it is readable or not."""
        body = json.dumps(self._request(task, video)).encode()
        settings = self.settings.endpoint
        for attempt in range(settings.retries + 1):
            pause = min(settings.backoff * 2.0 ** min(attempt, 10), LONGEST_WAIT)
            try:
                answer = self._attempt(body)
                if self.readable(answer):
                    return answer
            except _AttemptError as error:
                if not error.again:
                    return Answer(failure=str(error))
                answer = Answer(failure=f"{error} ({settings.retries + 1} attempts)")
                pause = min(max(pause, error.wait), LONGEST_WAIT)
            if attempt < settings.retries and self.stopped.wait(pause):
                break
        return answer

    def _request(self, task: WindowTask, video: Video) -> dict[str, Any]:
        prompt = self.settings.prompt.replace(PLACEHOLDER, format_seconds(task.window.length))
        times = [f"{format_seconds(timestamp)}s" for timestamp in video.timestamps.tolist()]
        content: list[dict[str, Any]] = []
        if self.settings.endpoint.frames == "video":
            content.append({"type": "video_url", "video_url": {"url": mp4_url(rgb_frames(video), video.fps)}})
            prompt = f"The frames of the video are at {', '.join(times)}.\n{prompt}"
        else:
            for shown_at, picture in zip(times, rgb_frames(video), strict=True):
                content.append({"type": "text", "text": f"{shown_at}:"})
                content.append({"type": "image_url", "image_url": {"url": jpeg_url(picture)}})
        content.append({"type": "text", "text": prompt})
        body = {
            "model": self.settings.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.settings.max_tokens,
            "temperature": 0.0,
        }
        merged = body | self.settings.endpoint.options
        return {name: value for name, value in merged.items() if value is not None}

    def _attempt(self, body: bytes) -> Answer:
        """
        Raises:
            _AttemptError: there is no answer.
            CaptionError: there is none, and there won't be any to other requests.
        """
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"}, method="POST")
        if self.settings.api_key:
            request.add_unredirected_header("Authorization", f"Bearer {self.settings.api_key}")
        seconds = self.settings.endpoint.timeout
        deadline = time.monotonic() + seconds
        try:
            with urllib.request.urlopen(request, timeout=seconds) as response:
                return self._parse(_read(response, deadline))
        except urllib.error.HTTPError as error:
            raise self._refusal(error, deadline) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(getattr(error, "reason", error), TimeoutError):
                raise _AttemptError(f"no answer within {seconds:g} s (--endpoint.timeout)") from None
            reason = self._shown(f"{type(error).__name__}: {error}")
            raise _AttemptError(f"no answer from {self.url}: {reason}") from None

    def _refusal(self, error: urllib.error.HTTPError, deadline: float) -> Exception:
        try:
            said = _read(error, deadline).decode(errors="replace")
        except (OSError, http.client.HTTPException):
            said = "(its message broke off)"
        message = f"the endpoint answers {error.code}: {self._shown(said)}"
        if error.code in HOPELESS:
            flags = "--api_key_variable" if error.code in (401, 402) else "--api_base and --model"
            return CaptionError(f"{message}\nSee {flags}. What is done is kept: the same command goes on.")
        asked = error.headers.get("Retry-After", "")
        pause = float(asked) if asked.isdecimal() else 0.0
        return _AttemptError(message, error.code in PASSING or error.code >= 500, pause)

    def _parse(self, content: bytes) -> Answer:
        try:
            choice = json.loads(content)["choices"][0]
            text, cut = choice["message"]["content"], choice.get("finish_reason") == "length"
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            text = None
        if not isinstance(text, str):
            said = self._shown(content.decode(errors="replace"))
            raise _AttemptError(f"the endpoint's answer is no chat completion with a text: {said}")
        return Answer(self._hidden(text), cut)

    def _shown(self, text: str) -> str:
        text = " ".join(self._hidden(text).split())  # hidden first: a part of a key would not be found
        return text if len(text) <= MESSAGE_SHOWN else text[: MESSAGE_SHOWN - 3] + "..."

    def _hidden(self, text: str) -> str:
        if key := self.settings.api_key:
            for form in (key, json.dumps(key)[1:-1], key.replace("/", "\\/")):  # also as JSON may write it
                text = text.replace(form, "(key)")
        return text


def _finished(asked: dict[Future[Answer], WindowTask]) -> Iterator[tuple[WindowTask, Answer]]:
    """Waits for at least one."""
    for future in wait(asked, return_when=FIRST_COMPLETED).done:
        yield asked.pop(future), future.result()


def _read(response: Any, deadline: float) -> bytes:
    """The body; the timeout of a socket only limits each part of it."""
    content = b""
    while chunk := response.read1(CHUNK):
        content += chunk
        if time.monotonic() > deadline:
            raise TimeoutError
        if len(content) > LARGEST_ANSWER:
            raise _AttemptError(f"the endpoint's answer has more than {LARGEST_ANSWER} bytes")
    return content
