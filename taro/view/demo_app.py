"""The demo in a browser, by Gradio: upload or pick a video, ask, watch the reasoning being written, and see what it depends on.

Annotations are not strings here: Gradio reads `gr.Request` from them, in functions that see `gr` alone.
"""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from taro.data.samples import Sample
from taro.errors import TaroError
from taro.spans import Span
from taro.view.answer import Answer
from taro.view.demo import UNPLAYABLE, DemoSettings, answer_part, check_video, explain, offer_videos, scripts
from taro.view.grounder import Grounder
from taro.view.html import asset, escape
from taro.view.timeline import ViewError
from taro.view.uploads import Uploads

BETWEEN = 0.05  # seconds from one state of a text to the next
# The default ones come from a network.
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
HOUR = 3600


def serve(grounder: Grounder, settings: DemoSettings) -> None:
    """Until Ctrl-C, or SIGTERM, which does the same. Raises as `served`."""
    with _terminated_as_interrupted(), served(grounder, settings) as address:
        print(f"the demo of {grounder.model.settings.model} is at {address}; Ctrl-C ends it", flush=True)
        while True:
            time.sleep(HOUR)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt  # SIGINT itself is ignored where a shell has started this in the background

    earlier = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


@contextmanager
def served(grounder: Grounder, settings: DemoSettings) -> Iterator[str]:
    """The address of a running server. When it ends, all files that it got are deleted.

    Raises:
        ViewError: the port is taken, or there is nothing of `--annotations` to offer.
        SampleError: rows of it that can't be read.
    """
    import gradio as gr

    with (
        tempfile.TemporaryDirectory(prefix="taro-demo-") as folder,
        _gradio_files(Path(folder, "uploads")) as files,
    ):
        uploads = Uploads(files, kept=files / "offered")
        app = make_app(grounder, settings, uploads)
        look = {"theme": gr.themes.Base(**FONTS), "css": asset("timeline.css") + asset("demo.css"), "head": scripts()}
        try:
            _, local, shared = app.launch(
                server_name=settings.host,
                server_port=settings.port,
                share=settings.share,
                max_file_size=f"{settings.max_upload_mb}mb",
                prevent_thread_lock=True,
                quiet=True,
                inbrowser=False,
                ssr_mode=False,
                footer_links=[],
                **look,
            )
        except OSError as error:
            raise ViewError(f"--host {settings.host} --port {settings.port}: can't listen there ({error})") from None
        try:
            with uploads.swept():
                yield shared or local
        finally:
            app.close(verbose=False)


@contextmanager
def _gradio_files(folder: Path) -> Iterator[Path]:
    """Have Gradio keep files here: it reads this from the environment alone."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    try:
        yield folder
    finally:
        if before is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = before


class Handlers:
    """What the parts of the page do. What they return, or give one after the other, is what parts of the page show then.

    Args:
        grounder: that is asked.
        settings: with the limits, which hold for every question: parts can be called in any order.
        uploads: the files of each session. Videos that are offered are among them: Gradio would copy others for who picks them.
    """

    def __init__(self, grounder: Grounder, settings: DemoSettings, uploads: Uploads) -> None:
        import gradio as gr

        self.grounder, self.settings, self.uploads, self.gr = grounder, settings, uploads, gr
        uploads.kept.mkdir(parents=True)
        videos = enumerate(offer_videos(settings, uploads.kept), start=1)
        self.offered = {f"{number}. {Path(one.video).stem}: {one.query}": one for number, one in videos}
        self.model = threading.Lock()  # a question that is given up still ends its step, and vLLM's whole answer is one

    def receive(self, video: str | None, session: str) -> tuple:
        """A file that was uploaded, or none any more: the video, what is shown, answer, sample, and the button to shuffle."""
        try:
            if video is not None:
                self.uploads.hold(session, video)
                check_video(video, self.settings.max_minutes)
        except TaroError as error:
            self.uploads.release(session)
            return None, _problem(error), None, None, self._enabled(False)
        if video is None:
            self.uploads.release(session)
        return self.gr.skip(), "", None, None, self._enabled(False)

    def pick(self, name: str, session: str) -> tuple:
        """A video that is offered: the video, its query, and then as `receive`."""
        self.uploads.release(session)
        sample = self.offered[name]
        return sample.video, sample.query, "", None, sample, self._enabled(False)

    def ask(self, video: str | None, query: str, sample: Sample | None) -> Iterator[tuple]:
        """What is shown, the answer, and the button to shuffle."""
        try:
            if video is None:
                raise ViewError("there is no video: upload one, or pick one")
            yield _text("reading the video"), None, self._enabled(False)
            check_video(video, self.settings.max_minutes)  # offered ones, too, and those of who left `receive` out
            with self.model:
                stream, text, shown = self.grounder.stream(video, query), "", 0.0
            yield _text("" if self.grounder.streams else "vLLM shows a text when it is whole"), None, self._enabled(False)
            for piece in _each_within(self.model, stream):
                text += piece
                if time.monotonic() - shown > BETWEEN:
                    yield _text(text), None, self._enabled(False)
                    shown = time.monotonic()
        except TaroError as error:
            yield _problem(error), None, self._enabled(False)
            return
        answer = stream.answer
        yield _answered(answer, sample), answer, self._enabled(bool(answer.spans))

    def shuffle(self, answer: Answer | None, radius: float, sample: Sample | None) -> str:
        """What is shown: the same answer, with what shuffled frames do to it."""
        if answer is None:
            return _problem(ViewError("the answer is older than an hour: ask again"))
        try:
            with self.model:
                scored = self.grounder.gap(answer, radius=radius)
            return _answered(scored, sample)
        except TaroError as error:
            return _problem(error) + _answered(answer, sample)

    def _enabled(self, enabled: bool) -> Any:
        """Of a button."""
        return self.gr.update(interactive=enabled)


def make_app(grounder: Grounder, settings: DemoSettings, uploads: Uploads) -> Any:
    """The page, as Gradio's Blocks."""
    import gradio as gr

    handlers = Handlers(grounder, settings, uploads)

    def of_session(handler: Callable[[Any, str], tuple]) -> Callable[..., tuple]:
        def call(value: Any, request: gr.Request) -> tuple:
            return handler(value, request.session_hash)

        call.__name__ = handler.__name__
        return call

    def leave(request: gr.Request) -> None:
        uploads.leave(request.session_hash)

    with gr.Blocks(title="TaRO", analytics_enabled=False) as app:
        gr.Markdown("# When does it happen?\n" + _about(grounder, settings))
        with gr.Row():
            with gr.Column(scale=3, min_width=300):
                video = gr.Video(sources=["upload"], label="video", elem_id="video", buttons=[])
                gr.HTML(UNPLAYABLE, elem_classes="unplayable-part")
            with gr.Column(scale=2, min_width=300):
                offer = gr.Dropdown(list(handlers.offered), value=None, label="or pick one", elem_id="offer")
                query = gr.Textbox(label="what is to be found in it?", elem_id="query", placeholder="a person opens the door")
                button = gr.Button("Ask", variant="primary", elem_id="ask")
        shown = gr.HTML(elem_id="shown")
        with gr.Row():
            again = gr.Button("Shuffle the frames around the answer", interactive=False, elem_id="shuffle")
            ends = min(0.5, settings.radius), max(10.0, settings.radius)
            label = "within so many seconds of its start and end"
            radius = gr.Slider(*ends, settings.radius, step=0.5, label=label, elem_id="radius")
        forget = gr.Button("forget what is shown", elem_id="forget")  # demo.js presses it, nobody sees it
        answer, sample = gr.State(None, time_to_live=HOUR), gr.State(None)
        # What is said of one video must not come when another is shown, and questions that wait must not keep anyone from it.
        # The browser does one after the other: questions end first.
        private = {"api_visibility": "private"}
        busy = {"concurrency_id": "model", "concurrency_limit": 1, "show_progress": "minimal", **private}
        direct = {"queue": False, **private}
        ask = handlers.ask, [video, query, sample], [shown, answer, again]
        asked = [event(*ask, **busy) for event in (button.click, query.submit)]
        asked.append(again.click(handlers.shuffle, [answer, radius, sample], shown, **busy))
        for event in (video.upload, video.clear, offer.input):
            event(None, cancels=asked)
        for event in (video.upload, video.clear):
            event(of_session(handlers.receive), video, [video, shown, answer, sample, again], **direct)
        # A file that Gradio refuses itself is no event here: what is said of the file before must go all the same.
        forget.click(None, None, shown, js="() => ''", **direct)
        offer.input(of_session(handlers.pick), offer, [video, query, shown, answer, sample, again], **direct)
        app.unload(leave)
    return app.queue(max_size=settings.max_waiting)


def _each_within(lock: threading.Lock, pieces: Iterable[str]) -> Iterator[str]:
    """Make each of them with the lock held, which is free in between."""
    rest = iter(pieces)
    while True:
        with lock:
            piece = next(rest, None)
        if piece is None:
            return
        yield piece


def _answered(answer: Answer, sample: Sample | None) -> str:
    """An answer below its question: the one in the box may be the next already."""
    return f'<div class="taro"><h2>{escape(answer.query)}</h2></div>{answer_part(answer, _truths(sample, answer))}'


def _truths(sample: Sample | None, answer: Answer) -> Sequence[Span]:
    """Those of the sample that was picked, where it is the one that was asked about."""
    asked = sample is not None and (sample.video, sample.query) == (answer.video, answer.query)
    return sample.spans if asked else ()


def _about(grounder: Grounder, settings: DemoSettings) -> str:
    return (
        f"`{_name(grounder.model.settings.model)}` reasons, then answers. Videos up to {settings.max_upload_mb} MB and "
        f"{settings.max_minutes:g} minutes; they are deleted when you leave. A bar, or a time in the text, moves the player."
    )


def _name(model: str) -> str:
    """The last part of a path; of `RUN/hf`, as each run of train.py has its model, the run's, too."""
    path = Path(model).absolute()
    return "/".join(path.parts[-2:]) if path.name == "hf" else path.name


def _text(text: str) -> str:
    return f'<div class="taro"><div class="taro-text" aria-live="polite">{escape(text)}</div></div>'


def _problem(error: Exception) -> str:
    return f'<div class="taro"><p class="problem" role="alert">{escape(explain(error))}</p></div>'
