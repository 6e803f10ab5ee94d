"""A running gateway for tests: the real processes, each startable, killable and startable again."""

from __future__ import annotations

import os
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from cli.redis_server import redis_command
from cli.setup import prepare
from core.clock import system_clock
from core.config import Settings, load_settings
from core.formats import TargetFormat
from core.ids import new_address_id, new_domain_id, new_signing_secret
from core.services.accounts import NewAccount, create_account
from core.store.db import Database, Row
from core.store.models import Address, CustomDomain
from tests.ports import free_port
from workers.doorbell import open_redis

ROOT = Path(__file__).parents[1]
START_S = 30.0
STOP_S = 12.0


@dataclass
class Gateway:
    """The processes of one gateway and ways to look into it."""

    settings: Settings
    environment: dict[str, str]
    database: Database
    account: NewAccount
    log_path: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _logged_before: dict[str, int] = field(default_factory=dict)
    """How long the log was when a process was started."""

    # --- processes ---

    def start(self, *names: str) -> None:
        """Start `redis`, `smtp`, `submission`, `worker`, `scheduler`, `web`, and wait until they are ready."""
        for name in names:
            self._launch(name)
            if name == "redis":  # all others need it
                self._wait_until_ready(name)
        for name in names:
            self._wait_until_ready(name)

    def _launch(self, name: str) -> None:
        self._logged_before[name] = len(self.log()) if self.log_path.exists() else 0
        command = redis_command(self.settings) if name == "redis" else [sys.executable, "-m", "cli.main", name]
        with self.log_path.open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, env=self.environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self, name: str) -> None:
        """End a process and its children as a power cut would."""
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self, name: str) -> int:
        """End a process as an operator would; its exit status."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(STOP_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def stop_all(self) -> None:
        """End everything that runs, Redis last."""
        for name in sorted(self.processes, key="redis".__eq__):
            with suppress(subprocess.TimeoutExpired):
                self.stop(name)

    def log(self) -> str:
        """What the processes have logged."""
        return self.log_path.read_text(errors="replace")

    def _wait_until_ready(self, name: str) -> None:
        deadline = time.monotonic() + START_S
        while not self._is_ready(name):
            assert self.processes[name].poll() is None, f"{name} ended at once:\n{self.log()[-3000:]}"
            assert time.monotonic() < deadline, f"{name} is not ready after {START_S} s:\n{self.log()[-3000:]}"
            time.sleep(0.02)

    def _is_ready(self, name: str) -> bool:
        if name == "smtp":
            return _listens(self.settings.smtp.port, self.settings.smtp.reachable_host)
        if name == "submission":
            return _listens(self.submission_port) and _listens(self.submission_tls_port)
        if name == "web":
            return _listens(self.settings.http.port)
        if name == "redis":
            with suppress(Exception):
                return bool(open_redis(self.settings.redis_location).ping())
            return False
        pid = self.processes[name].pid
        event = {"worker": "event=delivering", "scheduler": "event=sweeping"}[name]
        return event in self.log()[self._logged_before[name] :] and Path(f"/proc/{pid}").exists()

    # --- what is configured ---

    def add_address(self, target: str, target_format: TargetFormat = TargetFormat.JSON_N, **fields: Any) -> str:
        """An address; gives its mailbox."""
        made = new_address_id()
        now = system_clock()
        with self.database.transaction():
            Address.create(
                id=made, account=self.account.account_id, target=target, target_format=target_format,
                secret=new_signing_secret(), created_ms=now, updated_ms=now, **fields,
            )  # fmt: skip
        return f"{made}@{self.settings.domain}"

    def add_domain(self, mailbox: str, domain: str, **fields: Any) -> str:
        """A custom domain for the address of a mailbox; gives its id."""
        made = new_domain_id()
        with self.database.transaction():
            address_id = mailbox.partition("@")[0]
            CustomDomain.create(id=made, address=address_id, domain=domain, created_ms=system_clock(), **fields)
        return made

    # --- the API ---

    def api(self, method: str, path: str, expected: int = 200, **body: Any) -> Any:
        """Call the API as the account; gives the JSON of the answer."""
        response = requests.request(
            method,
            f"{self.settings.api_url}/api/v0.1/{self.account.account_id}{path}",
            headers={"Authorization": f"Bearer {self.account.api_key}"},
            json=body or None,
            timeout=20,
        )
        assert response.status_code == expected, response.text
        return response.json()

    # --- mail ---

    def connect(self, timeout: float = 20.0) -> smtplib.SMTP:
        """An SMTP client, greeted."""
        where = self.settings.smtp
        client = smtplib.SMTP(where.reachable_host, where.port, "client.example", timeout=timeout)
        client.ehlo()
        return client

    def send(self, recipients: str | Sequence[str], message: bytes, sender: str = "sender@example.com") -> None:
        """Send one message over a connection of its own; raises what smtplib raises."""
        with self.connect() as client:
            client.sendmail(sender, [recipients] if isinstance(recipients, str) else list(recipients), message)

    @property
    def submission_port(self) -> int:
        """Where mail is submitted with STARTTLS."""
        return self.settings.submission_places[0].port

    @property
    def submission_tls_port(self) -> int:
        """Where mail is submitted with TLS from the first byte."""
        return self.settings.submission_tls_places[0].port

    def connect_to_submit(self, timeout: float = 20.0) -> smtplib.SMTP:
        """An SMTP client of the account, within TLS and logged in."""
        client = smtplib.SMTP("127.0.0.1", self.submission_port, "client.example", timeout=timeout)
        client.starttls(context=any_certificate())
        client.login(self.account.smtp_username, self.account.smtp_password)
        return client

    def submit(self, recipients: str | Sequence[str], message: bytes, sender: str = "sender@example.com") -> None:
        """Submit one message as the account; raises what smtplib raises."""
        with self.connect_to_submit() as client:
            client.sendmail(sender, [recipients] if isinstance(recipients, str) else list(recipients), message)

    # --- what became of it ---

    def deliveries(self) -> list[Row]:
        """State, attempts, last status and last error of each delivery, oldest first."""
        with self.database.reading():
            return self.database.execute("SELECT state, attempts, last_status, last_error FROM delivery ORDER BY id")

    def wait_until(self, query: str, timeout: float = 30.0) -> list[Row]:
        """Wait until a query finds something."""
        deadline = time.monotonic() + timeout
        while True:
            with self.database.reading():
                rows = self.database.execute(query)
            if rows:
                return rows
            assert time.monotonic() < deadline, f"nothing found by {query}\n{self.deliveries()}\n{self.log()[-3000:]}"
            time.sleep(0.02)

    def wait_for_states(self, *states: str, timeout: float = 30.0) -> list[Row]:
        """Wait until the deliveries have exactly these states, oldest first."""
        deadline = time.monotonic() + timeout
        while (rows := self.deliveries()) is not None:
            if [row[0] for row in rows] == list(states):
                return rows
            assert time.monotonic() < deadline, f"deliveries are {rows}, not {states}\n{self.log()[-3000:]}"
            time.sleep(0.02)
        raise AssertionError


@contextmanager
def running_gateway(
    folder: Path, *names: str, database_url: str | None = None, **environment: str
) -> Iterator[Gateway]:
    """A gateway with these processes running; by default receiver, worker and scheduler with their Redis."""
    gateway = make_gateway(folder, database_url, **environment)
    try:
        gateway.start(*names or ("redis", "smtp", "worker", "scheduler"))
        yield gateway
    finally:
        gateway.stop_all()
        gateway.database.close()


def make_gateway(folder: Path, database_url: str | None = None, **environment: str) -> Gateway:
    """A gateway that is set up, with nothing running yet."""
    given = {
        "PILLARBOX_DATA": str(folder / "data"),
        "PILLARBOX_SMTP": f"127.0.0.1:{free_port()}",
        "PILLARBOX_HTTP": f"127.0.0.1:{free_port()}",
        "PILLARBOX_SUBMISSION": f"127.0.0.1:{free_port()}",
        "PILLARBOX_SUBMISSION_TLS": f"127.0.0.1:{free_port()}",
        **({"DATABASE_URL": database_url} if database_url else {}),
        **environment,
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PILLARBOX_")}
    settings = load_settings(given)
    database = prepare(settings)
    return Gateway(
        settings=settings,
        environment={**inherited, **given},
        database=database,
        account=create_account(database, "test", system_clock()),
        log_path=folder / "gateway.log",
    )


def any_certificate() -> ssl.SSLContext:
    """A client's context that takes the self-signed certificate of a gateway."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _listens(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0
