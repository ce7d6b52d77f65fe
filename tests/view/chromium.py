"""A headless chromium that does what a person does, over its debugging pipe: no driver is needed, and no network."""

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import axe_core_python

AXE = Path(axe_core_python.__file__).with_name("axe.min.js")
# Pages may change classes when the scheme does, which is between two frames, and colours may take their time.
COLOURS_HAVE_CHANGED = """new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))
  .then(() => Promise.all(document.getAnimations().filter((one) => one instanceof CSSTransition).map((one) => one.finished)))
  .then(() => 0)"""
FIND_VIOLATIONS = """axe.run().then((found) => JSON.stringify(Object.fromEntries(found.violations.map(
  (rule) => [rule.id, rule.nodes.map((node) => `${node.html.slice(0, 200)} ${node.failureSummary}`)]))))"""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECONDS = 250  # that anything may take; pytest ends a test a little later
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--disable-background-networking")


class Chromium:
    """One browser with many windows."""

    def __init__(self, folder):
        (theirs, self.commands), (self.answers, ours) = os.pipe(), os.pipe()
        # It reads commands from descriptor 3 and answers on 4, which may be any of these here.
        read, write = (fcntl.fcntl(one, fcntl.F_DUPFD, 10) for one in (theirs, ours))
        shell = ["bash", "-c", f'exec "$0" "$@" 3<&{read} 4>&{write} {read}<&- {write}>&-', CHROMIUM]
        flags = [*FLAGS, f"--user-data-dir={folder / 'profile'}"]
        with (folder / "chromium.log").open("w") as errors:
            self.process = subprocess.Popen([*shell, *flags], pass_fds=(read, write), stdout=errors, stderr=errors)
        for one in (theirs, ours, read, write):
            os.close(one)
        self.numbers, self.buffer = itertools.count(1), b""

    def close(self):
        with suppress(TimeoutError, OSError):
            self.call("Browser.close")
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.commands)
        os.close(self.answers)

    def call(self, method, session=None, **parameters):
        """One command of the DevTools protocol, and its result."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + SECONDS
        while True:
            while b"\0" not in self.buffer:
                if not select.select([self.answers], [], [], max(0.0, end - time.monotonic()))[0]:
                    raise TimeoutError(method)
                part = os.read(self.answers, 1 << 16)
                if not part:
                    raise OSError(f"chromium has ended before it answered {method}")
                self.buffer += part
            answer, _, self.buffer = self.buffer.partition(b"\0")
            answer = json.loads(answer)
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def open(self, address, width=1280, height=900):
        """A window of somebody else: with cookies of its own."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, context, target)
        page.resize(width, height)
        page.call("Emulation.setFocusEmulationEnabled", enabled=True)
        page.call("Page.navigate", url=address)
        return page


class Page:
    """One window."""

    def __init__(self, browser, session, context, target):
        self.browser, self.session, self.context, self.target = browser, session, context, target

    def call(self, method, **parameters):
        return self.browser.call(method, self.session, **parameters)

    def resize(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def run(self, script):
        """The value of an expression."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, script):
        """The value of an expression as soon as it is true."""
        end = time.monotonic() + SECONDS
        while not (value := self.run(script)):
            if time.monotonic() > end:
                raise TimeoutError(f"{script}\n{self.run('document.body.innerText')}")
            time.sleep(0.05)
        return value

    def click(self, selector):
        self.wait(f"!!document.querySelector({json.dumps(selector)})")
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def type(self, selector, text):
        box = f"document.querySelector({json.dumps(selector)})"
        self.wait(f"!!{box}")
        self.run(f"{box}.value = {json.dumps(text)}; {box}.dispatchEvent(new Event('input', {{bubbles: true}}))")

    def upload(self, selector, path):
        self.wait(f"!!document.querySelector({json.dumps(selector)})")
        found = self.call("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        self.call("DOM.setFileInputFiles", files=[str(path)], objectId=found["result"]["objectId"])

    def press(self, key):
        """Tab or Enter, where the focus is."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            code = {"Tab": 9, "Enter": 13}[key]
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def violations(self, scheme="light"):
        """What axe-core finds wrong in the page, in light or dark colours: rules, and for each the elements."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.run(COLOURS_HAVE_CHANGED)
        if self.run("typeof axe") == "undefined":
            self.run(f"{AXE.read_text(encoding='utf-8')}; 0")
        return json.loads(self.run(FIND_VIOLATIONS))

    def picture(self, path, whole=True):
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self):
        self.browser.call("Target.closeTarget", targetId=self.target)
        self.browser.call("Target.disposeBrowserContext", browserContextId=self.context)
