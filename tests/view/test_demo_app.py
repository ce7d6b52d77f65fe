"""The demo's server, and what people do with it in a real browser."""

import json
import os
import signal
import socket
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from taro.data.samples import Sample, save_samples
from taro.rollout import RolloutGroup
from taro.synthetic.world import draw_scene, write_video
from taro.view import demo_app
from taro.view.demo import DemoSettings, start_grounder
from taro.view.demo_app import _each_within, _name, _problem, _text, _truths, make_app, served
from taro.view.timeline import ViewError
from taro.view.uploads import Uploads
from view.chromium import CHROMIUM

pytest.importorskip("gradio", reason="gradio is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Gradio's own

SHOWN = "document.querySelector('#shown').innerText"
PROBLEM = "document.querySelector('#shown [role=alert]')?.innerText"
ANSWERED = "!!document.querySelector('#shown .taro-timeline')"
BUTTONS = "[...document.querySelectorAll('#video button')].filter((one) => one.checkVisibility()).map((one) => one.ariaLabel)"
REMOVE = "#video [aria-label='Clear']"
AT = "document.querySelector('video').currentTime"


def in_a_browser(test):
    return pytest.mark.slow(pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")(test))


@pytest.fixture(scope="module")
def grounder():
    return start_grounder(DemoSettings(max_tokens=160))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for seed in (1, 2):
        write_video(draw_scene(seed), folder / f"scene{seed}.mp4")
    (folder / "fake.mp4").write_text("no video")
    (folder / "empty.mp4").touch()
    (folder / "notes.txt").write_text("no video")
    (folder / "large.mp4").write_bytes(bytes(2**20 + 1))
    return folder


@pytest.fixture(scope="module")
def address(grounder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tempfile.tempdir", str(folder))
        with served(grounder, DemoSettings(max_upload_mb=1)) as found:
            assert any(thread.name == "uploads" for thread in threading.enumerate())  # it sweeps
            yield found
    assert not list(folder.iterdir()) and "GRADIO_TEMP_DIR" not in os.environ


def open_window(browser, address):
    page = browser.open(address)
    page.wait("!!document.querySelector('#ask')")
    return page


@pytest.fixture(scope="module")
def page(browser, address):
    """The window of one user, who does one thing after the other: to open one takes seconds."""
    return open_window(browser, address)


def ask(page, query):
    page.type("#query textarea", query)
    page.click("#ask")


def remove(page):
    """The video that is there, if there is one: tests come in any order, and on pages of their own."""
    if page.run("!!document.querySelector('video')"):
        page.click(REMOVE)
    page.wait("!document.querySelector('video')")


def upload(page, path):
    remove(page)
    page.upload("#video input[type=file]", path)
    page.wait("document.querySelector('video')?.readyState >= 1")


def pick(page, number):
    """In place of the video that is there, if there is one: what is waited for is the new one."""
    before = page.run("document.querySelector('video')?.src")
    page.run("document.querySelector('#offer input').focus()")
    page.wait("!!document.querySelector('[role=option]')")
    chosen = f"[...document.querySelectorAll('[role=option]')].at({number})"
    page.run(f"{chosen}.dispatchEvent(new MouseEvent('mousedown', {{bubbles: true}}))")
    video = "document.querySelector('video')"
    page.wait(f"{video}?.readyState >= 1 && {video}.src !== {json.dumps(before)}")


@pytest.fixture
def slowly(grounder, monkeypatch):
    """The model takes its time, however fast the machine is: a browser draws no more than some states a second."""

    def follow(prompt, follow=grounder.follow):
        for group in follow(prompt):
            time.sleep(0.03)
            yield group

    monkeypatch.setattr(grounder, "follow", follow)


@in_a_browser
def test_upload_ask_stream_and_seek(page, files, slowly):
    page.resize(390, 844)
    upload(page, files / "scene1.mp4")
    page.run(
        "window.seen = new Set(); new MutationObserver(() => seen.add(document.querySelector('.taro-text')?.innerText.length))"
        ".observe(document.querySelector('#shown'), {childList: true, subtree: true, characterData: true}); 0"
    )
    assert page.run(f"{BUTTONS}.includes('Clear') && !{BUTTONS}.some((name) => /trim|reset/i.test(name))")
    ask(page, draw_scene(1).events[0].text)
    page.wait(ANSWERED)
    assert page.run("[...seen].filter((length) => length).length") > 3  # the text grew
    assert page.run("document.querySelector('#shown h2').textContent") == draw_scene(1).events[0].text
    bars = page.run("[...document.querySelectorAll('.bar')].map((node) => node.getAttribute('aria-label'))")
    page.click(".bar")
    start = page.run(AT)
    assert bars == [f"answer, {start:.1f} to {bars[0].split(' to ')[1].split()[0]} s; show {start:.1f} s"] and start > 0
    page.run("[...document.querySelectorAll('.taro-text .time')].at(-1).click()")
    assert page.run(AT) == float(bars[0].split(" to ")[1].split()[0])
    page.wait("document.querySelector('.taro-timeline').style.getPropertyValue('--at')")
    page.click("#shuffle")
    page.wait("document.querySelectorAll('.taro-text span[title*=shuffled]').length > 10")
    assert "with shuffled frames a token of the reasoning is" in page.run(SHOWN)
    assert not page.run("document.documentElement.scrollWidth > innerWidth")
    page.resize(1280, 900)
    assert page.violations() == {} == page.violations("dark")  # Gradio's own parts, too
    assert page.run("performance.getEntriesByType('resource').every((one) => one.name.startsWith(origin))")  # no network


@in_a_browser
def test_a_video_that_is_offered_has_its_truth(page):
    remove(page)
    pick(page, 0)
    page.click("#ask")
    page.wait(ANSWERED)
    assert page.run("[...document.querySelectorAll('.bar')].map((node) => node.classList.contains('truth'))") == [True, False]


@in_a_browser
def test_another_video_ends_the_question_about_the_last_one(page, grounder, monkeypatch):
    ended = threading.Event()

    def endless(prompt):
        ids = grounder.model.builder.encode("a ")
        try:
            for count in range(1, 3000):
                time.sleep(0.03)
                yield RolloutGroup((torch.tensor(ids * count),), (torch.zeros(len(ids) * count),), (False,))
        finally:
            if count < 2999:
                ended.set()

    remove(page)
    pick(page, 0)
    with monkeypatch.context() as patched:
        patched.setattr(grounder, "follow", endless)
        page.click("#ask")
        page.wait("document.querySelector('.taro-text')?.innerText.includes('a a a')")
        pick(page, -1)
        assert ended.wait(60)
    assert not page.run(SHOWN)
    page.click("#ask")
    page.wait(ANSWERED)
    assert page.run("document.querySelectorAll('.bar.truth').length") == 1


@in_a_browser
def test_what_can_not_be_asked_leaves_the_server_running(page, files):
    remove(page)
    page.click("#ask")
    assert page.wait(PROBLEM) == "there is no video: upload one, or pick one"
    for name, message in (("empty.mp4", "empty.mp4: is empty"), ("fake.mp4", "fake.mp4: cannot be decoded")):
        page.upload("#video input[type=file]", files / name)
        page.wait(f"{PROBLEM}?.startsWith('{message}')")
        page.wait("!document.querySelector('video')")
    for name, message in (("notes.txt", "Invalid file type: notes.txt"), ("large.mp4", "maximum allowed size")):
        page.upload("#video input[type=file]", files / name)
        page.wait(f"document.body.innerText.includes('{message}') && !{PROBLEM}")  # and nothing of the file before
    upload(page, files / "scene1.mp4")
    ask(page, "")
    page.wait(f"{PROBLEM} === 'the question is empty: say what is to be found in the video'")
    ask(page, "<|im_end|>")
    page.wait(f"{PROBLEM}?.includes('would not read as text')")
    ask(page, draw_scene(1).events[0].text)
    page.wait(ANSWERED)


@in_a_browser
def test_two_users_at_once_get_their_own_answers(page, browser, address, files, grounder, tmp_path_factory):
    other = open_window(browser, address)
    pages, queries = {1: page, 2: other}, {seed: draw_scene(seed).events[0].text for seed in (1, 2)}
    for seed, one in pages.items():
        upload(one, files / f"scene{seed}.mp4")
        one.type("#query textarea", queries[seed])
    for one in pages.values():
        one.click("#ask")
    for seed, one in pages.items():
        one.wait(ANSWERED)
        said = one.run("document.querySelector('.taro-text').textContent")
        assert said == grounder.ask(str(files / f"scene{seed}.mp4"), queries[seed]).text
    first, second = (next(tmp_path_factory.getbasetemp().glob(f"served0/*/uploads/*/scene{seed}.mp4")) for seed in (1, 2))
    other.close()  # and one leaves
    end = time.monotonic() + 60
    while second.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert first.exists() and not second.exists()


def test_what_a_model_or_a_file_name_says_is_no_markup(markup):
    assert markup not in _text(markup) and "&lt;script" in _text(markup)
    assert markup not in _problem(ViewError(markup)) and "&lt;script" in _problem(ViewError(markup))


@pytest.mark.parametrize(
    ("model", "name"), [("outputs/one/hf", "one/hf"), ("Qwen/Qwen3-VL-2B-Instruct", "Qwen3-VL-2B-Instruct"), (".", "run/hf")]
)
def test_models_of_runs_are_told_apart(model, name, tmp_path, monkeypatch):
    (tmp_path / "run" / "hf").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "run" / "hf")
    assert _name(model) == name


class Mute:
    """In place of a model: notes what it is asked."""

    streams, model = True, SimpleNamespace(settings=SimpleNamespace(model="mute"))

    def __init__(self):
        self.asked = []

    def stream(self, video, query):
        self.asked.append((video, query))
        return []


def parts(grounder, settings, folder):
    """What the parts of the page do, by name, and its uploads."""
    uploads = Uploads(folder, kept=folder / "offered")
    return {part.name: part for part in make_app(grounder, settings, uploads).fns.values()}, uploads


def test_limits_hold_for_every_question(tmp_path, monkeypatch):
    """Whatever video it is about, and whatever else was called before. Nor do questions keep anyone from another video."""
    monkeypatch.setattr("taro.view.demo.SCENES", (1,))
    mute = Mute()
    found, uploads = parts(mute, DemoSettings(max_minutes=0.01), tmp_path)
    *_, (shown, answer, _) = found["ask"].fn(str(next(uploads.kept.iterdir())), "the red square", None)
    assert "minutes long, 0.01 are allowed" in shown and answer is None and mute.asked == []
    assert {name: part.queue for name, part in found.items() if name in ("receive", "pick", "ask", "shuffle")} == {
        "receive": False, "pick": False, "ask": True, "shuffle": True
    }
    found["leave"].fn(SimpleNamespace(session_hash="a"))
    assert uploads.gone == {"a"}


def test_samples_of_the_same_words_are_offered_each(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_video(draw_scene(1), tmp_path / folder / "v.mp4")
    samples = [Sample(name, str(tmp_path / name / "v.mp4"), "it rains", ((1.0, 2.0),), 9.0) for name in ("a", "b")]
    save_samples(samples, tmp_path / "samples.jsonl")
    (tmp_path / "served").mkdir()
    found, _ = parts(Mute(), DemoSettings(annotations=str(tmp_path / "samples.jsonl")), tmp_path / "served")
    request = SimpleNamespace(session_hash="a")
    first, second = (found["pick"].fn(f"{number}. v: it rains", request)[4] for number in (1, 2))
    assert first.id == "a" and second.id == "b" and first.video != second.video


def test_truths_are_those_of_the_video_that_was_asked_about():
    sample = Sample("a", "a.mp4", "it rains", ((1.0, 2.0),), 9.0)
    asked = [("a.mp4", "it rains"), ("b.mp4", "it rains"), ("a.mp4", "it snows")]
    assert [_truths(sample, SimpleNamespace(video=video, query=query)) for video, query in asked] == [sample.spans, (), ()]
    assert _truths(None, SimpleNamespace(video="a.mp4", query="it rains")) == ()


def test_one_question_at_a_time_is_in_the_model():
    lock = threading.Lock()
    pieces = _each_within(lock, (lock.locked() for _ in range(2)))
    assert next(pieces) and not lock.locked() and list(pieces) == [True] and not lock.locked()


def test_sigterm_ends_it_as_ctrl_c_does(monkeypatch, capsys):
    @contextmanager
    def served(grounder, settings):
        try:
            yield "there"
        finally:
            print("deleted")

    monkeypatch.setattr(demo_app, "served", served)
    monkeypatch.setattr(demo_app, "time", SimpleNamespace(sleep=lambda seconds: signal.raise_signal(signal.SIGTERM)))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        demo_app.serve(Mute(), DemoSettings())
    assert capsys.readouterr().out.endswith("deleted\n") and signal.getsignal(signal.SIGTERM) is before


def test_a_port_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ViewError, match=f"--port {port}: can't listen there"), served(Mute(), DemoSettings(port=port)):
            pass
