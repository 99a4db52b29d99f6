"""A real browser for the tests: headless Chromium, driven through its debugging pipe (no port, no further package)."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MISSING = f"no browser found ({', '.join(NAMES)}); install one, e.g. with: apt-get install chromium"
# Chromium reads commands from descriptor 3 and writes answers to 4; a small Python puts the pipes there.
_LAUNCH = (
    "import os, sys\n"
    "read, write = (os.dup2(int(fd), 100 + i) for i, fd in enumerate(sys.argv[1:3]))\n"
    "os.dup2(read, 3), os.dup2(write, 4)\n"
    "os.execv(sys.argv[3], sys.argv[3:])\n"
)
_OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip


def installed() -> str | None:
    """The path of a browser, or None."""
    return next((found for found in map(shutil.which, NAMES) if found), None)


@dataclass
class Seen:
    """What a page did and is: pictures as PNG bytes, figures from the page itself."""

    first_screen: bytes
    whole: bytes
    scroll_width: int
    height: int
    facts: dict[str, Any]
    complaints: list[str] = field(default_factory=list)  # console messages, exceptions, refused resources
    requests: list[str] = field(
        default_factory=list
    )  # addresses asked for, other than the page and embedded data


class Browser:
    """One Chromium with one tab."""

    def __init__(self, process: subprocess.Popen[bytes], read: int, write: int) -> None:
        self._process, self._read, self._write = process, read, write
        self._buffer, self._next, self._events = b"", 0, list[dict[str, Any]]()
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session: str | None = self._call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    _session = None

    def look(self, page: Path, width: int, height: int, dark: bool = False, facts: str = "({})") -> Seen:
        """Open a file at a screen size (CSS px); `facts`: an expression evaluated in the page, giving an object."""
        self._events.clear()
        mobile = width < 600
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=mobile,
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("Emulation.setEmulatedMedia", features=scheme)
        self._call("Page.navigate", url=page.resolve().as_uri())
        self._until("Page.loadEventFired")
        first = self._picture(width, height)
        size = "({w: document.documentElement.scrollWidth, h: document.documentElement.scrollHeight})"
        measured, found = self._ask(size), self._ask(facts)
        whole = self._picture(width, min(measured["h"], 16_000))
        bad = (
            "Runtime.consoleAPICalled",
            "Runtime.exceptionThrown",
            "Log.entryAdded",
            "Network.loadingFailed",
        )
        complaints = [json.dumps(e["params"]) for e in self._events if e["method"] in bad]
        asked = [
            e["params"]["request"]["url"] for e in self._events if e["method"] == "Network.requestWillBeSent"
        ]
        asked = [url for url in asked if not url.startswith("data:") and url != page.resolve().as_uri()]
        return Seen(first, whole, measured["w"], measured["h"], found, complaints, asked)

    def _picture(self, width: int, height: int) -> bytes:
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        answer = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(answer["data"])

    def _ask(self, expression: str) -> Any:
        return self._call("Runtime.evaluate", expression=expression, returnByValue=True)["result"]["value"]

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._next += 1
        message: dict[str, Any] = {"id": self._next, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == message["id"]:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def _until(self, event: str) -> None:
        while not any(e["method"] == event for e in self._events):
            self._receive()

    def _receive(self, timeout_s: float = 60.0) -> dict[str, Any]:
        end = time.monotonic() + timeout_s
        while b"\0" not in self._buffer:
            assert select.select([self._read], [], [], max(0.0, end - time.monotonic()))[0], (
                "the browser is silent"
            )
            part = os.read(self._read, 1 << 20)
            assert part, f"the browser has closed (exit code {self._process.poll()})"
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self._events.append(message)
        return message


@contextmanager
def browser(path: str, profile: Path) -> Iterator[Browser]:
    """A running browser with an empty profile; ended with the block."""
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    command = [
        sys.executable,
        "-c",
        _LAUNCH,
        str(to_read),
        str(from_write),
        path,
        *_OPTIONS,
        f"--user-data-dir={profile}",
    ]
    environment = {**os.environ, "HOME": str(profile)}
    with subprocess.Popen(
        command,
        pass_fds=(to_read, from_write),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(to_read)
        os.close(from_write)
        try:
            yield Browser(process, from_read, to_write)
        finally:
            os.close(to_write)
            os.close(from_read)
            process.terminate()
            process.wait(20)
