"""A headless browser, driven through two pipes by Chrome's DevTools protocol: no library, no port, no network."""

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # containers run tests as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--remote-debugging-pipe",
)
# The browser reads its commands from descriptor 3 and answers on 4.
LAUNCH = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(word), fcntl.F_DUPFD, 10) for word in sys.argv[1:3]]
os.dup2(pipes[0], 3)
os.dup2(pipes[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
LIMIT = 300  # seconds of a browser, which hangs after that


class Tab:
    """One tab; whatever it logs or throws, and whatever it asks the network for, is kept."""

    def __init__(self, commands: BinaryIO, answers: BinaryIO) -> None:
        self._out, self._in = commands, answers
        self._number, self._session, self._rest = 0, "", b""
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """A command and its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        self._out.write(json.dumps(message | ({"sessionId": self._session} if self._session else {})).encode() + b"\0")
        while True:
            message = self._read()
            if message.get("id") == self._number:
                assert "error" not in message, (method, message)
                return message["result"]

    def _read(self) -> dict[str, Any]:
        """The next answer or event; events are kept."""
        while b"\0" not in self._rest:
            content = self._in.read1(2**16)
            assert content, "the browser has gone"
            self._rest += content
        one, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(one)
        if "method" in message:
            self.events.append(message)
        return message

    def open(self, page: Path, width: int, scheme: str, height: int = 900) -> None:
        """Load a page as a screen of some CSS pixels sees it, light or dark."""
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        self.events.clear()
        self.send("Page.navigate", url=page.absolute().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self._read()

    def ask(self, script: str) -> Any:
        """What a JavaScript expression gives, promises awaited."""
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def complaints(self) -> list[dict[str, Any]]:
        """What stood in the console since the page was opened, refusals of its policy and exceptions among it."""
        kinds = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [event for event in self.events if event.get("method") in kinds]

    def requests(self) -> list[str]:
        """What the page asked for, itself among it."""
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def picture(self, path: Path, whole: bool = False) -> None:
        """A PNG of what is on the screen, or of the whole page."""
        answer = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))


@contextmanager
def browser(folder: Path) -> Iterator[Tab]:
    """A tab of a browser whose profile lies in `folder`; skips the test where there is no browser."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("needs a browser such as Debian's chromium, which is not here")
    theirs, commands = os.pipe()
    answers, ours = os.pipe()
    words = [sys.executable, "-c", LAUNCH, str(theirs), str(ours), found, *FLAGS, f"--user-data-dir={folder}"]
    process = subprocess.Popen(words, pass_fds=(theirs, ours), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(theirs)
    os.close(ours)
    limit = threading.Timer(LIMIT, process.kill)
    limit.start()
    try:
        with os.fdopen(commands, "wb", buffering=0) as out, os.fdopen(answers, "rb") as back:
            yield Tab(out, back)
    finally:
        limit.cancel()
        process.kill()
        process.wait()
