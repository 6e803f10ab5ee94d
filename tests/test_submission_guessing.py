"""Guessing logins: each failure is answered later than the one before, and at last none is tried."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from core.clock import system_clock
from core.services.credential_use import CredentialUse
from core.store.db import Database
from inbound.submission import logins
from inbound.submission.logins import MAX_FAILURES, Logins
from tests.gateway import Gateway, running_gateway
from tests.smtp_client import stuffed
from tests.submission_support import MAIL, encoded, logged_in, plain, secured

WRONG = "535 5.7.8 Authentication credentials invalid"
TARPIT_S = 0.3
FAILURES = 6
OK = "235 2.7.0 Authentication successful"
_addresses = (f"127.0.{high}.{low}" for high in range(1, 255) for low in range(1, 255))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running_gateway(tmp_path_factory.mktemp("login"), "submission", PILLARBOX_TARPIT_MS="0") as started:
        yield started
        assert "Traceback" not in started.log()
        assert "never retrieved" not in started.log()
        assert started.account.smtp_password not in started.log()
        assert encoded(started.account.smtp_password) not in started.log()


@pytest.fixture
def source() -> str:
    """A loopback address of this test's own, so that its failures count for no other."""
    return next(_addresses)


def right(gateway: Gateway) -> str:
    return plain(gateway.account.smtp_username, gateway.account.smtp_password)


def test_after_so_many_failures_no_login_from_there_is_tried(gateway: Gateway, source: str) -> None:
    for number in range(MAX_FAILURES):
        with closing(secured(gateway.submission_port, source)) as client:  # a session each: the address counts
            assert client.ask(f"AUTH PLAIN {plain(gateway.account.smtp_username, f'guess{number}')}") == WRONG
    with closing(secured(gateway.submission_port, source)) as client:
        client.send(f"AUTH PLAIN {right(gateway)}\r\n".encode())
        assert client.rest() == "421 4.7.0 Too many failed logins from your address; try again later"
    with closing(secured(gateway.submission_port, next(_addresses))) as client:
        assert client.ask(f"AUTH PLAIN {right(gateway)}") == OK


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_guesses_whose_answer_nobody_waits_for_count_too(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()

    def slowly(*_: object) -> None:
        assert answers.wait(20)

    async def guess_and_hang_up() -> int:
        guessing = asyncio.create_task(doorkeeper.open("192.0.2.7", "somebody", "guess"))
        await asyncio.sleep(0)
        guessing.cancel()
        await asyncio.wait([guessing])
        answers.set()
        while not doorkeeper.failures("192.0.2.7"):
            await asyncio.sleep(0.001)
        return doorkeeper.failures("192.0.2.7")

    monkeypatch.setattr(logins, "find_credential", slowly)
    doorkeeper = Logins(database, CredentialUse(database, system_clock), system_clock)
    assert asyncio.run(asyncio.wait_for(guess_and_hang_up(), 10)) == 1
    doorkeeper.stop()


def test_who_is_logged_in_goes_on_when_others_from_there_fail(gateway: Gateway, source: str) -> None:
    with closing(logged_in(gateway.submission_port, gateway.account, source)) as good:
        for _ in range(MAX_FAILURES):
            with closing(secured(gateway.submission_port, source)) as client:
                client.ask(f"AUTH PLAIN {plain('a', 'b')}")
        good.begin_data("one@example.org")
        good.send(stuffed(MAIL))
        assert good.reply().startswith("250 Thanks! Queued as: ")


def test_each_failure_is_answered_later_than_the_one_before_in_new_sessions_too(tmp_path: Path) -> None:
    with running_gateway(tmp_path, "submission", PILLARBOX_TARPIT_MS=f"{TARPIT_S * 1000:.0f}") as gateway:
        took = []
        for _ in range(FAILURES):
            with closing(secured(gateway.submission_port)) as client:
                begun = time.monotonic()
                assert client.ask(f"AUTH PLAIN {plain('a', 'b')}") == WRONG
                took.append(time.monotonic() - begun)
        assert [took[number] > TARPIT_S * (number + 1) - 0.01 for number in range(FAILURES)] == [True] * FAILURES
        begun = time.monotonic()
        with closing(logged_in(gateway.submission_port, gateway.account)):
            # Who knows the password does not wait: the next failure would have been answered no sooner than this.
            assert time.monotonic() - begun < TARPIT_S * (FAILURES + 1)
