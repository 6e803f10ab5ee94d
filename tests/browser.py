"""A real browser in the hands of a test: Chromium, over the pipe of its DevTools protocol, with nothing between."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.programs import find_program, missing

TIMEOUT_S = 60
_READS, _WRITES = 3, 4
"""The descriptors on which Chromium reads commands and writes answers."""


class Browser:
    """One page."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands = commands
        self._answers = answers
        self._buffer = b""
        self._count = 0
        self._has_loaded = False
        self._session: str | None = None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._call("Page.enable")

    def open(self, url: str) -> None:
        """Go there, and wait until the page has loaded."""
        self._call("Page.navigate", url=url)
        self._wait_until_loaded()

    def press(self, selector: str) -> None:
        """Press a button that leads to another page, and wait for that."""
        self.run(f"document.querySelector({json.dumps(selector)}).click()")
        self._wait_until_loaded()

    def run(self, script: str) -> Any:
        """The value of an expression in the page, whatever policy the page has."""
        return self._call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def text(self) -> str:
        """What the page shows."""
        return str(self.run("document.body.innerText"))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        command: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._count:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self._seen(message)

    def _seen(self, message: dict[str, Any]) -> None:
        self._has_loaded |= message.get("method") == "Page.loadEventFired"

    def _wait_until_loaded(self) -> None:
        while not self._has_loaded:
            self._seen(self._next())
        self._has_loaded = False

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            read = os.read(self._answers, 65_536)
            assert read, "the browser has ended"
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message


@contextmanager
def running_browser(folder: Path, *more: str) -> Iterator[Browser]:
    """Start a browser with an empty profile, and more options if any; skip where there is none."""
    program = find_program("chromium")
    if program is None:
        missing("chromium is not installed (Debian package chromium)")
    theirs_in, commands = os.pipe()
    answers, theirs_out = os.pipe()
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--remote-debugging-pipe",
        f"--user-data-dir={folder}",
    ]
    wired = f'exec "$0" "$@" {_READS}<&{theirs_in} {_WRITES}>&{theirs_out}'
    process = subprocess.Popen(
        ["/bin/bash", "-c", wired, str(program), *options, *more],
        pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Browser(commands, answers)
    finally:
        process.kill()
        process.wait()
        os.close(commands)
        os.close(answers)
