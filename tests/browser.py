"""Drives headless Chromium through its debugging protocol, to see a page as a reader does."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
HOW_TO = "no Chromium found for the browser test; Debian and Ubuntu: sudo apt-get install chromium"
FLAGS = (
    *("--headless", "--disable-gpu", "--no-first-run", "--no-default-browser-check", "--hide-scrollbars", "--mute-audio"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    *("--disable-default-apps", "--disable-dev-shm-usage", "--metrics-recording-only", "--password-store=basic"),
    "--remote-debugging-address=127.0.0.1",
    "--remote-allow-origins=*",
)


def chromium() -> str:
    """Path of the browser. Without one the test is skipped, but fails in CI and for root, who can install one."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        if os.environ.get("CI") or os.geteuid() == 0:
            pytest.fail(HOW_TO)
        pytest.skip(HOW_TO)
    return found


class Navigated(Exception):
    """The page was left before it could answer."""


class Page:
    """One tab. `console`, `exceptions` and `requests` hold what happened in it since it was opened."""

    def __init__(self, url: str) -> None:
        import websocket

        self._socket = websocket.create_connection(url, timeout=30)
        self._numbers = itertools.count(1)
        self.console: list[str] = []
        self.exceptions: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log", "Security"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command and its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                if "navigated" in message.get("error", {}).get("message", ""):
                    raise Navigated(method)
                assert "error" not in message, f"{method}: {message['error']}"
                return dict(message["result"])
            self._event(message)

    def _event(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.consoleAPICalled":
            self.console.append(f"{params['type']}: {params['args']}")
        elif method == "Log.entryAdded":
            self.console.append(f"{params['entry']['level']}: {params['entry']['text']}")
        elif method == "Runtime.exceptionThrown":
            self.exceptions.append(json.dumps(params["exceptionDetails"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def open(self, path: Path) -> str:
        """Open a file; returns its URL once it is loaded."""
        url = path.absolute().as_uri()
        self.run("window.left = true")  # the page before, which is complete too
        self.send("Page.navigate", url=url)
        self.until("!window.left && document.readyState === 'complete'")
        return url

    def run(self, script: str) -> Any:
        """Value of a JavaScript expression."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, script: str, seconds: float = 20) -> None:
        """Wait until an expression is true, here or on the page that a link leads to."""
        end = time.monotonic() + seconds
        while not self._holds(script):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.05)

    def _holds(self, script: str) -> bool:
        try:
            return bool(self.run(script))
        except Navigated:
            return False

    def viewport(self, width: int, height: int, phone: bool = False) -> None:
        """Size of the window in CSS pixels."""
        scale = 2 if phone else 1
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone)

    def media(self, kind: str = "", dark: bool = False) -> None:
        """Print or screen, dark or light."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", media=kind, features=features)

    def click(self, selector: str) -> None:
        """A real click with the mouse in the middle of an element."""
        box = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}});"
            " const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def key(self, key: str, code: int, text: str = "") -> None:
        """A real key press in the element that has the focus."""
        for kind in ("keyDown", "keyUp"):
            press = {"text": text} if text and kind == "keyDown" else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **press)

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """The whole page as PNG."""
        answer = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def pdf(self, path: Path) -> None:
        """The page as printed on A4."""
        answer = self.send("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, preferCSSPageSize=True, printBackground=False)
        path.write_bytes(base64.b64decode(answer["data"]))


@contextmanager
def browser() -> Iterator[Page]:
    """A fresh browser with an empty profile; gone afterwards, whatever happens."""
    path = chromium()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        command = [path, *FLAGS, *sandbox, f"--remote-debugging-port={port}", f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"HOME": profile}
        )
        try:
            yield Page(_tab(port, process))
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


def _tab(port: int, process: subprocess.Popen[bytes]) -> str:
    """Address of the first tab, once the browser answers."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        assert process.poll() is None, f"Chromium ended with {process.returncode} before it answered"
        with suppress(OSError, ValueError), urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=5) as answer:
            for tab in json.load(answer):
                if tab.get("type") == "page":
                    return str(tab["webSocketDebuggerUrl"])
        time.sleep(0.1)
    raise TimeoutError("Chromium did not answer within 60 s")
