"""A web server as it runs in production: gunicorn in processes of its own, configured by the environment."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PROGRAM = """
from core.config import load_settings
from web.server import serve

class SilentBell:
    def __init__(self, redis_url):
        pass

    def ring(self, kind):
        pass

serve(load_settings(), SilentBell)
"""


@dataclass
class WebProcess:
    """A running server."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def stop(self, timeout: float) -> int:
        """SIGTERM, then wait for the end; the exit status. Raises `subprocess.TimeoutExpired`."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


@contextmanager
def running_web(folder: Path, database_url: str, **environment: str) -> Iterator[WebProcess]:
    """Start a server over a migrated database; end it afterwards whatever happened."""
    port = free_port()
    folder.mkdir(exist_ok=True)
    variables = {
        "PILLARBOX_HTTP": f"127.0.0.1:{port}",
        "PILLARBOX_DATA": str(folder),
        "PILLARBOX_MX_CHECK": "off",
        "DATABASE_URL": database_url,
        **environment,
    }
    log = folder / "web.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], cwd=PROJECT, env={**os.environ, **variables}, stderr=output
        )
    try:
        _wait_until_listening(port, process, log)
        yield WebProcess(port, process, log)
    finally:
        process.kill() if process.poll() is None else None
        process.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_listening(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"the web server did not start: {log.read_text()}")
