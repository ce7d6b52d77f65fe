"""Captions by an OpenAI-compatible endpoint: chat completions with the frames in the request."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from taro.prepare.caption.captioner import Answer
from taro.prepare.caption.pictures import jpeg_url, mp4_url, rgb_frames
from taro.prepare.caption.settings import PLACEHOLDER, CaptionSettings
from taro.prepare.caption.videos import CaptionError
from taro.prepare.caption.windows import WindowTask
from taro.prompts import format_seconds
from taro.rollout.http_client import HTTPClient, RequestError
from taro.rollout.scheduler import collect_futures, run_jobs
from taro.video.load import Video

PATH = "/chat/completions"
# Statuses that every further request would get, too (403 may be about the content of one), and those that may pass.
HOPELESS = frozenset((401, 402, 404, 405))
PASSING = frozenset((408, 409, 425, 429))  # and those from 500
LONGEST_WAIT = 60.0  # seconds between two attempts


class EndpointCaptioner:
    """Greedy answers of an endpoint; several requests are open at a time.

    Args:
        settings: where it is, and how it is asked.
        readable: whether an answer can be used; one that can't is asked for again.
    """

    def __init__(self, settings: CaptionSettings, readable: Callable[[Answer], bool]) -> None:
        self.settings, self.readable = settings, readable
        self.client = HTTPClient(settings.api_base, settings.api_key_variable)
        self.stopped = threading.Event()

    def answer(self, windows: Iterable[tuple[WindowTask, Video]]) -> Iterator[tuple[WindowTask, Answer]]:
        """An answer for each window, as they come.

        Raises:
            CaptionError: the endpoint refuses the key, the model or the path, and so would every other request.
        """
        count = self.settings.batch_size
        pool = ThreadPoolExecutor(count)
        jobs = run_jobs(windows, count, submit=lambda _, window: [pool.submit(self._ask, *window)], collect=collect_futures)
        try:
            for _, (task, _), (answer,) in jobs:
                yield task, answer
        finally:
            self.stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, task: WindowTask, video: Video) -> Answer:
        """Up to 1 + retries attempts; the last answer counts whether it is readable or not."""
        body, settings = self._request(task, video), self.settings.endpoint
        for attempt in range(settings.retries + 1):
            pause = settings.backoff * 2.0 ** min(attempt, 10)
            try:
                answer = self._parse(self.client.ask("POST", PATH, body, seconds=settings.timeout))
                if self.readable(answer):
                    return answer
            except RequestError as error:
                reason = self._reason(error)
                if not (error.status is None or error.status in PASSING or error.status >= 500):
                    return Answer(failure=reason)
                answer = Answer(failure=f"{reason} ({settings.retries + 1} attempts)")
                pause = max(pause, error.wait)
            if attempt < settings.retries and self.stopped.wait(min(pause, LONGEST_WAIT)):
                break
        return answer

    def _reason(self, error: RequestError) -> str:
        """Why there is no answer.

        Raises:
            CaptionError: there won't be one to other requests either.
        """
        if error.late:
            return f"{error} (--endpoint.timeout)"
        if error.status is None:
            return f"no answer from {self.client.url(PATH)}: {error}"
        reason = f"the endpoint answers {error.status}: {error}"
        if error.status in HOPELESS:
            flags = "--api_key_variable" if error.status in (401, 402) else "--api_base and --model"
            raise CaptionError(f"{reason}\nSee {flags}. What is done is kept: the same command goes on.")
        return reason

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

    def _parse(self, content: str) -> Answer:
        try:
            choice = json.loads(content)["choices"][0]
            text, cut = choice["message"]["content"], choice.get("finish_reason") == "length"
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            text = None
        if not isinstance(text, str):
            raise RequestError(f"it is no chat completion with a text: {self.client.shown(content)}")
        return Answer(self.client.hide(text), cut)
