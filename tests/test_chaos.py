"""Faults of the environment, one after the other in an order that the seed says, while mail comes in: what was answered
250 arrives, and nothing is left half done."""

from __future__ import annotations

import json
import os
import random
import signal
import smtplib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from tests.gateway import Gateway, running_gateway
from tests.http_target import HttpTarget, running_target
from workers.doorbell import open_redis

SEED = int(os.environ.get("CHAOS_SEED", "1"))
FAULTS = 6
"""Of those there are; another seed chooses others, in another order."""
SENDERS = 3
PAUSE_S = 0.05
"""Between the mails of one sender, and before it tries again."""
FAULT_S = 1.5
BETWEEN_S = 0.5
DRAIN_S = 60.0
CUT_ALL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"
LEFT = "SELECT id, state, lease_token, due_ms FROM delivery WHERE state <> 'delivered' OR lease_token IS NOT NULL"
SERVING = ("smtp", "worker", "scheduler")


@dataclass
class Senders:
    """Send mail, each with a subject of its own, until they are told to stop."""

    gateway: Gateway
    mailbox: str
    taken: list[str] = field(default_factory=list)
    """Subjects of mail that was answered 250."""
    refused: list[str] = field(default_factory=list)
    """Answers that were for good."""
    _is_over: threading.Event = field(default_factory=threading.Event)

    def run(self, name: int) -> None:
        """One sender."""
        number = 0
        while not self._is_over.wait(PAUSE_S):
            number += 1
            subject = f"mail-{name}-{number}"
            try:
                self.gateway.send(self.mailbox, f"From: a@example.com\r\nSubject: {subject}\r\n\r\nHi.\r\n".encode())
                self.taken.append(subject)
            except smtplib.SMTPRecipientsRefused as error:
                self.refused += [str(answer) for answer in error.recipients.values() if answer[0] >= 500]
            except smtplib.SMTPResponseException as error:
                self.refused += [str(error)] if error.smtp_code >= 500 else []
            except (OSError, smtplib.SMTPException):
                pass  # nobody answered

    @contextmanager
    def sending(self) -> Iterator[None]:
        """While the block runs."""
        threads = [threading.Thread(target=self.run, args=(name,), daemon=True) for name in range(SENDERS)]
        for thread in threads:
            thread.start()
        yield
        self._is_over.set()
        for thread in threads:
            thread.join(DRAIN_S)


@dataclass
class Chaos:
    """What can happen to a gateway."""

    gateway: Gateway

    def faults(self) -> dict[str, Callable[[], None]]:
        """By name."""
        processes = {
            f"{what} {name}": lambda name=name, do=do: do(name)
            for name in (*SERVING, "redis")
            for what, do in (("kill", self._kill), ("hang", self._hang))
        }
        return {**processes, "empty redis": self._empty_redis, "full redis": self._fill_redis, "database": self._cut}

    def _kill(self, name: str) -> None:
        self.gateway.kill(name)
        time.sleep(FAULT_S / 3)
        self.gateway.start(name)

    def _hang(self, name: str) -> None:
        pid = self.gateway.processes[name].pid
        os.kill(pid, signal.SIGSTOP)
        time.sleep(FAULT_S)
        os.kill(pid, signal.SIGCONT)

    def _empty_redis(self) -> None:
        for _ in range(5):
            open_redis(self.gateway.settings.redis_location).flushall()
            time.sleep(FAULT_S / 10)

    def _fill_redis(self) -> None:
        redis = open_redis(self.gateway.settings.redis_location)
        redis.config_set("maxmemory", 1)
        time.sleep(FAULT_S)
        redis.config_set("maxmemory", 64 * 1024 * 1024)

    def _cut(self) -> None:
        """On PostgreSQL every connection is cut, again and again; a SQLite file is locked by somebody else."""
        url = self.gateway.settings.database_location
        if self.gateway.database.is_postgres:
            for _ in range(5):
                with psycopg.connect(url, autocommit=True) as control:
                    control.execute(CUT_ALL)
                time.sleep(FAULT_S / 5)
            return
        other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, timeout=DRAIN_S)
        other.execute("BEGIN IMMEDIATE")
        time.sleep(FAULT_S)
        other.execute("ROLLBACK")
        other.close()


@pytest.fixture
def target() -> Iterator[HttpTarget]:
    with running_target() as started:
        yield started


def test_what_was_taken_arrives_whatever_happens(tmp_path: Path, database_url: str, target: HttpTarget) -> None:
    with running_gateway(tmp_path, database_url=database_url) as gateway:
        senders = Senders(gateway, gateway.add_address(target.url()))
        seed = f"{SEED} {gateway.database.is_postgres}"
        faults = random.Random(seed).sample(sorted(Chaos(gateway).faults().items()), FAULTS)
        print(f"CHAOS_SEED={SEED}:", [name for name, _ in faults])
        with senders.sending():
            for _, fault in faults:
                fault()
                time.sleep(BETWEEN_S)
        wait_for(lambda: set(senders.taken) <= arrived(target), lambda: set(senders.taken) - arrived(target))
        wait_for(lambda: left(gateway) == [], lambda: left(gateway))
        assert senders.refused == []
        assert len(senders.taken) > len(faults)
        assert "Traceback" not in gateway.log()
        assert [name for name, process in gateway.processes.items() if process.poll() is not None] == []


def arrived(target: HttpTarget) -> set[str]:
    return {json.loads(request.body)["headers"]["subject"] for request in list(target.received)}


def left(gateway: Gateway) -> list[object]:
    try:
        with gateway.database.reading():
            return list(gateway.database.execute(LEFT))
    except Exception as error:  # our connection was cut too
        return [error]


def wait_for(condition: Callable[[], bool], explain: Callable[[], object]) -> None:
    deadline = time.monotonic() + DRAIN_S
    while not condition():
        assert time.monotonic() < deadline, str(explain())[:3000]
        time.sleep(0.05)
