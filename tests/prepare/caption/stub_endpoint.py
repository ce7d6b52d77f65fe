"""An endpoint that knows the truth of the synthetic videos and can misbehave."""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np

from taro.prepare.caption.endpoint import rgb_frames
from taro.prepare.caption.videos import cut_windows
from taro.video.geometry import PatchGeometry
from taro.video.load import VideoSettings, load_video

VIDEO = VideoSettings(fps=2.0, max_tokens=64)
WINDOW, OVERLAP = 8.0, 2.0


def pictures_of(url):
    """The frames (F, H, W, 3) in a data URL."""
    content = io.BytesIO(base64.b64decode(url.partition(",")[2]))
    with av.open(content) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


class TrueEvents:
    """What happens in each window, found by the window's first frame."""

    def __init__(self, samples):
        self.windows = []  # first frame, video id, window, captions
        for path in sorted({sample.video for sample in samples}):
            sample = next(sample for sample in samples if sample.video == path)
            for window in cut_windows(sample.duration, WINDOW, OVERLAP):
                clip = (window.start, window.end)
                video = load_video(path, clip=clip, settings=VIDEO, geometry=PatchGeometry())
                self.windows.append((rgb_frames(video)[0].astype(float), path, window, sample.captions))

    def find(self, picture):
        """Path of the video, the window, and the video's captions."""
        errors = [np.abs(frame - picture).mean() if frame.shape == picture.shape else np.inf for frame, *_ in self.windows]
        best = int(np.argmin(errors))
        assert errors[best] < 6, errors
        return self.windows[best][1:]

    def lines(self, window, captions):
        shown = [(c, max(c.start, window.start), min(c.end, window.end)) for c in captions]
        lines = [
            f"From {start - window.start:.1f}s to {end - window.start:.1f}s, {caption.text}"
            for caption, start, end in shown
            if end - start > 0.05
        ]
        return "\n".join(lines) or "No events."


class Endpoint(ThreadingHTTPServer):
    """Chat completions; `fault(number, path of the video)` names what goes wrong with a request, from 0."""

    daemon_threads = True

    def __init__(self, truth):
        super().__init__(("127.0.0.1", 0), Handler)
        self.truth, self.fault = truth, lambda number, video: None
        self.bodies, self.asked, self.keys = [], [], []
        self.held, self.release = threading.Event(), threading.Event()
        self.lock = threading.Lock()

    @property
    def base(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        """A client that was killed or gave up is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server, content = self.server, body["messages"][0]["content"]
        first = next(part[part["type"]]["url"] for part in content if part["type"] != "text")
        video, window, captions = server.truth.find(pictures_of(first)[0])
        with server.lock:
            number = len(server.asked)
            server.asked.append((Path(video).name, window))
            server.bodies.append(body)
            server.keys.append(self.headers["Authorization"])
        fault = server.fault(number, video)
        if fault == "hold":
            server.held.set()
        if fault in ("hold", "stall"):
            server.release.wait(30)
        if fault == "hang up":
            return
        text = "I see shapes." if fault == "chatter" else server.truth.lines(window, captions)
        answer = {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}
        if fault == "cut":
            answer["choices"][0]["message"]["content"] += "\nFrom 0.0s to 1.0s, the red"
            answer["choices"][0]["finish_reason"] = "length"
        if fault == "echo":
            answer["choices"][0]["message"]["content"] = f"{self.headers['Authorization']}\n{text}"
        nonsense = {"no json": b"<html>", "no choices": b'{"choices": []}', "no text": b'{"choices": [{"message": {}}]}'}
        status = fault if isinstance(fault, int) else 200
        if status != 200:
            answer = {"error": {"message": f"no {self.headers['Authorization']}"}}
        self.reply(status, nonsense.get(fault, json.dumps(answer).encode()))

    def reply(self, status, content):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
