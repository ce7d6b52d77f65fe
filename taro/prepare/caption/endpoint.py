"""Captions by an OpenAI-compatible endpoint: chat completions with the frames in the request, as JPEG pictures or an MP4 video
in data URLs. F frames, H and W pixels."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import av
import numpy as np

from taro.prepare.caption.answers import Answer, Answers
from taro.prepare.caption.parsing import parse_events
from taro.prepare.caption.settings import PLACEHOLDER, CaptionError, CaptionSettings
from taro.prepare.caption.videos import WindowRequest
from taro.prompts import format_seconds
from taro.rollout.http_client import HTTPClient, RequestError
from taro.rollout.scheduler import collect_futures, run_jobs
from taro.video.load import Video

PATH = "/chat/completions"
# Statuses that every further request would get, too (403 may be about the content of one), and those that may pass.
HOPELESS = frozenset((401, 402, 404, 405))
PASSING = frozenset((408, 409, 425, 429))  # and those from 500
LONGEST_WAIT = 60.0  # seconds between two attempts
JPEG_SCALE = "3"  # quantiser of mjpeg, 1 (best) to 31
VIDEO_QUALITY = "18"  # x264's crf


class EndpointCaptioner:
    """Greedy answers of an endpoint; several requests are open at a time. An answer that can't be read is asked for again."""

    def __init__(self, settings: CaptionSettings) -> None:
        self.settings = settings
        self.client = HTTPClient(settings.api_base, settings.api_key_variable)
        self.stopped = threading.Event()

    def ask(self, requests: Iterable[WindowRequest]) -> Answers:
        """
        Raises:
            CaptionError: the endpoint refuses the key, the model or the path, and so would every other request.
        """
        count = self.settings.batch_size
        pool = ThreadPoolExecutor(count)
        jobs = run_jobs(requests, count, submit=lambda _, one: [pool.submit(self._ask, one)], collect=collect_futures)
        try:
            for _, request, (answer,) in jobs:
                yield request, answer
        finally:
            self.stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, request: WindowRequest) -> Answer:
        """Up to 1 + retries attempts; the last answer counts whether it is readable or not."""
        settings = self.settings.endpoint
        body = {
            "model": self.settings.model,
            "messages": [{"role": "user", "content": request.content}],
            "max_tokens": self.settings.max_tokens,
            "temperature": 0.0,
        }
        body = {name: value for name, value in (body | settings.options).items() if value is not None}
        for attempt in range(settings.retries + 1):
            pause = settings.backoff * 2.0 ** min(attempt, 10)
            try:
                answer = self._parse(self.client.ask("POST", PATH, body, seconds=settings.timeout))
                if parse_events(answer.text, answer.cut).readable:
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
        """Why there is no answer; CaptionError where there won't be one to other requests either."""
        if error.late:
            return f"{error} (--endpoint.timeout)"
        if error.status is None:
            return f"no answer from {self.client.url(PATH)}: {error}"
        reason = f"the endpoint answers {error.status}: {error}"
        if error.status in HOPELESS:
            flags = "--api_key_variable" if error.status in (401, 402) else "--api_base and --model"
            raise CaptionError(f"{reason}\nSee {flags}. What is done is kept: the same command goes on.")
        return reason

    def _parse(self, content: str) -> Answer:
        try:
            choice = json.loads(content)["choices"][0]
            text, cut = choice["message"]["content"], choice.get("finish_reason") == "length"
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            text = None
        if not isinstance(text, str):
            raise RequestError(f"it is no chat completion with a text: {self.client.shown(content)}")
        return Answer(self.client.hide(text), cut)


def write_message(settings: CaptionSettings, seconds: str, video: Video) -> list[dict[str, Any]]:
    """The parts of a message about a window that is so long: its frames with their times, and the request."""
    prompt, pictures = settings.prompt.replace(PLACEHOLDER, seconds), rgb_frames(video)
    times = [f"{format_seconds(timestamp)}s" for timestamp in video.timestamps.tolist()]
    if settings.endpoint.frames == "video":
        rate = Fraction(video.fps).limit_denominator(1000)
        url = _data_url(pictures, "video/mp4", "libx264", rate, "yuv420p", {"crf": VIDEO_QUALITY})
        prompt = f"The frames of the video are at {', '.join(times)}.\n{prompt}"
        parts = [{"type": "video_url", "video_url": {"url": url}}]
    else:
        scale, parts = {"qmin": JPEG_SCALE, "qmax": JPEG_SCALE}, []
        for shown_at, picture in zip(times, pictures, strict=True):
            url = _data_url(picture[None], "image/jpeg", "mjpeg", Fraction(1), "yuvj420p", scale)
            parts += [{"type": "text", "text": f"{shown_at}:"}, {"type": "image_url", "image_url": {"url": url}}]
    return [*parts, {"type": "text", "text": prompt}]


def rgb_frames(video: Video) -> np.ndarray:
    """(F, H, W, 3) uint8."""
    return np.ascontiguousarray(video.frames.permute(0, 2, 3, 1).numpy())


def _data_url(frames: np.ndarray, kind: str, codec: str, rate: Fraction, pixels: str, options: dict[str, str]) -> str:
    """Of frames (F, H, W, 3) uint8 RGB with even H and W."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mjpeg" if codec == "mjpeg" else "mp4") as output:
        stream = output.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        stream.thread_count = 1
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode())
    return f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
