"""A real browser for the tests of pages: chromium without a window, led by its DevTools protocol
over a pair of pipes, which needs no package. tests/test_pages.py uses it.
"""
import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "ArrowDown": 40, "ArrowUp": 38, "Escape": 27, "Tab": 9,
        "Home": 36, "End": 35}


@contextlib.contextmanager
def browser(folder, **options):
    """A Browser whose profile lies in folder; the test is skipped where there is no chromium."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if not program:
        pytest.skip("this test needs the browser chromium (Debian: apt-get install chromium)")
    to_read, its_write = os.pipe()
    its_read, to_write = os.pipe()
    # the browser reads descriptor 3 and writes descriptor 4
    shell = f'exec "$0" "$@" 3<&{its_read} 4>&{its_write}'
    argv = [program, "--headless", "--remote-debugging-pipe", f"--user-data-dir={folder}",
            "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
            *(["--no-sandbox"] if os.geteuid() == 0 else []), "about:blank"]
    process = subprocess.Popen(["bash", "-c", shell, *argv], pass_fds=(its_read, its_write),
                               stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    os.close(its_read)
    os.close(its_write)
    try:
        yield Browser(to_read, to_write, **options)
    finally:
        process.terminate()
        process.wait(30)
        os.close(to_read)
        os.close(to_write)


class Browser:
    """One tab. complaints: what the page wrote to the console as errors or warnings, exceptions
    that nothing caught, what was refused or could not be loaded. requests: addresses asked for."""

    def __init__(self, to_read, to_write, dark=False, width=1200, height=800):
        self.to_read, self.to_write, self.held, self.number = to_read, to_write, b"", 0
        self.complaints, self.requests, self.session = [], [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.resize(width, height)
        self.scheme("dark" if dark else "light")

    def resize(self, width, height, mobile=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=mobile)

    def scheme(self, name):
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": name}])

    def open(self, path):
        """Load a page; returns the seconds until it is drawn."""
        start = time.monotonic()
        self.call("Page.navigate", url=Path(path).absolute().as_uri())
        self.wait_for("document.readyState == 'complete' && location.protocol == 'file:'", 60)
        self.settle()
        return time.monotonic() - start

    def run(self, script):
        """The value of a JavaScript expression, a promise's when it is fulfilled."""
        told = self.call("Runtime.evaluate", expression=script, returnByValue=True,
                         awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def wait_for(self, script, seconds=10):
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, script
            time.sleep(0.02)

    def settle(self):
        """Wait until what was changed is on the screen."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => "
                 "setTimeout(done))))")

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key,
                      windowsVirtualKeyCode=KEYS[key])
        self.settle()

    def mouse(self, kind, x, y):
        """kind: mouseMoved, mousePressed or mouseReleased."""
        pressed = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **pressed)

    def click(self, x, y):
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.mouse(kind, x, y)
        self.settle()

    def screenshot(self, path):
        told = self.call("Page.captureScreenshot", format="png")
        Path(path).write_bytes(base64.b64decode(told["data"]))

    def call(self, method, **params):
        """The result of one method of the DevTools protocol."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to_write, json.dumps(message).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == self.number:
                assert "error" not in told, (method, told["error"])
                return told["result"]
            self._note(told.get("method"), told.get("params"))

    def _next(self):
        while b"\0" not in self.held:
            assert select.select([self.to_read], [], [], 120)[0], "the browser is silent"
            more = os.read(self.to_read, 1 << 20)
            assert more, "the browser has ended"
            self.held += more
        message, _, self.held = self.held.partition(b"\0")
        return json.loads(message)

    def _note(self, method, params):
        if method == "Runtime.exceptionThrown":
            self.complaints.append(params["exceptionDetails"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.complaints.append(params["args"])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
