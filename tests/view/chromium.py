"""A headless chromium that does what a person does, over its debugging pipe: no driver is needed, and no network."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from contextlib import suppress

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECONDS = 60  # that anything may take
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--disable-background-networking")


class Chromium:
    """One browser with many windows."""

    def __init__(self, folder):
        theirs, self.commands = os.pipe()
        self.answers, ours = os.pipe()
        # It reads commands from descriptor 3 and answers on 4.
        shell = ["bash", "-c", f'exec "$0" "$@" 3<&{theirs} 4>&{ours} {theirs}<&- {ours}>&-', CHROMIUM]
        errors = (folder / "chromium.log").open("w")
        flags = [*FLAGS, f"--user-data-dir={folder / 'profile'}"]
        self.process = subprocess.Popen([*shell, *flags], pass_fds=(theirs, ours), stdout=errors, stderr=errors)
        errors.close()
        os.close(theirs)
        os.close(ours)
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

    def picture(self, path, whole=True):
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self):
        self.browser.call("Target.closeTarget", targetId=self.target)
        self.browser.call("Target.disposeBrowserContext", browserContextId=self.context)
