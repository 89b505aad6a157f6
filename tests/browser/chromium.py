"""Chromium without a window, driven over a pair of pipes: no package and no port is needed."""

import base64
import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
# No sandbox: as root, and in most containers, there is none to be had. The pages are our own.
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
)

PIPES = 'exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null'  # it reads commands from file 3 and answers on file 4
PATIENCE = 300.0  # seconds of all tests together; one that hangs ends in an error


class Browser:
    """One tab. ``seen``: the addresses that it asked for."""

    def __init__(self, commands: Any, answers: Any):
        self._commands, self._answers, self._number, self._session = commands, answers, 0, None
        self._events: list[dict[str, Any]] = []
        self.seen: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        self.call("Network.enable")

    def call(self, method: str, **params: Any) -> Any:
        """A command of the DevTools protocol, and its result. Raises RuntimeError where Chromium refuses."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while (answer := self._read()).get("id") != self._number:
            self._events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def open(self, path: Path, width: int, height: int, scale: float = 1, dark: bool = False) -> None:
        """Show a file in a window of ``width`` x ``height``, and wait until it is whole."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self._events):
            self._events.append(self._read())
        sent = [event["params"] for event in self._events if event.get("method") == "Network.requestWillBeSent"]
        self.seen = [request["request"]["url"] for request in sent]

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def picture(self, whole: bool = True) -> bytes:
        """A PNG of the page, or of what the window shows of it."""
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"])

    def _read(self) -> dict[str, Any]:
        found = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("Chromium has ended")
            found += byte
        return json.loads(found)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser that ends with the block. Raises FileNotFoundError where none is installed."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        raise FileNotFoundError(f"none of {', '.join(NAMES)} is on the PATH: apt-get install chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe"]
        process = subprocess.Popen(
            ["sh", "-c", PIPES, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        try:
            browser = Browser(process.stdin, process.stdout)
            yield browser
            browser.call("Browser.close")
        finally:
            watchdog.cancel()
            process.kill()
            process.communicate()
