"""A real Chromium without a window, driven over the DevTools protocol through two pipes: no port, no other package.

    with Browser(tmp_path) as browser:
        page = browser.page(width=390)
        page.open("http://127.0.0.1:9464/")
        page.wait_for("document.title.includes('ONLINE')")

Every complaint of the page's console and every address that it asked for are kept.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

WAIT_S = 30
LOOK_S = 0.1


def chromium() -> str:
    """The browser's path; the test is skipped, and says why, when there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip(
            "chromium is not installed, and nothing can stand in for a real browser (`make test-page` brings it)"
        )
    return found


class Browser:
    """One process of it, with a profile of its own in `directory`; ended when the block ends."""

    def __init__(self, directory: Path) -> None:
        (take, self._into), (self._out_of, give) = os.pipe(), os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (take, give)]  # clear of 3 and 4, which it expects
        # As root, and in containers, Chromium's own sandbox cannot be had. It is shown our own page only.
        words = [chromium(), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        words += [
            "--remote-debugging-pipe",
            "--no-first-run",
            "--disable-extensions",
            "--disable-background-networking",
        ]
        words += ["--disable-component-update", "--disable-sync", "--hide-scrollbars", "--force-color-profile=srgb"]
        words += [f"--user-data-dir={directory / 'chromium'}", "about:blank"]
        script = f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}'
        with (directory / "chromium.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", script, "bash", *words], pass_fds=ends, stdout=log, stderr=log
            )
        for end in (take, give, *ends):
            os.close(end)
        self._buffer = b""
        self._last = 0
        self._pages: dict[str, Page] = {}

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.call("Browser.close")
        os.close(self._into)
        os.close(self._out_of)
        try:
            self._process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def page(self, *, width: int = 1280, height: int = 900, is_dark: bool = False, scale: float = 1) -> Page:
        """A new, empty page in a window of that size."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = self._pages[session] = Page(self, session, "dark" if is_dark else "light")
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        page.call("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": page.scheme}
        page.call("Emulation.setEmulatedMedia", {"features": [scheme]})
        return page

    def call(self, method: str, params: Mapping[str, Any] | None = None, session: str | None = None) -> dict[str, Any]:
        """One command, and its result; events that come meanwhile go to their pages."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params or {}}
        os.write(self._into, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        give_up = time.monotonic() + WAIT_S
        while True:
            answer = self._next(give_up)
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                return dict(answer["result"])
            if answer.get("sessionId") in self._pages:
                self._pages[answer["sessionId"]].note(answer["method"], answer["params"])

    def _next(self, give_up: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._out_of], [], [], max(0, give_up - time.monotonic()))
            some = os.read(self._out_of, 1 << 16) if ready else b""
            assert some, "Chromium does not answer"
            self._buffer += some
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))


class Page:
    """One page. `complaints`: what went to its console as a warning or an error. `asked`: every URL, in order."""

    def __init__(self, browser: Browser, session: str, scheme: str) -> None:
        self.scheme = scheme
        self._browser = browser
        self._session = session
        self.complaints: list[str] = []
        self.asked: list[str] = []

    def call(self, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A command to this page."""
        return self._browser.call(method, params, self._session)

    def note(self, method: str, params: Mapping[str, Any]) -> None:
        """An event of this page."""
        if method == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(json.dumps(params["entry"]))

    def open(self, url: str) -> None:
        """Begin to load a page."""
        self.call("Page.navigate", {"url": url})

    def close(self) -> None:
        """Close it."""
        self.call("Page.close")

    def value(self, expression: str) -> Any:
        """What an expression in the page is; promises are waited for."""
        asked = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        answer = self.call("Runtime.evaluate", asked)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        """What is to be read in the one element."""
        return str(self.value(f"document.querySelector({json.dumps(selector)}).innerText"))

    def wait_for(self, expression: str) -> None:
        """Return once it is true; fails after half a minute, saying what the page shows."""
        give_up = time.monotonic() + WAIT_S
        while not self.value(f"Boolean({expression})"):
            assert time.monotonic() < give_up, f"never true: {expression}\n{self.text('body')}\n{self.complaints}"
            time.sleep(LOOK_S)  # how often to look, not how long to wait

    def picture(self, height_max: int = 4000) -> bytes:
        """A PNG of the whole page."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], height_max), "scale": 1}
        shot = {"format": "png", "clip": clip, "captureBeyondViewport": True}
        return base64.b64decode(self.call("Page.captureScreenshot", shot)["data"])
