"""`pillarbox up` as an operator runs it: one process in the foreground, its children found in /proc."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from core.config import Settings, load_settings
from tests.ports import free_port

ROOT = Path(__file__).parents[1]
READY_S = 40.0
POLL_S = 0.02
PILLARBOX = [sys.executable, "-P", "-m", "cli.main"]


@dataclass
class Up:
    """A running `pillarbox up`."""

    settings: Settings
    environment: dict[str, str]
    log_path: Path
    process: subprocess.Popen[bytes]

    # --- processes ---

    def log(self) -> str:
        """What it and its children have printed and logged."""
        return self.log_path.read_text(errors="replace")

    def wait_until_ready(self) -> None:
        """Wait for the banner."""
        wait_until(lambda: "Pillarbox is ready." in self.log() or self.process.poll() is not None, READY_S, self.log)
        assert self.process.poll() is None, f"up ended at once:\n{self.log()[-3000:]}"

    def pids(self, role: str) -> list[int]:
        """The children that are `redis`, `smtp`, `submission`, `worker`, `web` or `scheduler`; no grandchildren."""
        return [pid for pid in _children(self.process.pid) if _role(pid) == role]

    def kill_one(self, role: str, timeout: float = 20.0) -> None:
        """`kill -9` a child, as soon as there is one."""
        wait_until(lambda: bool(self.pids(role)), timeout, self.log)
        pid = self.pids(role)[0]
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), timeout, self.log)  # only then are its sockets closed

    def send_signal(self, signum: signal.Signals) -> None:
        """Signal the foreground process only."""
        self.process.send_signal(signum)

    def stop(self, timeout: float = 15.0) -> int:
        """End it as an operator would; its exit status."""
        self.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def remaining_processes(self) -> list[str]:
        """Everything alive that was started with our data folder, whoever its parent is by now."""
        return [f"{pid} {_command(pid)}" for pid in processes_of(self.environment["PILLARBOX_DATA"])]

    # --- use ---

    def credentials(self) -> dict[str, Any]:
        """What `credentials.json` says."""
        made: dict[str, Any] = json.loads((self.settings.data / "credentials.json").read_text())
        return made

    def api(self, method: str, path: str, **arguments: Any) -> requests.Response:
        """Call the API of the default account."""
        keys = self.credentials()
        url = f"{keys['api_url']}/api/v0.1/{keys['account_id']}/{path}"
        headers = {"Authorization": f"Bearer {keys['api_key']}"}
        return requests.request(method, url, headers=headers, timeout=20, **arguments)

    def add_address(self, target: str) -> str:
        """An address made over the API; gives its mailbox."""
        answer = self.api("POST", "addresses", json={"target": target, "target_format": "json+n"})
        assert answer.status_code == 201, answer.text
        return f"{answer.json()['id']}@{self.settings.domain}"

    def health(self) -> tuple[int, list[str]]:
        """The status of /healthz and the parts that are not well; 0 when nobody answers."""
        try:
            answer = requests.get(f"{self.settings.api_url}/healthz", timeout=20)
        except requests.ConnectionError:
            return 0, ["web"]
        return answer.status_code, [name for name, check in answer.json()["checks"].items() if not check["ok"]]


@contextmanager
def running_up(folder: Path, **environment: str) -> Iterator[Up]:
    """Start it on the data folder inside `folder` and wait until it is ready; nothing of it is left afterwards."""
    up = start_up(folder, **environment)
    try:
        up.wait_until_ready()
        yield up
    finally:
        end(up)


def start_up(folder: Path, **environment: str) -> Up:
    """Start it, without waiting."""
    given = {
        "PILLARBOX_DATA": str(folder / "data"),
        "PILLARBOX_SMTP": f"127.0.0.1:{free_port()}",
        "PILLARBOX_HTTP": f"127.0.0.1:{free_port()}",
        "PILLARBOX_SUBMISSION": f"127.0.0.1:{free_port()}",
        "PILLARBOX_SUBMISSION_TLS": f"127.0.0.1:{free_port()}",
        **environment,
    }
    complete = {**clean_environment(), **given}
    log_path = folder / "up.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen([*PILLARBOX, "up"], env=complete, cwd=folder, stdout=log, stderr=log)
    return Up(load_settings(given), complete, log_path, process)


def end(up: Up) -> None:
    """End whatever is left."""
    if up.process.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            up.stop()
    if up.process.poll() is None:
        up.process.kill()
        up.process.wait()
    for pid in processes_of(up.environment["PILLARBOX_DATA"]):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def clean_environment() -> dict[str, str]:
    """Ours, without settings of a gateway."""
    settings = ("PILLARBOX_", "DATABASE_URL", "REDIS_URL", "BLOB_URL")
    return {name: value for name, value in os.environ.items() if not name.startswith(settings)}


def wait_until(condition: Callable[[], bool], timeout: float, explain: Callable[[], object] = lambda: "") -> None:
    """Poll until something holds; fails with an explanation."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"still not so after {timeout} s\n{str(explain())[-4000:]}"
        time.sleep(POLL_S)


def processes_of(data: str) -> list[int]:
    """The processes whose environment names this data folder, and its Redis, which overwrites its environment."""
    others = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return [pid for pid in others if pid != os.getpid() and _belongs_to(pid, data)]


def _belongs_to(pid: int, data: str) -> bool:
    with suppress(OSError):  # ended meanwhile, or not ours to look into
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        is_redis = f"{data}/redis.sock" in _command(pid)
        return (is_redis or f"PILLARBOX_DATA={data}".encode() in variables) and _state(pid) != "Z"
    return False


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def _role(pid: int) -> str:
    command = _command(pid)
    if "redis-server" in command:
        return "redis"
    return command.rpartition(" ")[2] if " cli.main " in command else ""
